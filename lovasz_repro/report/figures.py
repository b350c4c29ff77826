"""Drawing functions for what the records say; each sets its figure's size, wide or narrow.

Every one takes tables as `stats` returns them. Shares are drawn in percent, differences in points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lovasz_repro.report.document import points
from lovasz_repro.report.drawing import Draw
from lovasz_repro.report.style import INK, MEASURE_LABELS, style

WIDE, NARROW = 7.6, 3.75  # inches: the page's column, a phone


def gains(table: pd.DataFrame, quoted: dict[str, float]) -> Draw:
    """Mean image-IoU gain over cross-entropy by loss, and the paper's.

    Args:
        table: `mean_differences`.
        quoted: the paper's gains by loss, as shares.
    """

    def draw(figure: Figure, narrow: bool) -> None:
        height = 0.9 + 0.48 * len(table)
        figure.set_size_inches(NARROW if narrow else WIDE, height)
        axes = figure.subplots()
        for place, row in enumerate(table.itertuples()):
            look = style(row.loss)
            _interval(axes, place, row.difference, row.low, row.high, row.loss)
            axes.annotate(
                points(row.difference),
                (100 * row.difference, place),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                color=look.color,
                fontsize=9,
                fontweight="bold",
            )
            if row.loss in quoted:
                axes.plot(100 * quoted[row.loss], place + 0.3, "|", color=INK, ms=9, mew=1.6)
                axes.annotate(
                    "paper" + (" (quoted)" if not narrow else ""),
                    (100 * quoted[row.loss], place + 0.3),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                    alpha=0.75,
                )
        _rows(axes, table["loss"])
        axes.set_ylim(len(table) - 0.4, -0.6)
        _zero(axes)
        axes.set_xlabel("gain over cross-entropy, points")

    return draw


def per_category(levels: pd.DataFrame, pairs: pd.DataFrame, loss: str) -> Draw:
    """Image-IoU by category and loss, and the paired difference of one loss, sorted by it.

    Args:
        levels: `levels`.
        pairs: `differences` of `loss` alone, in the order of the rows.
    """
    order = {category: place for place, category in enumerate(pairs["category"])}

    def draw(figure: Figure, narrow: bool) -> None:
        height = 1.1 + 0.27 * max(len(order), 2)
        if narrow:
            figure.set_size_inches(NARROW, 2 * height + 0.5)
            left, right = figure.subplots(2, 1)
        else:
            figure.set_size_inches(WIDE, height + 0.3)
            left, right = figure.subplots(1, 2, sharey=True)
        for name in levels["loss"].unique():
            rows = levels[(levels["loss"] == name) & levels["category"].isin(order)]
            left.plot(
                100 * rows["value"],
                rows["category"].map(order),
                style(name).marker,
                color=style(name).color,
                alpha=0.9,
                label=style(name).label,
                ls="",
            )
        for row in pairs.itertuples():
            _interval(right, order[row.category], row.difference, row.low, row.high, loss)
        for axes in (left, right):
            axes.set_yticks(range(len(order)), list(order))
            axes.set_ylim(len(order) - 0.5, -0.5)
        _zero(right)
        left.set_title("Image-IoU, %")
        right.set_title("Lovász − cross-entropy, points")
        figure.legend(
            *left.get_legend_handles_labels(),
            loc="outside upper left", ncols=1 if narrow else 3, fontsize=9, handletextpad=0.2,
        )  # fmt: skip

    return draw


def curves(table: pd.DataFrame) -> Draw:
    """Validation measures over training steps, by training loss: the median over categories and the
    band of the middle half of them.

    Args:
        table: loss, measure, step, middle, low, high.
    """
    measures = list(table["measure"].unique())

    def draw(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else 3
        lines = -(-(len(measures) + 1) // columns)
        figure.set_size_inches(NARROW if narrow else WIDE, 2.35 * lines - 0.6 * narrow)
        panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True)).ravel()
        for axes, measure in zip(panels, measures, strict=False):
            for loss, rows in table[table["measure"] == measure].groupby("loss", sort=False):
                look = style(str(loss))
                axes.plot(rows["step"], rows["middle"], look.line, color=look.color)
                axes.fill_between(
                    rows["step"], rows["low"], rows["high"], color=look.color, alpha=0.12, lw=0
                )
            axes.set_title(
                f"{MEASURE_LABELS[measure]}" + (", %" if measure == "image_iou" else " loss")
            )
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step")
        for axes in panels[len(measures) :]:
            axes.axis("off")
        losses = table["loss"].unique()
        panels[len(measures)].legend(
            [Line2D([], [], color=style(x).color, ls=style(x).line) for x in losses],
            [style(x).label for x in losses],
            loc="center left", title="training loss", alignment="left", fontsize=9,
            handlelength=2.6,
        )  # fmt: skip

    return draw


def subsets(panels: Sequence[tuple[str, pd.DataFrame, dict[str, str]]]) -> Draw:
    """Gains over cross-entropy on parts of the val images, one panel a split.

    Args:
        panels: title; a table with subset, loss, difference, low, high; labels of the subsets.
    """

    def draw(figure: Figure, narrow: bool) -> None:
        losses = list(panels[0][1]["loss"].unique())
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
                x = rows["subset"].map(places) + shift
                look = style(loss)
                spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["difference"].to_numpy())
                axes.errorbar(
                    x, 100 * rows["difference"], yerr=100 * spread, fmt=look.marker,
                    color=look.color, elinewidth=1.6, label=look.label,
                )  # fmt: skip
            axes.set_xticks(range(len(labels)), list(labels.values()))
            axes.set_xlim(-0.5, len(labels) - 0.5)
            axes.axhline(0, color=INK, lw=1, alpha=0.6)
            axes.grid(axis="x", visible=False)
            axes.set_title(title)
        every[0].set_ylabel("gain over cross-entropy, points")
        figure.legend(
            *every[0].get_legend_handles_labels(), loc="outside upper left",
            ncols=1 if narrow else 3, fontsize=9, handletextpad=0.3,
        )  # fmt: skip

    return draw


def forests(panels: Sequence[tuple[str, pd.DataFrame]], label: str) -> Draw:
    """Differences with intervals by loss, one panel a comparison.

    Args:
        panels: title; a table with loss, difference, low, high.
        label: of the axes.
    """
    losses = max((list(table["loss"]) for _, table in panels), key=len)
    places = {loss: place for place, loss in enumerate(losses)}

    def draw(figure: Figure, narrow: bool) -> None:
        height = 0.75 + 0.34 * len(losses)
        if narrow:
            figure.set_size_inches(NARROW, len(panels) * height)
            every = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
        else:
            figure.set_size_inches(WIDE, height)
            every = np.atleast_1d(figure.subplots(1, len(panels), sharey=True, sharex=True))
        for axes, (title, table) in zip(every, panels, strict=True):
            for row in table.itertuples():
                _interval(axes, places[row.loss], row.difference, row.low, row.high, row.loss)
            if narrow or axes is every[0]:
                _rows(axes, losses)
            axes.set_ylim(len(losses) - 0.5, -0.5)
            axes.tick_params(labelbottom=True)
            axes.set_title(title, fontsize=9.5)
            _zero(axes)
        if narrow:
            every[-1].set_xlabel(label)
        else:
            figure.supxlabel(label, fontsize=9.5)

    return draw


def learning_rates(tried: pd.DataFrame) -> Draw:
    """Held-out image-IoU over the learning rate; the chosen rate is ringed.

    Args:
        tried: loss, lr, image_iou, chosen.
    """

    def draw(figure: Figure, narrow: bool) -> None:
        figure.set_size_inches(*((NARROW, 4.4) if narrow else (WIDE, 3.4)))
        axes = figure.subplots()
        for loss, rows in tried.groupby("loss", sort=False):
            look = style(str(loss))
            axes.plot(
                rows["lr"], 100 * rows["image_iou"], look.line, marker=look.marker,
                color=look.color, label=look.label,
            )  # fmt: skip
            best = rows[rows["chosen"]]
            axes.plot(
                best["lr"], 100 * best["image_iou"], "o", ms=12, mfc="none", mec=look.color, mew=1.4
            )
        axes.set_xscale("log")
        rates = sorted(tried["lr"].unique())
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("held-out image-IoU, %")
        figure.legend(
            loc="outside upper left" if narrow else "outside right center",
            fontsize=9,
            handlelength=2.6,
        )

    return draw


def _interval(axes: Axes, place: float, value: float, low: float, high: float, loss: str) -> None:
    look = style(loss)
    axes.plot([100 * low, 100 * high], [place, place], color=look.color, lw=2, alpha=0.55)
    axes.plot(100 * value, place, look.marker, color=look.color, ms=7)


def _rows(axes: Axes, losses: Sequence[str]) -> None:
    axes.set_yticks(range(len(losses)), [style(loss).label for loss in losses])
    for tick, loss in zip(axes.get_yticklabels(), losses, strict=True):
        tick.set_color(style(loss).color)


def _zero(axes: Axes) -> None:
    axes.axvline(0, color=INK, lw=1, alpha=0.6)
    axes.grid(axis="y", visible=False)
