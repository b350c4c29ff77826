"""Drawing functions of the figures; each sets its figure's size.

They take tables as the analysis returns them. Shares are drawn in percent, differences in points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lovasz_repro.analysis.written import points
from lovasz_repro.report import quoted
from lovasz_repro.report.axes import (
    WIDTH,
    inside,
    interval,
    legend,
    limit,
    markers,
    panels,
    rows_of,
    window,
    zero,
)
from lovasz_repro.report.document import of_difference
from lovasz_repro.report.drawing import Draw
from lovasz_repro.report.style import INK, ordered, style
from lovasz_repro.schema import without_batch


def gains(table: pd.DataFrame, paper: dict[str, float]) -> Draw:
    """Mean image-IoU gain over cross-entropy by row of Table 1, and the paper's.

    Args:
        table: `headline`, the rows with a difference.
        paper: the paper's gains by loss, as shares.
    """
    table = of_difference(table)
    limits = window([table])
    if limits and paper:
        least, most = 110 * min(paper.values()), 110 * max(paper.values())
        limits = min(limits[0], least), max(limits[1], most)

    def draw(figure: Figure) -> None:
        figure.set_size_inches(WIDTH, 0.9 + 0.48 * len(table))
        axes = figure.subplots()
        for place, row in enumerate(table.itertuples()):
            color, value = style(row.row).color, 100 * row.difference
            shown = not limits or inside(value, limits)
            if shown:
                inner = np.array([row.these_low, row.these_high]) * 100
                axes.plot(inner, [place, place], color=color, lw=6, alpha=0.25)
            interval(axes, place, row, row.row, limits)
            if shown:
                axes.annotate(
                    points(row.difference), (value, place), xytext=(0, 7), color=color, ha="center",
                    textcoords="offset points", fontsize=9, fontweight="bold",
                )  # fmt: skip
            if row.row in paper:
                at = (100 * paper[row.row], place)
                axes.plot(*at, "|", color=INK, ms=9, mew=1.6)
                axes.annotate(
                    f"paper{quoted.SIGN}", at, xytext=(-3, -6), textcoords="offset points",
                    ha="left", va="top", fontsize=8.5, alpha=0.75,
                )  # fmt: skip
        rows_of(axes, table["row"])
        axes.set_ylim(len(table) - 0.4, -0.6)
        limit(axes, limits)
        zero(axes)
        axes.grid(axis="y", visible=False)
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

    def draw(figure: Figure) -> None:
        height = 1.1 + 0.36 * max(len(order), 2)
        figure.set_size_inches(WIDTH, height + 0.3)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for index, name in enumerate(losses):
            rows = levels[(levels["loss"] == name) & levels["category"].isin(order)]
            # Side by side within the row: losses that are nearly equal would cover each other.
            shift = (index - (len(losses) - 1) / 2) * 0.72 / len(losses)
            look, places = style(name), rows["category"].map(order) + shift
            values = 100 * rows["value"]
            left.plot(values, places, look.marker, color=look.color, ms=4.5, label=look.label)
        for row in pairs.itertuples():
            interval(right, order[row.category], row, loss, limits)
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
        keys, _ = left.get_legend_handles_labels()
        legend(figure, keys, losses, handletextpad=0.2)

    return draw


def subsets(splits: Sequence[tuple[str, pd.DataFrame, dict[str, str]]]) -> Draw:
    """Gains over cross-entropy on parts of the val images, one panel a split.

    Args:
        splits: title; a table with subset, loss, difference, low, high; labels of the subsets.
    """
    losses = ordered(splits[0][1]["loss"].unique())
    limits = window([table for _, table, _ in splits])

    def draw(figure: Figure) -> None:
        figure.set_size_inches(WIDTH, 3.7)
        widths = [1 + len(labels) for _, _, labels in splits]
        every = figure.subplots(1, len(splits), sharey=True, width_ratios=widths)
        for axes, (title, table, labels) in zip(every, splits, strict=True):
            places = {subset: place for place, subset in enumerate(labels)}
            for index, loss in enumerate(losses):
                rows = table[(table["loss"] == loss) & table["subset"].isin(labels)]
                shift = (index - (len(losses) - 1) / 2) * 0.6 / len(losses)
                for row in rows.itertuples():
                    interval(axes, places[row.subset] + shift, row, loss, limits, upright=True)
            axes.set_xticks(range(len(labels)), list(labels.values()))
            axes.set_xlim(-0.5, len(labels) - 0.5)
            zero(axes, upright=True)
            axes.grid(axis="x", visible=False)
            axes.set_title(title)
            limit(axes, limits, upright=True)
        every[0].set_ylabel("gain over cross-entropy, points")
        legend(figure, markers(losses), losses, handletextpad=0.3)

    return draw


def forests(shown: Sequence[tuple[str, pd.DataFrame]], label: str) -> Draw:
    """Differences with intervals by loss, one panel a comparison.

    Args:
        shown: title; a table with loss, difference, low, high.
        label: of the axes.
    """
    losses = ordered(name for _, table in shown for name in table["loss"])
    places = {loss: place for place, loss in enumerate(losses)}
    limits = window([table for _, table in shown])

    def draw(figure: Figure) -> None:
        columns = -(-len(shown) // -(-len(shown) // 3))
        height = 0.8 + 0.34 * len(losses)
        every = panels(figure, len(shown), columns, height, sharex=True, sharey=True)
        for place, (axes, (title, table)) in enumerate(zip(every, shown, strict=True)):
            for row in table.itertuples():
                interval(axes, places[row.loss], row, row.loss, limits)
            if place % columns == 0:
                rows_of(axes, losses)
            axes.set_ylim(len(losses) - 0.5, -0.5)
            axes.tick_params(labelbottom=True)
            axes.set_title(title, fontsize=9.5)
            limit(axes, limits)
            zero(axes)
            axes.grid(axis="y", visible=False)
        figure.supxlabel(label, fontsize=9.5)

    return draw


def by_batch(gains: pd.DataFrame, first: str) -> Draw:
    """Gain in mIoU over cross-entropy against the images a step, by loss.

    Args:
        gains: rows of `scores_table` with a difference.
        first: the loss that is drawn first.
    """
    gains = of_difference(gains.assign(loss=gains["loss"].map(without_batch)))
    batches = sorted(gains["batch_size"].unique())
    losses = sorted(ordered(gains["loss"]), key=lambda loss: loss != first)
    limits = window([gains])

    def draw(figure: Figure) -> None:
        figure.set_size_inches(WIDTH, 3.8)
        axes = figure.subplots()
        for index, loss in enumerate(losses):
            own, look = gains[gains["loss"] == loss].sort_values("batch_size"), style(loss)
            places = [batches.index(n) + 0.09 * index for n in own["batch_size"]]
            axes.plot(places, 100 * own["difference"], ls=look.line, color=look.color, lw=1.2)
            for place, row in zip(places, own.itertuples(), strict=True):
                interval(axes, place, row, loss, limits, upright=True)
            axes.plot([], [], look.marker, color=look.color, label=look.label, ls="")
        axes.set_xticks(range(len(batches)), [str(n) for n in batches])
        axes.set_xlim(-0.4, len(batches) - 0.4)
        zero(axes, upright=True)
        axes.grid(axis="x", visible=False)
        limit(axes, limits, upright=True)
        axes.set_xlabel("images a step")
        axes.set_ylabel("gain over cross-entropy, points of mIoU")
        keys, _ = axes.get_legend_handles_labels()
        legend(figure, keys, losses, handletextpad=0.3)

    return draw
