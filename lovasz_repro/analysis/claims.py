"""The paper's claims, and what the records say of each by fixed rules.

A claim states that one or several paired differences are greater than zero. It is

* reproduced if the 95 % intervals of all of them are above zero,
* not reproduced if the interval of any of them is below zero,
* undecided otherwise, and if losses or cells are missing ("needs ...").

The hardest difference is shown, the one least above zero in units of its interval. Asking for all
of several needs no correction for their number: it only makes "reproduced" rarer. "Not reproduced"
needs only one of up to six, so the explanation counts how many are above zero. There is no
correction for testing five claims. Two rules were made stricter after the first results of
`finetune`, which turned both verdicts from reproduced to undecided: "small objects" is compared
with all other quarters, not just the largest, and "fills gaps" must also hold at chosen thresholds.
The intervals of `head` first held the spread of its three partitions, now that of its six folds:
the same two verdicts turned there from undecided to not reproduced.

A claim is judged among the losses of the paper's table. Whether any other loss does better is our
own question: `lovasz_repro.analysis.questions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from lovasz_repro.analysis.scores import SIZES, Arm, Scores
from lovasz_repro.analysis.stats import (
    REFERENCE,
    compare,
    gains,
    over_categories,
    these_interval,
)
from lovasz_repro.words import points

Verdict = Literal["reproduced", "not reproduced", "undecided", "not tested"]

LOVASZ = "lovasz_hinge"
PAPER_LOSSES = ("cross_entropy", "hinge", "lovasz_hinge")
"""The losses of the paper's table; each is also a measure there. Soft Jaccard was a measure in the
paper's first version."""
NAMES = {
    "cross_entropy": "cross-entropy",
    "hinge": "hinge",
    "lovasz_hinge": "the Lovász hinge",
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim and its verdict.

    key: best_image_iou, own_measure, carry_over, small_objects or gap_filling.
    effect, low, high: 0.01 is one percentage point of `unit`; NaN if the records cannot tell.
    explanation: what was compared, on how many categories; or what the verdict needs.
    hardest: the comparison whose effect is shown, if there are several.
    these_low, these_high: its interval for exactly these categories, if it was computed.
    """

    key: str
    title: str
    verdict: Verdict
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str
    explanation: str
    hardest: str = ""
    these_low: float = math.nan
    these_high: float = math.nan


@dataclass(frozen=True)
class Contrast:
    """A difference that a claim says is greater than zero; `what` names it."""

    what: str
    effect: float
    low: float
    high: float
    categories: int

    @property
    def margin(self) -> float:
        """Effect over half the interval: above 1 the interval is above zero, below -1 below it."""
        half = (self.high - self.low) / 2
        if half:
            return self.effect / half
        return math.copysign(math.inf, self.effect) if self.effect else 0.0


def claims(scores: Scores) -> list[Claim]:
    """All five, always, in the report's order."""
    every = (best_image_iou, own_measure, carry_over, small_objects, gap_filling)
    return [claim(scores) for claim in every]


def best_image_iou(scores: Scores) -> Claim:
    """Lovász hinge minus each of the other two losses of the paper, in image-IoU."""
    rivals = {f"against {NAMES[loss]}": loss for loss in PAPER_LOSSES if loss != LOVASZ}
    contrasts = [_contrast(scores, what, Arm(LOVASZ), Arm(loss)) for what, loss in rivals.items()]
    title = "The Lovász hinge gives the best image-IoU"
    claim = _claim(scores, PAPER_LOSSES, "best_image_iou", title, "image-IoU", contrasts)
    if math.isnan(claim.effect):
        return claim
    low, high = these_interval(scores, Arm(LOVASZ), Arm(rivals[claim.hardest]))
    return replace(claim, these_low=low, these_high=high)


def own_measure(scores: Scores) -> Claim:
    """Each loss of the paper's table as a measure: trained with another minus trained with it,
    relative to the latter."""
    contrasts = []
    for own in PAPER_LOSSES:
        for loss in PAPER_LOSSES:
            if loss != own:
                what = f"by {NAMES[own]} against training with {NAMES[loss]}"
                contrasts.append(_contrast(scores, what, Arm(loss, own), Arm(own, own), True))
    more = (
        " Soft Jaccard is left out: it is not in the paper’s table, and as a measure it is taken "
        "per image, which the loss per batch does not train."
    )
    if scores.tuned:
        more += " Rates and steps of every loss were chosen by image-IoU, not by its own measure."
    title, unit = "Each loss is best on its own measure", "the loss’s own value, in percent"
    return _claim(scores, PAPER_LOSSES, "own_measure", title, unit, contrasts, after=more)


def carry_over(scores: Scores) -> Claim:
    """Lovász hinge minus cross-entropy in image-IoU."""
    contrast = _contrast(scores, "against cross-entropy", Arm(LOVASZ), Arm(REFERENCE))
    title = "The Lovász hinge carries over to image-IoU"
    return _claim(scores, (LOVASZ, REFERENCE), "carry_over", title, "image-IoU", [contrast])


def small_objects(scores: Scores) -> Claim:
    """The gain over cross-entropy on the quarter with the smallest objects, and that gain minus
    each other quarter's."""
    each = [_quarters(one) for one in scores.each]
    first = over_categories([quarters[0] for quarters in each])
    contrasts = [Contrast("gain on the smallest quarter", *first)]
    for place, name in ((1, "second"), (2, "third"), (3, "largest")):
        more = over_categories([quarters[0] - quarters[place] for quarters in each])
        what = f"gain on the smallest quarter minus gain on the {name}"
        contrasts.append(Contrast(what, *more))
    chosen = _quarters(scores, "tuned_iou")
    change = (chosen[0] - chosen[-1]).mean()
    return _claim(
        scores, (LOVASZ, REFERENCE), "small_objects", "Small objects gain most", "image-IoU",
        contrasts,
        before=_by_quarter([quarter.mean() for quarter in each[0]]),
        after=" With both thresholds chosen the smallest quarter’s gain minus the largest’s is "
        f"{points(change)} points.",
    )  # fmt: skip


def _quarters(scores: Scores, measure: str = "iou") -> list[pd.Series]:
    """Per quarter of object size the gain in each category."""
    arms = Arm(LOVASZ, measure), Arm(REFERENCE, measure)
    return [gains(scores, *arms, size) for size in SIZES]


def _by_quarter(means: Sequence[float]) -> str:
    """A sentence on the gains of the four quarters, the smallest first."""
    listed = ", ".join(points(mean) for mean in means)
    first = means[0] == max(means)
    if max(means) <= 0:
        head = "No quarter gains" + ("; the smallest objects lose least" if first else "")
    else:
        head = "The smallest objects gain most" if first else "The smallest do not gain most"
    return f"{head} ({listed} points, smallest first). "


def gap_filling(scores: Scores) -> Claim:
    """Recall of the Lovász hinge minus that of cross-entropy, on images with the category: at
    threshold 0, and at chosen thresholds, since a lower threshold alone raises recall."""
    recall, tuned = (
        _contrast(scores, f"recall {where}", Arm(LOVASZ, measure), Arm(REFERENCE, measure))
        for where, measure in (
            ("at threshold 0", "recall"),
            ("with both thresholds chosen", "tuned_recall"),
        )
    )
    false = compare(scores, Arm(LOVASZ, "false"), Arm(REFERENCE, "false"))
    return _claim(
        scores, (LOVASZ, REFERENCE), "gap_filling", "The Lovász hinge fills gaps", "recall",
        [recall, tuned],
        before=f"At threshold 0 recall changes by {points(recall.effect)} points against "
        "cross-entropy, the falsely marked share of the union by "
        f"{points(false['difference'])}. ",
        after=" Recall counts a filled hole, a found object and a wider rim alike.",
    )  # fmt: skip


def _contrast(
    scores: Scores, what: str, arm: Arm, against: Arm, relative: bool = False
) -> Contrast:
    """relative: as a fraction of `against`'s value."""
    row = compare(scores, arm, against)
    scale = 1 / row["reference_value"] if relative and row["reference_value"] else 1.0
    effect, low, high = (scale * row[name] for name in ("difference", "low", "high"))
    return Contrast(what, effect, low, high, row["categories"])


def _claim(
    scores: Scores,
    losses: Sequence[str],
    key: str,
    title: str,
    unit: str,
    contrasts: Sequence[Contrast],
    before: str = "",
    after: str = "",
) -> Claim:
    """The claim with its verdict, or what it needs.

    Args:
        losses: those that must have cells.
        before, after: text around the explanation, if nothing is missing.
    """
    lacking = [NAMES[loss] for loss in losses if loss not in scores.present]
    needs = f"cells trained with {', '.join(lacking)}" if lacking else ""
    if not needs and any(contrast.categories < 2 for contrast in contrasts):
        needs = (
            "two categories or more with the same finished cells of both losses, and with images"
        )
    if needs:
        return Claim(
            key=key, title=title, verdict="undecided", unit=unit, explanation=f"Needs {needs}."
        )
    hardest = min(contrasts, key=lambda contrast: contrast.margin)
    text = f"{hardest.what}, mean over {hardest.categories} categories."
    if len(contrasts) > 1:
        above = sum(contrast.low > 0 for contrast in contrasts)
        counted = f"{above} of {len(contrasts)} comparisons lie wholly above zero"
        text = f"{counted}. The hardest one: {text}"
    return Claim(
        key=key, title=title, verdict=judged(hardest.low, hardest.high), effect=hardest.effect,
        low=hardest.low, high=hardest.high, unit=unit, hardest=hardest.what,
        explanation=before + text[0].upper() + text[1:] + after,
    )  # fmt: skip


def judged(low: float, high: float) -> Verdict:
    """The verdict by the interval of a difference that should be greater than zero."""
    if low > 0:
        return "reproduced"
    return "not reproduced" if high < 0 else "undecided"
