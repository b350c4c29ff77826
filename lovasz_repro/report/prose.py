"""The sentences of the report that are made from numbers, its headings among them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from lovasz_repro.analysis.claims import LOVASZ, Claim
from lovasz_repro.analysis.decide import SITUATIONS, Situation
from lovasz_repro.analysis.headline import BACKGROUND, UNTRAINED_TUNED
from lovasz_repro.analysis.prevalence import NATURAL
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.analysis.written import points
from lovasz_repro.records import UNTRAINED, Records
from lovasz_repro.report import quoted
from lovasz_repro.report.document import count, interval, listed, percent
from lovasz_repro.report.style import ordered, style

FOOTNOTE = f"{quoted.SIGN} The paper’s values are {quoted.MARK}."
UNTRAINED_ROWS = (UNTRAINED, UNTRAINED_TUNED, BACKGROUND)


def verdict(
    differences: pd.DataFrame, headline: pd.DataFrame, parts: pd.DataFrame,
    claims: Sequence[Claim], choices: pd.DataFrame, prevalence: pd.DataFrame, of_voc: bool = True,
) -> list[str]:  # fmt: skip
    """Three lines: what became of the paper's claim, where a gain comes from, what to use when.

    Args:
        differences, headline, parts, choices, prevalence: `mean_differences`, `headline`,
            `decomposition`, `decisions`, `prevalence_gains`.
        of_voc: whether the categories are the paper's.
    """
    claim = next(claim for claim in claims if claim.key == "best_image_iou")
    return [
        f"{_gain(differences, headline, of_voc)} {_claim(claim)}",
        _where(parts),
        f"{_use(choices)} {_natural(prevalence)}".strip(),
    ]


def _gain(differences: pd.DataFrame, headline: pd.DataFrame, of_voc: bool) -> str:
    rows = differences[(differences["loss"] == LOVASZ) & (differences["categories"] > 0)]
    if rows.empty:
        return (
            "These records do not hold one category with the same cells for the Lovász hinge and "
            "cross-entropy, so they cannot say which of the two gives the better image-IoU."
        )
    row = rows.iloc[0]
    clear = row["low"] > 0 or row["high"] < 0
    text = (
        f"Training with the Lovász hinge gives an image-IoU of {percent(row['value'])}\u00a0%, "
        f"with cross-entropy {percent(row['reference_value'])}\u00a0%, mean over "
        f"{count(int(row['categories']), 'category')}: a difference of {with_interval(row)} for "
        "categories like these"
    )
    own = headline[headline["row"] == LOVASZ].iloc[0]
    if these := interval(own["these_low"], own["these_high"], points):
        text += f", {these} for exactly these"
    text += "." if clear else ". The first interval includes zero."
    if of_voc:
        text += f" The paper’s difference is {points(quoted.gain(LOVASZ))}{quoted.SIGN}."
    return text


def _claim(claim: Claim) -> str:
    text = (
        "The paper’s claim, that the Lovász hinge is the best of cross-entropy, hinge and Lovász "
        f"hinge: {claim.verdict}"
    )
    if math.isnan(claim.effect):
        return f"{text}."
    row = {"difference": claim.effect, "low": claim.low, "high": claim.high}
    text += f"; {claim.hardest} the difference is {with_interval(row)}"
    if math.isfinite(claim.these_low):
        ends = interval(claim.these_low, claim.these_high, points)
        text += f", {ends} for exactly these categories"
    return f"{text}."


def _where(parts: pd.DataFrame) -> str:
    table = parts[parts["loss"] == LOVASZ].dropna(subset="difference").set_index("part")
    if table.empty:
        return "Where a gain would come from cannot be said from these records."
    whole, shape = table.loc["gain"], table.loc["oracle"]
    text = (
        f"Of the {points(whole['difference'])} points, images with the category bring "
        f"{with_interval(table.loc['present'])}, images without it "
        f"{with_interval(table.loc['absent'])}. With one threshold per cell, chosen on held-out "
        f"images, the difference is {with_interval(table.loc['both_chosen'])}. At the best "
        "threshold of each single image, IoU on images with the category changes by "
        f"{with_interval(shape)}"
    )
    if shape["high"] < 0:
        text += ": the masks’ shape is worse"
    elif shape["low"] <= 0:
        text += ": no better mask shape is shown"
    return f"{text}."


def with_interval(row: pd.Series | Mapping[str, float]) -> str:
    """row: difference, low, high."""
    ends = interval(row["low"], row["high"], points)
    return f"{points(row['difference'])} points {ends}".strip()


def _use(choices: pd.DataFrame) -> str:
    """Which loss has the highest mean when, in as few conditions as hold exactly, and how often
    cross-entropy and the network before fine-tuning are not told apart from it."""
    if choices.empty:
        return "Which loss to use cannot be said from these records."
    best = dict(zip(SITUATIONS, choices["loss"], strict=True))
    found = []
    for loss in ordered(best.values()):
        own = {case for case, choice in best.items() if choice == loss}
        found.append(f"{the(loss)} has the highest mean {_when(own)}")
    text = f"{'; '.join(found)}."
    text = text[0].upper() + text[1:]
    rivals = [names.split() for names in choices["not_told_apart"]]
    better = choices["untrained_better"]
    clear = {
        case
        for case, names, above in zip(SITUATIONS, rivals, better, strict=True)
        if not (names or above)
    }
    if len(clear) == len(SITUATIONS):
        return f"{text} It is told apart from every other loss in each of them."
    only = f"only {_when(clear)}" if clear else "in none of them"
    text += f" It is told apart from every other loss {only}."
    for loss in (REFERENCE, UNTRAINED):
        if cases := sum(loss in names for names in rivals):
            name = the(loss)
            text += f" {name[0].upper()}{name[1:]} is not told apart from it in {cases} of "
            text += f"{len(rivals)}."
    return text


def _when(cases: set[Situation]) -> str:
    return "; or ".join(_conditions(flags) for flags in _cover(cases))


def _natural(prevalence: pd.DataFrame) -> str:
    """What the gain is at VOC's own share of images with the category."""
    rows = prevalence[(prevalence["share"] == NATURAL) & (prevalence["loss"] == LOVASZ)]
    if rows.empty:
        return ""
    return (
        "Half of the images hold the category here. With "
        f"{100 * NATURAL:g}\u00a0%, as in VOC’s own list, the Lovász hinge’s gain over "
        f"cross-entropy would be {with_interval(rows.iloc[0])}."
    )


