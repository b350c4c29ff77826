"""The rows of Table 1: the training losses, the network before training, and no foreground at all.

Two intervals stand beside each gain, because two questions can be asked of it. That over
categories speaks of categories like these; that over images speaks of these categories, with other
val images and other training runs. Where they differ, the categories differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lovasz_repro.analysis.resample import mean_interval
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, compare, partition_means, these_interval
from lovasz_repro.records import UNTRAINED

BACKGROUND = "all_background"
UNTRAINED_TUNED = "untrained_tuned"
COLUMNS = (
    "row",  # a loss, `UNTRAINED_TUNED` or `BACKGROUND`
    *("value", "low", "high"),  # image-IoU, interval over categories
    *("difference", "difference_low", "difference_high"),  # to cross-entropy, over categories
    *("these_low", "these_high"),  # the difference's interval for these categories, over images
    *("present", "absent"),  # image-IoU of the images with and without the category
    "dataset_iou",
    *("tuned", "tuned_difference", "tuned_low", "tuned_high"),  # thresholds chosen, both sides
    *("categories", "cells"),
)


@dataclass(frozen=True)
class Row:
    """What a row is measured by, at threshold 0 and at the chosen one (None: no threshold).

    reference: the measure of REFERENCE that its gain is taken over.
    """

    name: str
    loss: str
    iou: str = "iou"
    dataset_iou: str = "dataset_iou"
    tuned: str | None = "tuned_iou"
    reference: str = "iou"


def headline(scores: Scores) -> pd.DataFrame:
    """Columns `COLUMNS`, a row per loss of the grid, then the two that need no training.

    Levels are means over the categories in which all losses that have any cell have the same ones,
    gains over those that the loss shares with the reference; that of UNTRAINED_TUNED is taken over
    the reference at its chosen threshold, too. A loss without cells has NaN and 0
    categories. The reference's own differences are NaN, as is `tuned` of the last two rows, which
    have no other threshold.
    """
    rows = [Row(loss, loss) for loss in scores.losses]
    if UNTRAINED in scores.present:
        tuned = ("tuned_iou", "tuned_dataset_iou", None, "tuned_iou")
        rows.append(Row(UNTRAINED_TUNED, UNTRAINED, *tuned))
    any_loss = (scores.present or scores.losses)[0]
    rows.append(Row(BACKGROUND, any_loss, "background_iou", "background_dataset_iou", None))
    categories = scores.common(scores.present)
    return pd.DataFrame([_line(scores, row, categories) for row in rows], columns=list(COLUMNS))


def _line(scores: Scores, row: Row, common: list[str]) -> dict[str, object]:
    categories = common if row.loss in scores.present else []
    values = scores.values(categories, Arm(row.loss, row.iou))
    parts = partition_means(scores, Arm(row.loss, row.iou)) if categories else []
    low, high = mean_interval(values, parts)
    line = {
        "row": row.name,
        "value": _mean(scores, categories, Arm(row.loss, row.iou)),
        **{"low": float(low), "high": float(high)},
        "present": _mean(scores, categories, Arm(row.loss, row.iou), "present"),
        "absent": _mean(scores, categories, Arm(row.loss, row.iou), "absent"),
        "dataset_iou": _mean(scores, categories, Arm(row.loss, row.dataset_iou)),
        "categories": len(categories),
        "cells": scores.cells(categories, row.loss),
    }
    if row.tuned:
        line["tuned"] = _mean(scores, categories, Arm(row.loss, row.tuned))
    if row.name == REFERENCE or REFERENCE not in scores.present:
        return line
    arm, against = Arm(row.loss, row.iou), Arm(REFERENCE, row.reference)
    change = compare(scores, arm, against)
    line |= {"difference": change["difference"]}
    line |= {"difference_low": change["low"], "difference_high": change["high"]}
    ends = these_interval(scores, arm, against)
    line |= dict(zip(("these_low", "these_high"), ends, strict=True))
    if row.tuned:
        tuned = compare(scores, Arm(row.loss, row.tuned), Arm(REFERENCE, "tuned_iou"))
        line |= {"tuned_difference": tuned["difference"]}
        line |= {"tuned_low": tuned["low"], "tuned_high": tuned["high"]}
    return line


def _mean(scores: Scores, categories: list[str], arm: Arm, subset: str = "all") -> float:
    """NaN without categories; a category without images of the subset is left out."""
    values = pd.Series(scores.values(categories, arm, subset), dtype=float)
    return float(values.mean())
