"""Which loss to use when: by the metric, by what the data holds, and by what can be tuned.

A **situation** fixes three things: whether IoU is averaged over images or taken once over the data
set; whether the data holds images without the category; whether the threshold can be chosen on
held-out images (then it is, for every loss). The rule is one for all situations, and was fixed
before any result:

* use the training loss with the highest mean over categories;
* not told apart from it are the losses whose paired difference to it has a 95 % interval, over
  categories, that includes zero, which does not say that they are as good; the base network's own
  score may be among them;
* better is not fine-tuning at all where that interval lies above zero.

The interval of the effect is that of one loss and not corrected for having picked the best of
several: it promises a little too much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pandas as pd

from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, compare
from lovasz_repro.records import UNTRAINED

COLUMNS = (
    *("metric", "empty_images", "tunable"),  # per_image or data_set; booleans
    *("loss", "value"),  # the one to use, and the metric under it
    *("difference", "low", "high"),  # to cross-entropy; NaN where that is the one to use
    "not_told_apart",  # losses, `UNTRAINED` may be among them, separated by spaces
    "untrained_better",
    "categories",
)


@dataclass(frozen=True)
class Situation:
    """per_image: else over the data set."""

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

    Compared are the losses that train and have cells, over the categories in which all of them
    have the same ones.
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
            **_effect(scores, case, best),
            **_rivals(scores, case, best, losses),
        }


def _effect(scores: Scores, case: Situation, best: str) -> dict[str, float]:
    if best == REFERENCE or REFERENCE not in scores.present:
        return {}
    arms = (Arm(best, case.measure), Arm(REFERENCE, case.measure))
    row = compare(scores, *arms, case.subset)
    return {name: row[name] for name in ("difference", "low", "high")}


def _rivals(scores: Scores, case: Situation, best: str, losses: list[str]) -> dict[str, object]:
    alike, better = [], False
    others = [UNTRAINED] if UNTRAINED in scores.present else []
    for loss in [*losses, *others]:
        if loss == best:
            continue
        arms = (Arm(loss, case.measure), Arm(best, case.measure))
        row = compare(scores, *arms, case.subset)
        if not (row["low"] > 0 or row["high"] < 0):  # also where there is no interval
            alike.append(loss)
        better |= loss == UNTRAINED and row["low"] > 0
    return {"not_told_apart": " ".join(alike), "untrained_better": better}