Flags = tuple[bool | None, bool | None, bool | None]  # None: either


def _cover(cases: set[Situation]) -> Iterator[Flags]:
    """Conditions that hold in these situations and no others, the widest first."""
    left = set(cases)
    options = (None, True, False)
    every: list[Flags] = [(a, b, c) for a in options for b in options for c in options]
    for flags in sorted(every, key=lambda flags: -flags.count(None)):
        covered = {case for case in SITUATIONS if _holds(flags, case)}
        if covered <= cases and covered & left:
            left -= covered
            yield flags


def _holds(flags: Flags, case: Situation) -> bool:
    values = (case.per_image, case.empty_images, case.tunable)
    return all(flag in (None, value) for flag, value in zip(flags, values, strict=True))


def _conditions(flags: Flags) -> str:
    texts = (
        ("IoU is averaged over images", "IoU is taken over the data set"),
        ("some images lack the category", "every image holds the category"),
        ("the threshold can be chosen", "the threshold is 0"),
    )
    parts = [
        pair[0 if flag else 1] for flag, pair in zip(flags, texts, strict=True) if flag is not None
    ]
    return f"when {listed(parts)}" if parts else "in each of the eight cases below"


def the(loss: str) -> str:
    """`the Lovász hinge`, `cross-entropy`, `the network before fine-tuning`."""
    label = style(loss).label
    if loss == UNTRAINED:
        return f"the network {label}"
    return f"the {label}" if loss == LOVASZ else label


def baselines(rows: pd.DataFrame) -> str:
    """What needs no training, and the rows of the table below it."""
    table = rows.set_index("row")["value"]
    nothing = table[BACKGROUND]
    if math.isnan(nothing):
        return ""
    text = f"Predicting nothing in any image gives {percent(nothing)}\u00a0% image-IoU"
    if UNTRAINED in table and math.isfinite(table[UNTRAINED]):
        text += f", the network before training {percent(table[UNTRAINED])}\u00a0%"
        text += (
            f", at a threshold chosen on held-out images {percent(table[UNTRAINED_TUNED])}\u00a0%"
        )
    below = [loss for loss in table.index if loss not in UNTRAINED_ROWS and table[loss] < nothing]
    if below:
        verb = "lies" if len(below) == 1 else "lie"
        text += f"; {loss_names(below)} {verb} below predicting nothing"
    return text + "."


