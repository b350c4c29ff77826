"""Questions of ours, beside the paper's claims: what beats the Lovász hinge, or no fine-tuning?

A question asks whether any of several differences is greater than zero. The answer is

* yes if one of them has its interval above zero and p < 0.05 after Holm's correction over all
  differences of the question,
* no if the intervals of all of them are below zero,
* open otherwise, and if cells are missing.

The largest difference is shown. "Does dataset-IoU agree" has its own rule: if neither gain's
interval includes zero, yes for gains on the same side, no for opposite ones; else open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.resample import holm
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, compare
from lovasz_repro.records import UNTRAINED
from lovasz_repro.words import points

Answer = Literal["yes", "no", "open"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """key: any_better, untrained, untrained_tuned or dataset_iou. loss: whose difference is shown.
    effect, low, high: that difference, 0.01 is one point of `unit`, NaN if the records cannot tell.
    winners: the losses for which the answer is yes, out of `asked`."""

    key: str
    title: str
    answer: Answer
    loss: str
    effect: float
    low: float
    high: float
    unit: str
    winners: Sequence[str] = ()
    asked: int = 0
    note: str = ""


def questions(scores: Scores) -> list[Question]:
    """All four, always, in the report's order."""
    trained = [loss for loss in scores.trained if loss in scores.present]
    others = [loss for loss in trained if loss != LOVASZ]
    at_zero = "untrained", "Does any loss beat not fine-tuning at all?"
    chosen = "untrained_tuned", "Does it still, both at a threshold chosen on held-out images?"
    no_training = (
        _open(*at_zero, "image-IoU", "Before fine-tuning, at 0, it is below predicting nothing.")
        if _below_nothing(scores)
        else _any(scores, *at_zero, trained, lambda loss: (Arm(loss), Arm(UNTRAINED)))
    )
    return [
        _any(
            scores, "any_better", "Does any other loss beat the Lovász hinge?", others,
            lambda loss: (Arm(loss), Arm(LOVASZ)),
        ),
        no_training,
        _any(
            scores, *chosen, trained,
            lambda loss: (Arm(loss, "tuned_iou"), Arm(UNTRAINED, "tuned_iou")),
        ),
        _dataset(scores),
    ]  # fmt: skip


def _below_nothing(scores: Scores) -> bool:
    """Whether the base network's image-IoU at threshold 0 is below that of an empty mask."""
    categories = scores.common([UNTRAINED])
    levels = [scores.values(categories, Arm(UNTRAINED, x)) for x in ("iou", "background_iou")]
    return bool(categories) and bool(levels[0].mean() < levels[1].mean())


def _any(
    scores: Scores,
    key: str,
    title: str,
    losses: Sequence[str],
    arms: Callable[[str], tuple[Arm, Arm]],
) -> Question:
    """Whether `arms(loss)[0]` is above `arms(loss)[1]` for any of `losses`."""
    rows = {loss: compare(scores, *arms(loss)) for loss in losses}
    rows = {loss: row for loss, row in rows.items() if row["categories"] > 1}
    if not rows:
        return _open(key, title, "image-IoU")
    p_values = holm(np.array([row["p"] for row in rows.values()]))
    winners = [
        loss
        for (loss, row), p in zip(rows.items(), p_values, strict=True)
        if row["low"] > 0 and p < 0.05
    ]
    answer: Answer = "open"
    if winners:
        answer = "yes"
    elif all(row["high"] < 0 for row in rows.values()):
        answer = "no"
    best = max(rows, key=lambda loss: float(rows[loss]["difference"]))
    ends = _ends(rows[best])
    return Question(key, title, answer, best, *ends, "image-IoU", winners, len(rows))


def _dataset(scores: Scores) -> Question:
    key, title = "dataset_iou", "Does dataset-IoU agree about the Lovász hinge and cross-entropy?"
    image = compare(scores, Arm(LOVASZ), Arm(REFERENCE))
    data = compare(scores, Arm(LOVASZ, "dataset_iou"), Arm(REFERENCE, "dataset_iou"))
    if data["categories"] < 2:
        return _open(key, title, "dataset-IoU")
    sides = _side(image), _side(data)
    answer: Answer = "open"
    if all(sides):
        answer = "yes" if sides[0] == sides[1] else "no"
    note = f"In image-IoU the difference is {points(image['difference'])} points."
    return Question(key, title, answer, LOVASZ, *_ends(data), "dataset-IoU", note=note)


def _side(row: Row) -> int:
    """1 if the interval is above zero, -1 if it is below, else 0."""
    return int(row["low"] > 0) - int(row["high"] < 0)


def _ends(row: Row) -> tuple[float, float, float]:
    return float(row["difference"]), float(row["low"]), float(row["high"])


def _open(key: str, title: str, unit: str, note: str = "Needs cells of both sides.") -> Question:
    nothing = (math.nan, math.nan, math.nan)
    return Question(key, title, "open", "", *nothing, unit, note=note)
