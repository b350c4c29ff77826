"""Drawing functions for what the records say; each sets its figure's size, wide or narrow.

Every one takes tables as the analysis returns them. Shares are drawn in percent, differences in
points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lovasz_repro.analysis.written import points
from lovasz_repro.report import quoted
from lovasz_repro.report.axes import NARROW, WIDE, inside, interval, limit, rows_of, window, zero
from lovasz_repro.report.drawing import Draw
from lovasz_repro.report.style import INK, ordered, style


def gains(table: pd.DataFrame, paper: dict[str, float]) -> Draw:
    """Mean image-IoU gain over cross-entropy by row of Table 1, and the paper's.

    Args:
        table: `headline`, the rows with a difference.
        paper: the paper's gains by loss, as shares.
    """
    ends = table[["difference_low", "difference_high"]].set_axis(["low", "high"], axis=1)
    limits = window([ends])
    if limits and paper:
        limits = (
            min(limits[0], 110 * min(paper.values())),
            max(limits[1], 110 * max(paper.values())),
        )

    def draw(figure: Figure, narrow: bool) -> None:
        figure.set_size_inches(NARROW if narrow else WIDE, 0.9 + 0.48 * len(table))
        axes = figure.subplots()
        for place, row in enumerate(table.itertuples()):
            look = style(row.row)
            inner = np.array([row.these_low, row.these_high]) * 100
            if not limits or inside(100 * row.difference, limits):
                axes.plot(inner, [place, place], color=look.color, lw=6, alpha=0.25)
            shown = (row.difference, row.difference_low, row.difference_high)
            interval(axes, place, shown, row.row, limits)
            if not limits or inside(100 * row.difference, limits):
                axes.annotate(
                    points(row.difference), (100 * row.difference, place), xytext=(0, 7),
                    textcoords="offset points", ha="center", color=look.color, fontsize=9,
                    fontweight="bold",
                )  # fmt: skip
            if row.row in paper:
                at = (100 * paper[row.row], place)
                axes.plot(*at, "|", color=INK, ms=9, mew=1.6)
                axes.annotate(
                    f"paper{quoted.SIGN}", at, xytext=(5, 0), textcoords="offset points",
                    va="center", fontsize=8.5, alpha=0.75,
                )  # fmt: skip
        rows_of(axes, table["row"])
        if narrow:
            axes.tick_params(axis="y", labelsize=8)
        axes.set_ylim(len(table) - 0.4, -0.6)
        limit(axes, limits)
        zero(axes)
        axes.set_xlabel("gain over cross-entropy, points")

    return draw


def per_category(
    levels: pd.DataFrame, pairs: pd.DataFrame, loss: str, measure: str = "Image-IoU",
    gain: str = "Lovász − cross-entropy, points",
) -> Draw:  # fmt: skip
    """A measure by category and loss, and the paired difference of one loss, sorted by it.

    Args:
        levels: `levels`.
        pairs: `differences` of `loss` alone, in the order of the rows.
        measure, gain: what the two panels show.
    """
    order = {category: place for place, category in enumerate(pairs["category"])}

    losses = ordered(levels["loss"].unique())
    limits = window([pairs])

    def draw(figure: Figure, narrow: bool) -> None:
        height = 1.1 + 0.36 * max(len(order), 2)
        if narrow:
            figure.set_size_inches(NARROW, 2 * height + 0.5)
            left, right = figure.subplots(2, 1)
        else:
            figure.set_size_inches(WIDE, height + 0.3)
            left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for index, name in enumerate(losses):
            rows = levels[(levels["loss"] == name) & levels["category"].isin(order)]
            # Side by side within the row: losses that are nearly equal would cover each other.
            shift = (index - (len(losses) - 1) / 2) * 0.72 / len(losses)
            left.plot(
                100 * rows["value"], rows["category"].map(order) + shift, style(name).marker,
                color=style(name).color, ms=4.5, label=style(name).label, ls="",
            )  # fmt: skip
        for row in pairs.itertuples():
            shown = (row.difference, row.low, row.high)
            interval(right, order[row.category], shown, loss, limits)
        for axes in (left, right):
            for place in range(0, len(order), 2):
                axes.axhspan(place - 0.5, place + 0.5, color=INK, alpha=0.05, lw=0)
            axes.grid(axis="y", visible=False)
            axes.set_yticks(range(len(order)), list(order))
            axes.set_ylim(len(order) - 0.5, -0.5)
        limit(right, limits)
        zero(right)
        left.set_title(f"{measure}, %")
        right.set_title(gain)
        figure.legend(
            *left.get_legend_handles_labels(),
            loc="outside upper left", ncols=1 if narrow else 3, fontsize=9, handletextpad=0.2,
        )  # fmt: skip

    return draw


def subsets(panels: Sequence[tuple[str, pd.DataFrame, dict[str, str]]]) -> Draw:
    """Gains over cross-entropy on parts of the val images, one panel a split.

    Args:
        panels: title; a table with subset, loss, difference, low, high; labels of the subsets.
    """

    losses = ordered(panels[0][1]["loss"].unique())
    limits = window([table for _, table, _ in panels])

    def draw(figure: Figure, narrow: bool) -> None:
        if narrow:
            figure.set_size_inches(NARROW, 3.1 * len(panels) + 0.2 * len(losses))
            every = np.atleast_1d(figure.subplots(len(panels), 1))
        else:
            figure.set_size_inches(WIDE, 3.7)
            widths = [1 + len(labels) for _, _, labels in panels]
            every = np.atleast_1d(figure.subplots(1, len(panels), sharey=True, width_ratios=widths))
        for axes, (title, table, labels) in zip(every, panels, strict=True):
            places = {subset: place for place, subset in enumerate(labels)}
            for index, loss in enumerate(losses):
                rows = table[(table["loss"] == loss) & table["subset"].isin(labels)]
                shift = (index - (len(losses) - 1) / 2) * 0.6 / max(len(losses), 1)
                for row in rows.itertuples():
                    shown = (row.difference, row.low, row.high)
                    interval(axes, places[row.subset] + shift, shown, loss, limits, upright=True)
            axes.set_xticks(range(len(labels)), list(labels.values()))
            axes.set_xlim(-0.5, len(labels) - 0.5)
            axes.axhline(0, color=INK, lw=1, alpha=0.6)
            axes.grid(axis="x", visible=False)
            axes.set_title(title)
            limit(axes, limits, upright=True)
        every[0].set_ylabel("gain over cross-entropy, points")
        looks = [style(loss) for loss in losses]
        figure.legend(
            [Line2D([], [], color=x.color, marker=x.marker, ls="") for x in looks],
            [x.label for x in looks],
            loc="outside upper left", ncols=1 if narrow else 3, fontsize=9, handletextpad=0.3,
        )  # fmt: skip

    return draw


def forests(panels: Sequence[tuple[str, pd.DataFrame]], label: str) -> Draw:
    """Differences with intervals by loss, one panel a comparison.

    Args:
        panels: title; a table with loss, difference, low, high.
        label: of the axes.
    """
    losses = ordered(name for _, table in panels for name in table["loss"])
    places = {loss: place for place, loss in enumerate(losses)}
    limits = window([table for _, table in panels])

    def draw(figure: Figure, narrow: bool) -> None:
        height = 0.8 + 0.34 * len(losses)
        columns = 1
        if narrow:
            figure.set_size_inches(NARROW, len(panels) * height)
            every = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
        else:
            lines = -(-len(panels) // 3)
            columns = -(-len(panels) // lines)
            figure.set_size_inches(WIDE, lines * height)
            every = figure.subplots(lines, columns, sharey=True, sharex=True, squeeze=False).ravel()
        for place, (axes, (title, table)) in enumerate(zip(every, panels, strict=False)):
            for row in table.itertuples():
                shown = (row.difference, row.low, row.high)
                interval(axes, places[row.loss], shown, row.loss, limits)
            if narrow or not place % columns:
                rows_of(axes, losses)
            axes.set_ylim(len(losses) - 0.5, -0.5)
            axes.tick_params(labelbottom=True)
            axes.set_title(title, fontsize=9.5)
            limit(axes, limits)
            zero(axes)
        for axes in every[len(panels) :]:
            axes.axis("off")
        if narrow:
            every[-1].set_xlabel(label)
        else:
            figure.supxlabel(label, fontsize=9.5)

    return draw
