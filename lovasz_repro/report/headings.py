"""Section headings, made from the numbers: what was found, or that nothing can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lovasz_repro.analysis.claims import LOVASZ, Claim
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import UNTRAINED
from lovasz_repro.report.document import capital, listed, percent
from lovasz_repro.report.prose import UNTRAINED_ROWS, parts_of_gain, the, with_interval
from lovasz_repro.words import count, points


def answer(differences: pd.DataFrame, claims: Sequence[Claim]) -> str:
    """The gain of the Lovász hinge, and the verdict on the paper's first claim."""
    verdict = next(claim.verdict for claim in claims if claim.key == "best_image_iou")
    rows = differences[(differences["loss"] == LOVASZ) & (differences["categories"] > 0)]
    if rows.empty:
        return "The Lovász hinge cannot be compared to cross-entropy yet"
    return (
        f"The Lovász hinge against cross-entropy: {with_interval(rows.iloc[0])} of image-IoU; the "
        f"paper’s claim is {verdict}"
    )


def practice(tried: pd.DataFrame, costs: pd.DataFrame) -> str:
    """tried: `tuning_frame`; costs: `cost_frame`."""
    found = []
    rates = tried.loc[tried["chosen"], "lr"]
    if len(rates) > 1:
        factor = rates.max() / rates.min()
        found.append(
            f"the chosen learning rates differ by a factor of {factor:.3g}"
            if factor > 1
            else f"the chosen learning rate is {rates.iloc[0]:g} everywhere"
        )
    steps = costs["seconds_per_step"]
    if {LOVASZ, REFERENCE} <= set(steps.dropna().index):
        found.append(
            f"a step under the Lovász hinge takes {steps[LOVASZ] / steps[REFERENCE]:.2f} times as "
            "long as under cross-entropy"
        )
    text = "; ".join(found) or "how learning rates were chosen and what cells cost is not recorded"
    return capital(text)


def headline(rows: pd.DataFrame) -> str:
    """The highest image-IoU, and that of the network before fine-tuning."""
    trained = rows[~rows["row"].isin(UNTRAINED_ROWS)].dropna(subset="value")
    if trained.empty:
        return "The image-IoU of the losses cannot be set side by side"
    best = trained.loc[trained["value"].idxmax()]
    text = f"{the(best['row'])} has the highest image-IoU, {percent(best['value'])}\u00a0%"
    base = rows[rows["row"] == UNTRAINED].dropna(subset="value")
    if len(base):
        text += f"; before fine-tuning it is {percent(base['value'].iloc[0])}\u00a0%"
    return capital(text)


def training(table: pd.DataFrame) -> str:
    """How much image-IoU changes at the end of training. table: loss, measure, step, middle."""
    rows = table[(table["measure"] == "image_iou") & (table["loss"] == LOVASZ)]
    if len(rows) < 2:
        return "Too few validations of the Lovász hinge to say whether it still moves"
    before, last = rows.iloc[-2], rows.iloc[-1]
    change = points((last["middle"] - before["middle"]) / 100)
    span = int(last["step"] - before["step"])
    return (
        f"In the last {count(span, 'step')} image-IoU under the Lovász hinge moves by {change} "
        "points"
    )


def sources(parts: pd.DataFrame) -> str:
    """parts: `decomposition`."""
    gain = parts_of_gain(parts)["difference"]
    if gain.empty:
        return "No gain of the Lovász hinge that could be taken apart"
    return (
        f"The Lovász hinge’s {points(gain['gain'])} points: {points(gain['present'])} from "
        f"images with the category, {points(gain['absent'])} from images without it"
    )


def operating(parts: pd.DataFrame) -> str:
    """parts: `decomposition`."""
    gain = parts_of_gain(parts)["difference"]
    if gain.empty:
        return "No gain of the Lovász hinge to set beside chosen thresholds"
    return (
        "A chosen threshold changes the Lovász hinge’s gain by "
        f"{points(-gain['operating_point'])} points, to {points(gain['both_chosen'])}"
    )