def estimand(partitions: int, seeds: int) -> str:
    """What the two intervals of a gain speak of.

    Args:
        partitions: of the images into folds. seeds: training runs of a cell.
    """
    given = "In both, the base networks and the split into folds are given."
    if partitions > 1:
        given = (
            f"The images were parted into folds {partitions} times, each time with other base "
            "networks; both intervals hold the spread between these partitions."
        )
    return (
        "Two questions, two intervals. The first asks for the gain in categories like these, with "
        "networks and images like these: categories are the units. The second asks for the gain in "
        "these very categories: they are fixed, images (within category, fold and presence) "
        f"{random_runs(seeds, partitions)}. {given}"
    )


def random_runs(seeds: int, partitions: int = 0) -> str:
    """What an interval over images says of training runs."""
    if seeds > 1 or partitions > 1:
        return "and training runs are random"
    return "are random; each cell was trained once, so this interval lacks the spread of runs"


def choosing(table: pd.DataFrame) -> str:
    """How choosing a threshold changes the losses. table: `own_tuning` of `threshold_control`."""
    worse = int((table["high"] < 0).sum())
    if not worse:
        return ""
    return (
        f" Choosing has a cost, because few images decide: it lowers the image-IoU in {worse} of "
        f"{len(table)} rows (interval below zero). So these comparisons mix the operating point "
        "with the noise of the choice."
    )


def held_out(records: Records) -> str:
    """How many images a threshold was chosen on."""
    counts = [
        int(result["held_out_images"])
        for result in records.results.values()
        if "held_out_images" in result
    ]
    return f" ({statistics.median_low(counts)} of them in the median cell)" if counts else ""


CHOICE_OF_IMAGES = (
    "Per category, of the validation images that hold it: the one on which the Lovász hinge gains "
    "most image-IoU over cross-entropy (mean over seeds), the median, and the one on which it "
    "loses most. No image was picked by hand. Predictions are those of the first seed that has "
    "them; the thin line is the outline of the truth."
)
WITHOUT_PHOTOGRAPHS = (
    "The photographs are not part of these records, their masks are: on a plain ground a "
    "prediction shows the object’s pixels that it found (grey) and missed (yellow), and those that "
    "it marked falsely (violet)."
)


def still_falling(curves: pd.DataFrame) -> str:
    """In how many cells the training objective fell between the last two validations by more than
    one percent. curves: `Records.curves`."""
    keys = ["loss", "category", "fold", "seed"]
    trained = curves.dropna(subset="train_loss").sort_values("step", kind="stable")
    ends = trained.groupby(keys)["train_loss"].agg(
        last=lambda x: x.iloc[-1], before=lambda x: x.iloc[-2] if len(x) > 1 else float("nan")
    )
    ends = ends.dropna()
    if ends.empty:
        return ""
    falling = (ends["last"] < 0.99 * ends["before"]).groupby(level="loss").mean()
    shares = listed(
        [f"{style(x).label} {100 * falling[x]:.0f}\u00a0%" for x in ordered(falling.index)]
    )
    return (
        "Cells whose mean training objective fell by more than 1 % between the last two "
        f"validations, by loss: {shares}."
    )


def crossings(table: pd.DataFrame) -> list[str]:
    return [
        f"{100 * row.share:.0f} %: {style(row.above).label} is ahead below, "
        f"{style(row.below).label} beyond."
        for row in table.itertuples()
    ]


def common_categories(common: int, total: int) -> str:
    """On how many categories of the grid the losses' levels stand, where that is not all."""
    if common == total:
        return ""
    if not common:
        return (
            "No category has the same finished cells under every loss, so the losses’ levels "
            "cannot be set side by side; gains stand on the categories that a loss and "
            "cross-entropy share."
        )
    return (
        f"Levels are means over {common} of {count(total, 'category')}, those in which every loss "
        "has the same finished cells."
    )


def loss_names(losses: Sequence[str]) -> str:
    return listed([style(loss).label for loss in losses])
