"""The losses themselves, without data: two pixels, and two classes of normal scores.

Both are computed by the code that trains (`lovasz_repro.losses`), in float64 and without any draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lovasz_repro import losses

Array = npt.NDArray[np.float64]

LABELINGS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""The ground truths of two pixels; 1 is foreground."""

SHARES = (0.5, 0.1, 0.02)
"""Shares of foreground pixels at which the bias is swept."""

SWEPT = {
    "cross_entropy": losses.cross_entropy,
    "hinge": losses.hinge,
    "soft_jaccard_per_image": losses.soft_jaccard,
    "lovasz_hinge": losses.lovasz_hinge,
}
PIXELS = 10_000
BIASES = torch.linspace(-5, 4, 181, dtype=torch.float64)


def two_pixels(labeling: tuple[int, int], axis: Array) -> Array:
    """The Lovász hinge over the square `axis` x `axis` of two pixels' scores.

    Args:
        labeling: the ground truth of the first and the second pixel.
        axis: `(N,)` scores.

    Returns:
        `(N, N)`: rows are scores of the second pixel, columns of the first, as in a contour plot.
    """
    first, second = np.meshgrid(axis, axis)
    scores = torch.from_numpy(np.stack([first.ravel(), second.ravel()], axis=1))  # (N * N, 2)
    target = torch.tensor(labeling).expand_as(scores)
    return losses.lovasz_hinge(scores, target, reduction="none").numpy().reshape(first.shape)


@dataclass(frozen=True)
class Sweep:
    """Every loss over `BIASES` at one share of foreground. values["jaccard"]: the Jaccard loss."""

    share: float
    values: dict[str, Array]

    def minimiser(self, name: str) -> int:
        """The index into `BIASES` at which a loss is least."""
        return int(self.values[name].argmin())

    def bias(self, name: str) -> float:
        """The bias at which a loss is least."""
        return float(BIASES[self.minimiser(name)])

    def jaccard_at(self, name: str) -> float:
        """The Jaccard loss paid for taking the bias that minimises loss `name`."""
        return float(self.values["jaccard"][self.minimiser(name)])

    @property
    def least_costly(self) -> list[str]:
        """The losses whose best bias costs the least Jaccard loss, to three decimals."""
        costs = {name: round(self.jaccard_at(name), 3) for name in SWEPT}
        return [name for name, cost in costs.items() if cost == min(costs.values())]


@cache
def sweep(share: float) -> Sweep:
    """Foreground scores ~ N(+1/2, 1), background scores ~ N(-1/2, 1), one bias added to all.

    Instead of random draws, each class has the evenly spaced quantiles of its distribution.
    """
    foreground = round(PIXELS * share)
    scores = torch.cat([_quantiles(foreground) + 0.5, _quantiles(PIXELS - foreground) - 0.5])
    target = (torch.arange(PIXELS) < foreground).long()
    values: dict[str, Array] = {}
    logits = scores + BIASES[:, None]  # (biases, PIXELS)
    targets = target.expand_as(logits)
    for name, loss in SWEPT.items():
        values[name] = loss(logits, targets, reduction="none").numpy()
    wrong = (logits > 0) != targets.bool()
    union = (logits > 0) | targets.bool()
    values["jaccard"] = (wrong.sum(1) / union.sum(1)).double().numpy()
    return Sweep(share, values)


def _quantiles(count: int) -> Tensor:
    """`(count,)` mid-point quantiles of the standard normal distribution."""
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    quantiles: Tensor = torch.special.ndtri(levels)
    return quantiles
