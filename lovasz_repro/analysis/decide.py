"""Which loss to use, by metric, data, and whether a threshold can be chosen.

A **situation** fixes three things: whether IoU is averaged over images or taken once over the data
set; whether the data holds images without the category; whether thresholds are chosen on held-out
images, for every loss. One rule, fixed before any result, holds for all situations:

* use the training loss with the highest mean over categories;
* a loss is not told apart from it if the 95 % interval, over categories, of their paired difference
  includes zero (which does not say that it is as good); the base network's score is compared, too;
* not fine-tuning at all is better than it if the base network's interval is above zero.

The interval of the effect is not corrected for choosing the best of several losses: it promises a
little too much.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import pandas as pd

from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, compare
from lovasz_repro.records import UNTRAINED

ENDS = ("difference", "low", "high")
COLUMNS = (
    *("metric", "empty_images", "tunable"),  # per_image or data_set; booleans
    *("loss", "value"),  # the loss to use, and its metric
    *ENDS,  # to cross-entropy; NaN if that is the loss to use
    "not_told_apart",  # losses, `UNTRAINED` may be among them, separated by spaces
    "untrained_better",
    "categories",
)


class Situation(NamedTuple):
    """per_image: False: over the data set."""

    per_image: bool
    empty_images: bool
    tunable: bool

    @property
    def measure(self) -> str:
        return ("tuned_" if self.tunable else "") + ("iou" if self.per_image else "dataset_iou")

    @property
    def subset(self) -> str:
        return "all" if self.empty_images else "present"


SITUATIONS = [Situation(*flags) for flags in product((True, False), repeat=3)]


def decisions(scores: Scores) -> pd.DataFrame:
    """Columns `COLUMNS`, a row per situation; no rows without two losses to choose from.

    The losses that train and have cells are compared, over the categories in which all of them
    have the same cells.
    """
    return pd.DataFrame(_rows(scores), columns=list(COLUMNS))


def _rows(scores: Scores) -> Iterator[dict[str, object]]:
    losses = [loss for loss in scores.trained if loss in scores.present]
    categories = scores.common(losses)
    if len(losses) < 2 or len(categories) < 2:
        return
    for case in SITUATIONS:
        means = {
            loss: float(scores.values(categories, Arm(loss, case.measure), case.subset).mean())
            for loss in losses
        }
        best = max(means, key=lambda loss: means[loss])
        yield {
            "metric": "per_image" if case.per_image else "data_set",
            "empty_images": case.empty_images,
            "tunable": case.tunable,
            "loss": best,
            "value": means[best],
            "categories": len(categories),
            **_against(scores, case, best, losses),
        }


def _against(scores: Scores, case: Situation, best: str, losses: list[str]) -> dict[str, object]:
    """The best loss against each other one and the base network."""
    found = {
        loss: compare(scores, Arm(best, case.measure), Arm(loss, case.measure), case.subset)
        for loss in [*losses, UNTRAINED]
        if loss != best and loss in scores.present
    }
    # A loss is not told apart, too, if there is no interval.
    alike = [loss for loss, row in found.items() if not (row["low"] > 0 or row["high"] < 0)]
    effect = {name: found[REFERENCE][name] for name in ENDS} if REFERENCE in found else {}
    better = UNTRAINED in found and found[UNTRAINED]["high"] < 0
    return {**effect, "not_told_apart": " ".join(alike), "untrained_better": better}
