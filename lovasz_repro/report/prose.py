"""Sentences of the report that are made from numbers; its opening ones are in `verdict`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import pandas as pd

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.headline import BACKGROUND, UNTRAINED_TUNED
from lovasz_repro.records import UNTRAINED, Records
from lovasz_repro.report import quoted
from lovasz_repro.report.document import interval, listed, percent
from lovasz_repro.report.style import ordered, style
from lovasz_repro.words import count, points

FOOTNOTE = f"{quoted.SIGN} The paper’s values are {quoted.MARK}."
UNTRAINED_ROWS = (UNTRAINED, UNTRAINED_TUNED, BACKGROUND)


def parts_of_gain(parts: pd.DataFrame) -> pd.DataFrame:
    """The rows of the Lovász hinge by part. parts: `decomposition`."""
    return parts[parts["loss"] == LOVASZ].dropna(subset="difference").set_index("part")


def with_interval(row: pd.Series | Mapping[str, float]) -> str:
    """row: difference, low, high."""
    ends = interval(row["low"], row["high"], points)
    return f"{points(row['difference'])} points {ends}".strip()


def the(loss: str) -> str:
    """`the Lovász hinge`, `cross-entropy`, `the network before fine-tuning`."""
    label = style(loss).label
    if loss == UNTRAINED:
        return f"the network {label}"
    return f"the {label}" if loss == LOVASZ else label


def baselines(rows: pd.DataFrame) -> str:
    """The image-IoU without training, and the losses that are below predicting nothing."""
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
    """What the two intervals of a gain are about.

    Args:
        partitions: of the images into folds. seeds: training runs of a cell.
    """
    given = "In both, the split into folds and each fold’s base network and chosen rates are given."
    if partitions > 1:
        given = (
            f"The images were divided into folds {partitions} times. Folds are random in both: the "
            "intervals hold the spread between folds, each with its own base network and rates."
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
    """How choosing a threshold changes the losses. table: `gains_by_choosing`."""
    table = table[table["loss"] != UNTRAINED]
    worse = int((table["high"] < 0).sum())
    if not worse:
        return ""
    return (
        f" Choosing has a cost, because few images decide: it lowers the image-IoU of {worse} of "
        f"{count(len(table), 'loss')} (interval below zero). So these comparisons mix the "
        "operating point with the noise of the choice."
    )


def held_out(records: Records) -> str:
    """How many images a threshold was chosen on."""
    counts = [
        result["held_out_images"]
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
    before = trained.groupby(keys)["train_loss"].shift()
    ends = trained.assign(before=before).groupby(keys).tail(1).dropna(subset="before")
    if ends.empty:
        return ""
    falling = (ends["train_loss"] < 0.99 * ends["before"]).groupby(ends["loss"]).mean()
    shares = listed(
        [f"{style(x).label} {100 * falling[x]:.0f}\u00a0%" for x in ordered(falling.index)]
    )
    return (
        "Cells whose mean training objective fell by more than 1 % between the last two "
        f"validations, by loss: {shares}."
    )


def common_categories(common: int, total: int) -> str:
    """The number of categories that the losses' levels are means over; empty if it is all."""
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
