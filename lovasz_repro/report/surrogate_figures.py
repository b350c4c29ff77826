"""Drawing functions for the losses themselves, from `surrogates`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lovasz_repro.report.axes import NARROW, WIDE
from lovasz_repro.report.drawing import Draw
from lovasz_repro.report.style import INK, Line, style
from lovasz_repro.report.surrogates import BIASES, LABELINGS, SWEPT, Sweep, two_pixels

AXIS = np.linspace(-2, 2, 81)  # a step of 0.05: the kinks at ±1 and 0 lie on it
LEVELS = np.arange(0, 3.01, 0.5)
# One hue from clear to dense rather than to white: it is read on a dark page as well.
FILLS = [(*to_rgb(style("lovasz_hinge").color), alpha) for alpha in np.linspace(0.04, 0.8, 6)]
SIGNS = {0: "background", 1: "foreground"}


def surface() -> Draw:
    """The Lovász hinge of two pixels over both scores, one panel a labeling."""
    values = {labeling: two_pixels(labeling, AXIS) for labeling in LABELINGS}

    def draw(figure: Figure, narrow: bool) -> None:
        figure.set_size_inches(*((NARROW, 4.4) if narrow else (WIDE, 6.9)))
        panels = figure.subplots(2, 2, sharex=True, sharey=True)
        for axes, labeling in zip(panels.ravel(), LABELINGS, strict=True):
            axes.contourf(AXIS, AXIS, values[labeling], LEVELS, colors=FILLS)
            lines = axes.contour(
                AXIS, AXIS, values[labeling], LEVELS[1:], colors=INK, linewidths=0.7
            )
            axes.clabel(lines, fmt="%g", fontsize=7.5 if narrow else 9)
            title = f"pixel 1 {SIGNS[labeling[0]]}\npixel 2 {SIGNS[labeling[1]]}"
            axes.set_title(title, fontsize=8 if narrow else 10.5)
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

    def draw(figure: Figure, narrow: bool) -> None:
        if narrow:
            figure.set_size_inches(NARROW, 2.6 * len(sweeps) + 1.2)
            panels = figure.subplots(len(sweeps), 1, sharex=True)
        else:
            figure.set_size_inches(WIDE, 3.9)
            panels = figure.subplots(1, len(sweeps), sharey=True)
        for axes, sweep in zip(np.atleast_1d(panels), sweeps, strict=True):
            axes.axvline(sweep.bias("jaccard"), color=INK, lw=1, ls=(0, (2, 3)), alpha=0.7)
            for name in ("jaccard", *SWEPT):
                color, line, marker = _look(name)
                least = sweep.minimiser(name)
                values = sweep.values[name]
                axes.plot(
                    BIASES, values, color=color, ls=line, lw=2.4 if name == "jaccard" else 1.8
                )
                axes.plot(BIASES[least], values[least], marker, color=color, ms=8)
            axes.set_yscale("log")
            axes.set_yticks(
                [0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"]
            )
            axes.set_yticks([], minor=True)
            axes.set_xlim(float(BIASES[0]), float(BIASES[-1]))
            axes.set_title(f"{100 * sweep.share:g} % foreground")
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("bias added to all scores")
        for axes in np.atleast_1d(panels) if narrow else panels[:1]:
            axes.set_ylabel("loss, logarithmic")
        names = ("jaccard", *SWEPT)
        figure.legend(
            [Line2D([], [], color=c, ls=line, marker=m) for c, line, m in map(_look, names)],
            ["1 − IoU", *(style(name).label for name in SWEPT)],
            loc="outside upper left", ncols=1 if narrow else 5, fontsize=9, handlelength=2.4,
            columnspacing=1.2,
        )  # fmt: skip

    return draw


def _look(name: str) -> tuple[str, Line, str]:
    """Colour, line and marker; the Jaccard loss itself is drawn in ink."""
    look = style(name)
    return (INK, "-", "*") if name == "jaccard" else (look.color, look.line, look.marker)
