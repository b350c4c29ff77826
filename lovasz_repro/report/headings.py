"""Section headings, made from the numbers: what was found, or that nothing can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lovasz_repro.analysis.claims import LOVASZ, Claim
from lovasz_repro.analysis.prevalence import NATURAL
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


def practice(tried: pd.DataFrame) -> str:
    """tried: `tuning_frame`."""
    rates = tried.loc[tried["chosen"], "lr"]
    if len(rates) < 2:
        return "Learning rates and costs"
    if rates.min() == rates.max():
        return f"The chosen learning rate is {rates.iloc[0]:g} everywhere"
    return f"The chosen learning rates differ by a factor of {rates.max() / rates.min():.3g}"


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
    """How much image-IoU changes at the end of training. table: loss, measure, step, mean."""
    rows = table[(table["measure"] == "image_iou") & (table["loss"] == LOVASZ)]
    if len(rows) < 2:
        return "Too few validations of the Lovász hinge to say whether it still moves"
    before, last = rows.iloc[-2], rows.iloc[-1]
    change = points((last["mean"] - before["mean"]) / 100)
    span = int(last["step"] - before["step"])
    return (
        f"In the last {count(span, 'step')} image-IoU under the Lovász hinge moves by {change} "
        "points, mean over categories"
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


def prevalence(table: pd.DataFrame) -> str:
    """The loss with the highest gain at VOC's own share of images with the category."""
    rows = table[(table["share"] == NATURAL) & (table["loss"] != UNTRAINED)]
    if rows.empty:
        return "No gain to set against the share of images with the category"
    best = rows.loc[rows["difference"].idxmax()]
    if not best["low"] > 0:
        text = (
            f"At {100 * NATURAL:g}\u00a0% of images with the category no loss is clearly ahead of "
            "cross-entropy"
        )
        own = rows[(rows["loss"] == LOVASZ) & (rows["high"] < 0)]
        if len(own):
            text += f"; the Lovász hinge’s difference to it is {with_interval(own.iloc[0])}"
        return text
    return (
        f"At {100 * NATURAL:g}\u00a0% of images with the category {the(best['loss'])} is ahead, by "
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


def agreement(rows: pd.DataFrame) -> str:
    """In which experiments the interval of the Lovász hinge's gain is above zero, below it, or
    includes it.

    rows: experiment, low, high.
    """
    low, high = rows["low"], rows["high"]
    sides = {
        "is above zero in": low > 0,
        "is below zero in": high < 0,
        "has an interval that includes zero in": (low <= 0) & (high >= 0),
        "has no interval in": low.isna(),
    }
    found = [
        f"{text} {listed(rows.loc[side, 'experiment'])}"
        for text, side in sides.items()
        if side.any()
    ]
    return "; ".join(found)
