"""What a gain in image-IoU consists of: the operating point, presence, and the shape of the masks.

Two splits of the same gain, each exact in every category and so in the mean:

    gain = operating_point + both_chosen
    gain = present + absent,  present = shape + placement

* operating_point: the gain at threshold 0 minus the gain with both thresholds chosen on held-out
  images; both_chosen: the latter, what is left when both sides have a good threshold.
* present, absent: what the images with and without the category contribute to the mean over all
  images (each half's own gain times its share of the images).
* shape: the contribution of the change in `oracle_iou`, the IoU at each image's own best threshold;
  no choice of threshold can produce it. placement: the rest of `present`: how much closer
  threshold 0 is to an image's best one.

The two splits cannot be combined: the operating point acts on both halves. oracle is the same
change as shape, but as a mean over the images with the category alone: it is on the scale of their
image-IoU, and part of no sum.
"""

from __future__ import annotations

import pandas as pd

from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, gains, others, over_categories

PARTS = (
    "gain", "operating_point", "both_chosen", "present", "absent", "shape", "placement", "oracle",
)  # fmt: skip


def decomposition(scores: Scores) -> pd.DataFrame:
    """Columns part (`PARTS`), loss, difference, low, high (over categories), categories.

    A row per part and loss of the grid but the reference; NaN without a common category.
    """
    by_loss = {loss: [_parts(one, loss) for one in scores.each] for loss in others(scores)}
    rows = [
        (part, loss, *over_categories([parts[part] for parts in each]))
        for part in PARTS
        for loss, each in by_loss.items()
    ]
    return pd.DataFrame(rows, columns=["part", "loss", "difference", "low", "high", "categories"])


def _parts(scores: Scores, loss: str) -> dict[str, pd.Series]:
    """By part its value in each category."""

    def gain(measure: str, subset: str = "all") -> pd.Series:
        return gains(scores, Arm(loss, measure), Arm(REFERENCE, measure), subset)

    whole, chosen = gain("iou"), gain("tuned_iou")
    present, shape = gain("part_iou"), gain("part_oracle_iou")
    return {
        "gain": whole,
        "operating_point": whole - chosen,
        "both_chosen": chosen,
        "present": present,
        "absent": gain("rest_iou"),
        "shape": shape,
        "placement": present - shape,
        "oracle": gain("oracle_iou", "present"),
    }
