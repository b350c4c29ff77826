"""The section on the losses themselves, without data: two pixels, and two classes of normal scores.

Both are computed by the code that trains (`lovasz_repro.losses`), in float64 and without any draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from lovasz_repro import losses
from lovasz_repro.report.axes import panels
from lovasz_repro.report.document import (
    Field,
    Paragraph,
    Section,
    Table,
    listed,
    loss_field,
    plain,
    signed,
)
from lovasz_repro.report.drawing import drawing, picture
from lovasz_repro.report.style import INK, LossStyle, style

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
    logits = scores + BIASES[:, None]  # (biases, PIXELS)
    targets = target.expand_as(logits)
    values = {name: loss(logits, targets, reduction="none").numpy() for name, loss in SWEPT.items()}
    wrong = (logits > 0) != targets.bool()
    union = (logits > 0) | targets.bool()
    values["jaccard"] = (wrong.sum(1) / union.sum(1)).double().numpy()
    return Sweep(share, values)


def _quantiles(count: int) -> Tensor:
    """`(count,)` mid-point quantiles of the standard normal distribution."""
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    quantiles: Tensor = torch.special.ndtri(levels)
    return quantiles


AXIS = np.linspace(-2, 2, 81)  # a step of 0.05: the kinks at ±1 and 0 lie on it
LEVELS = np.arange(0, 3.01, 0.5)
# One hue of rising opacity, rather than fading to white, so that it also suits a dark page.
FILLS = [(*to_rgb(style("lovasz_hinge").color), alpha) for alpha in np.linspace(0.04, 0.8, 6)]
SIGNS = {0: "background", 1: "foreground"}
NAMES = ("jaccard", *SWEPT)


@cache
def section() -> Section:
    sweeps = [sweep(share) for share in SHARES]
    won = sum("lovasz_hinge" in one.least_costly for one in sweeps)
    best = [
        f"at {100 * one.share:g} % foreground by "
        + listed(f"the {style(x).label.removesuffix(' per image')}" for x in one.least_costly)
        for one in sweeps
    ]
    return Section(
        "surrogates",
        "The surrogates",
        "With one parameter to choose, the Lovász hinge costs the least Jaccard loss at "
        f"{won} of {len(sweeps)} shares of foreground",
        [
            Paragraph(
                "Two pixels already show the shape of the Lovász hinge. Where both labels are "
                "right by a margin of 1 it is zero, and at scores of ±1 it is exactly twice the "
                "Jaccard loss. With no foreground (first panel) only the worst pixel counts; with "
                "all foreground (last panel) it is the mean of two hinges."
            ),
            picture(
                "surface",
                "Contour plots of the Lovász hinge over the scores of two pixels, one for each of "
                "the four cases of what they are in truth.",
                "The Lovász hinge of two pixels over both scores (logits), for each case of what "
                "the two are in truth. Contours lie 0.5 apart.",
                surface(),
            ),
            Paragraph(
                "The paper’s synthetic experiment asks which surrogate a classifier with a single "
                "parameter should minimise when it is judged by the Jaccard loss. The bias that "
                f"costs least Jaccard loss, to three decimals, is chosen {', '.join(best)}."
            ),
            picture(
                "bias",
                "1 − IoU and four training losses over a bias added to all scores, at three shares "
                "of foreground, each with its least point marked.",
                "Losses over one bias that is added to all scores; these are normal with variance "
                "1 around +½ on foreground and −½ on background. Each curve’s least point is "
                "marked; the dotted line is the bias with the least Jaccard loss, 1 − IoU. "
                f"{PIXELS:,} pixels at the "
                "quantiles of the two distributions, nothing drawn at random.",
                bias(sweeps),
            ),
            _table(sweeps),
        ],
    )


def _table(sweeps: list[Sweep]) -> Table:
    rows, data = [], []
    for name in NAMES:
        row = [Field("Jaccard loss itself", "Jaccard loss itself")]
        if name != "jaccard":
            row = [loss_field(name)]
        for one in sweeps:
            bias, cost = one.bias(name), one.jaccard_at(name)
            at, best = f"at {signed(bias)}", name in one.least_costly
            row.append(Field(plain(cost), cost, at, best=best))
            data.append({"loss": name, "share": one.share, "bias": bias, "jaccard_loss": cost})
        rows.append(row)
    return Table(
        "bias-table",
        "Jaccard loss, 1 − IoU, paid at the bias that minimises each loss (the bias behind it); "
        "the loss that pays least in bold.",
        ("minimised", *(f"{100 * one.share:g} % foreground" for one in sweeps)),
        rows,
        pd.DataFrame(data),
    )


@drawing
def surface(figure: Figure) -> None:
    """The Lovász hinge of two pixels over both scores, one panel a labeling."""
    every = panels(figure, 4, 2, 3.45, sharex=True, sharey=True)
    for axes, labeling in zip(every, LABELINGS, strict=True):
        height = two_pixels(labeling, AXIS)
        axes.contourf(AXIS, AXIS, height, LEVELS, colors=FILLS)
        lines = axes.contour(AXIS, AXIS, height, LEVELS[1:], colors=INK, linewidths=0.7)
        axes.clabel(lines, fmt="%g", fontsize=9)
        title = f"pixel 1 {SIGNS[labeling[0]]}\npixel 2 {SIGNS[labeling[1]]}"
        axes.set_title(title, fontsize=10.5)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_xticks([-2, -1, 0, 1, 2])
        axes.set_yticks([-2, -1, 0, 1, 2])
    for axes in every[2:]:
        axes.set_xlabel("score of pixel 1")
    for axes in every[::2]:
        axes.set_ylabel("score of pixel 2")


@drawing
def bias(figure: Figure, sweeps: Sequence[Sweep]) -> None:
    """Each loss over the bias, its least point marked; one panel a share of foreground."""
    looks = {name: style(name) for name in NAMES} | {"jaccard": LossStyle("1 − IoU", INK, "*", "-")}
    every = panels(figure, len(sweeps), len(sweeps), 3.9, sharey=True)
    for axes, one in zip(every, sweeps, strict=True):
        axes.axvline(one.bias("jaccard"), color=INK, lw=1, ls=(0, (2, 3)), alpha=0.7)
        for name in NAMES:
            look, values, least = looks[name], one.values[name], one.minimiser(name)
            width = 2.4 if name == "jaccard" else 1.8
            axes.plot(BIASES, values, color=look.color, ls=look.line, lw=width)
            axes.plot(BIASES[least], values[least], look.marker, color=look.color, ms=8)
        axes.set_yscale("log")
        ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)
        axes.set_xlim(float(BIASES[0]), float(BIASES[-1]))
        axes.set_title(f"{100 * one.share:g} % foreground")
        axes.set_xlabel("bias added to all scores")
    every[0].set_ylabel("loss, logarithmic")
    figure.legend(
        [Line2D([], [], color=x.color, ls=x.line, marker=x.marker) for x in looks.values()],
        [look.label for look in looks.values()],
        loc="outside upper left", ncols=5, fontsize=9, handlelength=2.4,
        columnspacing=1.2,
    )  # fmt: skip