def prevalence(table: pd.DataFrame, share: float) -> str:
    """The loss with the highest gain at a share of images with the category."""
    rows = table[(table["share"] == share) & (table["loss"] != UNTRAINED)]
    if rows.empty:
        return "No gain to set against the share of images with the category"
    best = rows.loc[rows["difference"].idxmax()]
    if not best["low"] > 0:
        text = (
            f"At {100 * share:g}\u00a0% of images with the category no loss is clearly ahead of "
            "cross-entropy"
        )
        own = rows[(rows["loss"] == LOVASZ) & (rows["high"] < 0)]
        if len(own):
            text += f"; the Lovász hinge’s difference to it is {with_interval(own.iloc[0])}"
        return text
    return (
        f"At {100 * share:g}\u00a0% of images with the category {the(best['loss'])} is ahead, by "
        f"{with_interval(best)}"
    )


def pixels(table: pd.DataFrame) -> str:
    """table: `gap_filling`."""
    rows = table[table["loss"] == LOVASZ].set_index("measure")["difference"]
    if not {"missed", "false"} <= set(rows.index):
        return "Missed and false pixels of the Lovász hinge cannot be compared"
    return (
        "On images with the category the Lovász hinge changes the missed share by "
        f"{points(rows['missed'])} points and the false share by {points(rows['false'])}"
    )


def by_category(pairs: pd.DataFrame) -> str:
    """pairs: `differences` of the Lovász hinge."""
    if pairs.empty:
        return "In no category can the Lovász hinge be compared to cross-entropy"
    sides = pairs["low"] > 0, pairs["high"] < 0
    holm = pairs["p_holm"] < 0.05
    (up, sure_up), (down, sure_down) = ((side.sum(), (side & holm).sum()) for side in sides)
    return (
        f"The Lovász hinge is ahead of cross-entropy in {up} of {count(len(pairs), 'category')}, "
        f"behind in {down}; after Holm in {sure_up} and {sure_down}"
    )


def agreement(table: pd.DataFrame) -> str:
    """What the comparison page opens with: whether the experiments agree about the Lovász hinge.
    Empty for fewer than two. table: `mean_differences`, experiment and subset."""
    rows = table[table["loss"] == LOVASZ]
    whole, present = (rows[rows["subset"] == name] for name in ("all", "present"))
    if len(whole) < 2:
        return ""
    text = f"On all images {_signs(whole)}."
    if len(present):
        text += f" On images with the category {_signs(present)}: {each(present)}."
    return text


def each(rows: pd.DataFrame) -> str:
    return listed([f"{with_interval(row)} in {row['experiment']}" for _, row in rows.iterrows()])


def _signs(rows: pd.DataFrame) -> str:
    sides = rows["low"] > 0, rows["high"] < 0
    above, below, open_in = (
        listed(rows.loc[side, "experiment"].astype(str))
        for side in (*sides, ~(sides[0] | sides[1]))
    )
    if above and below:
        text = f"the gain over cross-entropy is above zero in {above}, below in {below}"
        return text + (f", and its interval includes zero in {open_in}" if open_in else "")
    signs = set(np.sign(rows["difference"]))
    text = "the sign of the gain over cross-entropy is not the same in every experiment"
    if len(signs) == 1:
        word = {1.0: "positive", 0.0: "zero", -1.0: "negative"}[signs.pop()]
        text = f"the gain over cross-entropy is {word} in every experiment"
    if open_in:
        text += f", with an interval that includes zero in {open_in}"
    return text


def base_strength(table: pd.DataFrame) -> str:
    """For the comparison page. table: experiment, loss, difference, chosen (the base's level)."""
    if table.empty or LOVASZ not in set(table["loss"]):
        return "The gain cannot be set against the strength of the base network"
    rows = table[table["loss"] == LOVASZ].sort_values("chosen", kind="stable")
    found = [
        f"{points(row.difference)} points from a base at {percent(row.chosen)}\u00a0%"
        for row in rows.itertuples()
    ]
    return f"The Lovász hinge gains {listed(found)}"
