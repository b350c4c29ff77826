"""The rows of Table 1: the training losses, the network before training, and no foreground at all.

Each gain has two intervals, for two questions. The one over categories is for categories like
these; the one over images is for exactly these categories, with other val images and training runs.
Where they differ, the gain differs between categories.
"""

from __future__ import annotations

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


def headline(scores: Scores) -> pd.DataFrame:
    """Columns `COLUMNS`, a row per loss of the grid, then the two that need no training.

    Levels are means over the categories in which all losses with any cell have the same ones, gains
    over those that the loss shares with the reference. UNTRAINED_TUNED is compared with the
    reference at its chosen threshold. A loss without cells has NaN and 0 categories. The
    reference's own differences are NaN, as is `tuned` of the last two rows, which have no other
    threshold.
    """
    lines = [_line(scores, loss, loss) for loss in scores.losses]
    if UNTRAINED in scores.present:
        tuned = ("tuned_iou", "tuned_dataset_iou", None, "tuned_iou")
        lines.append(_line(scores, UNTRAINED_TUNED, UNTRAINED, *tuned))
    any_loss = (scores.present or scores.losses)[0]
    lines.append(
        _line(scores, BACKGROUND, any_loss, "background_iou", "background_dataset_iou", None)
    )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(
    scores: Scores, row: str, loss: str, iou: str = "iou", dataset_iou: str = "dataset_iou",
    tuned: str | None = "tuned_iou", reference: str = "iou",
) -> dict[str, object]:  # fmt: skip
    """iou, dataset_iou: its measures at threshold 0; tuned: at the chosen one (None: no threshold);
    reference: the measure of REFERENCE that its gain is taken over."""
    arm = Arm(loss, iou)
    each = [level(one, arm) for one in scores.each]
    line = {
        "row": row,
        **over_categories(each)._asdict(),
        "present": level(scores, arm, "present").mean(),
        "absent": level(scores, arm, "absent").mean(),
        "dataset_iou": level(scores, Arm(loss, dataset_iou)).mean(),
        "cells": scores.cells(each[0].index, loss),
    }
    if tuned:
        line["tuned"] = level(scores, Arm(loss, tuned)).mean()
    if row == REFERENCE or REFERENCE not in scores.present:
        return line
    against = Arm(REFERENCE, reference)
    change = compare(scores, arm, against)
    line |= {"difference": change["difference"]}
    line |= {f"difference_{end}": change[end] for end in ("low", "high")}
    line["these_low"], line["these_high"] = these_interval(scores, arm, against)
    if tuned:
        change = compare(scores, Arm(loss, tuned), Arm(REFERENCE, "tuned_iou"))
        line |= {f"tuned_{name}": change[name] for name in ("difference", "low", "high")}
    return line
