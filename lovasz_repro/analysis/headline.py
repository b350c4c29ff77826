"""The rows of Table 1: the training losses, the network before training, and no foreground at all.

Each gain has two intervals, for two questions. The one over categories is for categories like
these; the one over images is for exactly these categories, with other val images and training runs.
Where they differ, the gain differs between categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import (
    REFERENCE,
    compare,
    level,
    over_categories,
    these_interval,
)
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

    Levels are means over the categories in which all losses with any cell have the same ones, gains
    over those that the loss shares with the reference. UNTRAINED_TUNED is compared with the
    reference at its chosen threshold. A loss without cells has NaN and 0 categories. The
    reference's own differences are NaN, as is `tuned` of the last two rows, which have no other
    threshold.
    """
    rows = [Row(loss, loss) for loss in scores.losses]
    if UNTRAINED in scores.present:
        tuned = ("tuned_iou", "tuned_dataset_iou", None, "tuned_iou")
        rows.append(Row(UNTRAINED_TUNED, UNTRAINED, *tuned))
    any_loss = (scores.present or scores.losses)[0]
    rows.append(Row(BACKGROUND, any_loss, "background_iou", "background_dataset_iou", None))
    return pd.DataFrame([_line(scores, row) for row in rows], columns=list(COLUMNS))


def _line(scores: Scores, row: Row) -> dict[str, object]:
    arm = Arm(row.loss, row.iou)
    each = [level(one, arm) for one in scores.each]
    mean = over_categories(each)
    line = {
        "row": row.name,
        **mean._asdict(),
        "present": level(scores, arm, "present").mean(),
        "absent": level(scores, arm, "absent").mean(),
        "dataset_iou": level(scores, Arm(row.loss, row.dataset_iou)).mean(),
        "cells": scores.cells(each[0].index, row.loss),
    }
    if row.tuned:
        line["tuned"] = level(scores, Arm(row.loss, row.tuned)).mean()
    if row.name == REFERENCE or REFERENCE not in scores.present:
        return line
    against = Arm(REFERENCE, row.reference)
    line |= _change(scores, arm, against, ("difference", "difference_low", "difference_high"))
    line["these_low"], line["these_high"] = these_interval(scores, arm, against)
    if row.tuned:
        sides = Arm(row.loss, row.tuned), Arm(REFERENCE, "tuned_iou")
        line |= _change(scores, *sides, ("tuned_difference", "tuned_low", "tuned_high"))
    return line


def _change(
    scores: Scores, arm: Arm, against: Arm, names: tuple[str, str, str]
) -> dict[str, object]:
    """The mean difference and the ends of its interval, under these names."""
    change = compare(scores, arm, against)
    keys = ("difference", "low", "high")
    return {name: change[key] for name, key in zip(names, keys, strict=True)}
