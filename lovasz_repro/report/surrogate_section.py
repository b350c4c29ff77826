"""The section on the losses themselves, without data, and its figures; from `surrogates`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lovasz_repro.report import surrogates
from lovasz_repro.report.axes import WIDTH
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
from lovasz_repro.report.drawing import Draw, picture
from lovasz_repro.report.style import INK, LossStyle, style
from lovasz_repro.report.surrogates import LABELINGS, PIXELS, SHARES, SWEPT, Sweep

AXIS = np.linspace(-2, 2, 81)  # a step of 0.05: the kinks at ±1 and 0 lie on it
LEVELS = np.arange(0, 3.01, 0.5)
# One hue of rising opacity, rather than fading to white, so that it also suits a dark page.
FILLS = [(*to_rgb(style("lovasz_hinge").color), alpha) for alpha in np.linspace(0.04, 0.8, 6)]
SIGNS = {0: "background", 1: "foreground"}
NAMES = ("jaccard", *SWEPT)


@cache
def section() -> Section:
    sweeps = [surrogates.sweep(share) for share in SHARES]
    return Section(
        "surrogates",
        "The surrogates",
        _title(sweeps),
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
            Paragraph(_sentence(sweeps)),
            picture(
                "bias",
                "1 − IoU and four training losses over a bias added to all scores, at three shares "
                "of foreground, each with its least point marked.",
                "Losses over one bias that is added to all scores; these are normal with variance "
                "1 around +½ on foreground and −½ on background. Each curve's least point is "
                "marked; the dotted line is the bias with the least Jaccard loss, 1 − IoU. "
                f"{PIXELS:,} pixels at the "
                "quantiles of the two distributions, nothing drawn at random.",
                bias(sweeps),
            ),
            _table(sweeps),
        ],
    )


def _title(sweeps: list[Sweep]) -> str:
    """How often the Lovász hinge's best bias is the least costly one."""
    best = sum("lovasz_hinge" in one.least_costly for one in sweeps)
    return (
        "With one parameter to choose, the Lovász hinge costs the least Jaccard loss at "
        f"{best} of {len(sweeps)} shares of foreground"
    )


def _sentence(sweeps: list[Sweep]) -> str:
    """Which surrogate's best bias costs the least Jaccard loss, at each share of foreground."""
    parts = []
    for one in sweeps:
        best = [f"the {style(name).label.removesuffix(' per image')}" for name in one.least_costly]
        parts.append(f"at {100 * one.share:g} % foreground by {listed(best)}")
    return (
        "The paper’s synthetic experiment asks which surrogate a classifier with a single "
        "parameter should minimise when it is judged by the Jaccard loss. The bias that costs "
        f"least Jaccard loss, to three decimals, is chosen {', '.join(parts)}."
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


def surface() -> Draw:
    """The Lovász hinge of two pixels over both scores, one panel a labeling."""
    values = {labeling: surrogates.two_pixels(labeling, AXIS) for labeling in LABELINGS}

    def draw(figure: Figure) -> None:
        figure.set_size_inches(WIDTH, 6.9)
        panels = figure.subplots(2, 2, sharex=True, sharey=True)
        for axes, labeling in zip(panels.ravel(), LABELINGS, strict=True):
            height = values[labeling]
            axes.contourf(AXIS, AXIS, height, LEVELS, colors=FILLS)
            lines = axes.contour(AXIS, AXIS, height, LEVELS[1:], colors=INK, linewidths=0.7)
            axes.clabel(lines, fmt="%g", fontsize=9)
            title = f"pixel 1 {SIGNS[labeling[0]]}\npixel 2 {SIGNS[labeling[1]]}"
            axes.set_title(title, fontsize=10.5)
            axes.set_aspect("equal")
            axes.grid(visible=False)
            axes.set_xticks([-2, -1, 0, 1, 2])
            axes.set_yticks([-2, -1, 0, 1, 2])
        for axes in panels[1]:
            axes.set_xlabel("score of pixel 1")
        for axes in panels[:, 0]:
            axes.set_ylabel("score of pixel 2")

    return draw


def bias(sweeps: Sequence[Sweep]) -> Draw:
    """Each loss over the bias, its least point marked; one panel a share of foreground."""
    looks = {name: style(name) for name in NAMES} | {"jaccard": LossStyle("1 − IoU", INK, "*", "-")}

    def draw(figure: Figure) -> None:
        figure.set_size_inches(WIDTH, 3.9)
        panels = figure.subplots(1, len(sweeps), sharey=True)
        for axes, one in zip(panels, sweeps, strict=True):
            axes.axvline(one.bias("jaccard"), color=INK, lw=1, ls=(0, (2, 3)), alpha=0.7)
            for name in NAMES:
                look, values, least = looks[name], one.values[name], one.minimiser(name)
                width = 2.4 if name == "jaccard" else 1.8
                axes.plot(surrogates.BIASES, values, color=look.color, ls=look.line, lw=width)
                axes.plot(
                    surrogates.BIASES[least], values[least], look.marker, color=look.color, ms=8
                )
            axes.set_yscale("log")
            ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_yticks([], minor=True)
            axes.set_xlim(float(surrogates.BIASES[0]), float(surrogates.BIASES[-1]))
            axes.set_title(f"{100 * one.share:g} % foreground")
            axes.set_xlabel("bias added to all scores")
        panels[0].set_ylabel("loss, logarithmic")
        figure.legend(
            [Line2D([], [], color=x.color, ls=x.line, marker=x.marker) for x in looks.values()],
            [look.label for look in looks.values()],
            loc="outside upper left", ncols=5, fontsize=9, handlelength=2.4,
            columnspacing=1.2,
        )  # fmt: skip

    return draw
