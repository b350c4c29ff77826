"""Drawing functions of the figures; each sets its figure's size.

They take tables as the analysis returns them. Shares are drawn in percent, differences in points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lovasz_repro.analysis.prevalence import NATURAL
from lovasz_repro.report import quoted
from lovasz_repro.report.axes import (
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
from lovasz_repro.report.drawing import drawing
from lovasz_repro.report.style import INK, MEASURE_LABELS, ordered, style
from lovasz_repro.schema import without_batch
from lovasz_repro.words import points


@drawing
def gains(figure: Figure, table: pd.DataFrame, paper: dict[str, float]) -> None:
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
    (axes,) = panels(figure, 1, 1, 0.9 + 0.48 * len(table))
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


@drawing
def per_category(
    figure: Figure, levels: pd.DataFrame, pairs: pd.DataFrame, loss: str,
    measure: str = "Image-IoU", gain: str = "Lovász − cross-entropy, points",
) -> None:  # fmt: skip
    """A measure by category and loss, and the paired difference of one loss, sorted by it.

    Args:
        levels: `levels`.
        pairs: `differences` of `loss` alone, in the order of the rows.
        measure, gain: what the two panels show.
    """
    order = {category: place for place, category in enumerate(pairs["category"])}
    losses = ordered(levels["loss"].unique())
    limits = window([pairs])
    height = 1.4 + 0.36 * max(len(order), 2)
    left, right = panels(figure, 2, 2, height, sharey=True, width_ratios=(3, 2))
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


@drawing
def subsets(figure: Figure, splits: Sequence[tuple[str, pd.DataFrame, dict[str, str]]]) -> None:
    """Gains over cross-entropy on parts of the val images, one panel a split.

    Args:
        splits: title; a table with subset, loss, difference, low, high; labels of the subsets.
    """
    losses = ordered(splits[0][1]["loss"].unique())
    limits = window([table for _, table, _ in splits])
    widths = [1 + len(labels) for _, _, labels in splits]
    every = panels(figure, len(splits), len(splits), 3.7, sharey=True, width_ratios=widths)
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


@drawing
def forests(figure: Figure, shown: Sequence[tuple[str, pd.DataFrame]], label: str) -> None:
    """Differences with intervals by loss, one panel a comparison.

    Args:
        shown: title; a table with loss, difference, low, high.
        label: of the axes.
    """
    losses = ordered(name for _, table in shown for name in table["loss"])
    places = {loss: place for place, loss in enumerate(losses)}
    limits = window([table for _, table in shown])
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


def _band(
    axes: Axes, x: pd.Series, middle: pd.Series, ends: pd.DataFrame, loss: str, alpha: float
) -> None:
    """A line and the band around it. ends: low and high."""
    look = style(loss)
    axes.plot(x, middle, ls=look.line, color=look.color)
    axes.fill_between(x, ends["low"], ends["high"], color=look.color, alpha=alpha, lw=0)


@drawing
def curves(figure: Figure, table: pd.DataFrame) -> None:
    """Validation measures over training steps, by training loss: the median over categories and the
    band of the middle half of them.

    Args:
        table: loss, measure, step, middle, low, high; the measures are the four losses, image_iou
            and gain; multi-class: miou and gain, and a band is of cells.
    """
    measures = list(table["measure"].unique())
    losses = ordered(table["loss"].unique())
    titles = {name: f"{label} loss" for name, label in MEASURE_LABELS.items()}
    titles |= {"image_iou": "image-IoU, %", "gain": "gain over cross-entropy", "miou": "mIoU, %"}
    every = panels(figure, len(measures), 3, 2.2, losses, sharex=True)
    for axes, measure in zip(every, measures, strict=True):
        for loss in losses:
            rows = table[(table["measure"] == measure) & (table["loss"] == loss)]
            _band(axes, rows["step"], rows["middle"], rows, loss, 0.12)
        axes.set_title(titles[measure])
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("step")


@drawing
def prevalence(figure: Figure, table: pd.DataFrame, losses: list[str], of_voc: bool) -> None:
    """Gain over cross-entropy by the share of images with the category, a line a loss.

    Args:
        table: `prevalence_gains`; losses: those drawn with their bands; of_voc: whether VOC's own
            share is marked.
    """
    shown = table[table["loss"].isin(losses)]
    reach = shown.groupby("loss").agg(low=("low", "min"), high=("high", "max"))
    limits = window([reach])
    (axes,) = panels(figure, 1, 1, 3.6, losses)
    for loss in losses:
        rows = 100 * shown[shown["loss"] == loss].drop(columns="loss")
        _band(axes, rows["share"], rows["difference"], rows, loss, 0.13)
    limit(axes, limits, upright=True)
    _beyond(axes, shown, losses)
    top = axes.get_ylim()[1]
    marks = {0.5: "val set here, 50 %"} | ({NATURAL: "VOC’s own list, 7 %"} if of_voc else {})
    for share, text in marks.items():
        axes.axvline(100 * share, color=INK, lw=1, ls=(0, (2, 3)), alpha=0.7)
        axes.annotate(
            text, (100 * share, top), xytext=(4 if share < 0.5 else -4, -2),
            textcoords="offset points", ha="left" if share < 0.5 else "right", va="top",
            fontsize=8.5,
        )  # fmt: skip
    zero(axes, upright=True)
    axes.set_xlabel("images with the category, %")
    axes.set_ylabel("gain over cross-entropy, points")


def _beyond(axes: Axes, table: pd.DataFrame, losses: list[str]) -> None:
    """An arrow with the range for each loss whose line lies outside of the axis."""
    low, high = axes.get_ylim()
    place = 12.0
    for loss in losses:
        gain = 100 * table.loc[table["loss"] == loss, "difference"]
        below = gain.max() < low
        if not (below or gain.min() > high):
            continue
        look, edge = style(loss), low if below else high
        axes.plot(place, edge, "v" if below else "^", color=look.color, ms=7, clip_on=False)
        axes.annotate(
            f"{look.label}, {points(gain.iloc[0] / 100)} to {points(gain.iloc[-1] / 100)}",
            (place, edge), xytext=(7, 4 if below else -4), textcoords="offset points",
            va="bottom" if below else "top", color=look.color, fontsize=8.5,
        )  # fmt: skip


@drawing
def thresholds(figure: Figure, table: pd.DataFrame, chosen: pd.Series) -> None:
    """Image-IoU over the threshold, with the category, without it, and of all.

    Args:
        table: `threshold_curves`; chosen: `chosen_thresholds`, marked.
    """
    losses = ordered(table["loss"].unique())
    titles = {"all": "all images", "present": "with the category", "absent": "without it"}
    every = panels(figure, 3, 3, 2.9, losses, sharex=True, sharey=True)
    for axes, (part, title) in zip(every, titles.items(), strict=True):
        for loss in losses:
            rows = table[table["loss"] == loss]
            look = style(loss)
            axes.plot(rows["threshold"], 100 * rows[part], ls=look.line, color=look.color)
            if loss in chosen.index:
                at = chosen[loss]
                value = 100 * np.interp(at, rows["threshold"], rows[part])
                axes.plot(at, value, look.marker, color=look.color, ms=7, mec="none")
        zero(axes)
        axes.set_title(title)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("threshold on the logits")
    every[0].set_ylabel("image-IoU, %")


@drawing
def tuning(figure: Figure, tried: pd.DataFrame, measure: str = "image-IoU") -> None:
    """Held-out image-IoU or mIoU over the learning rate, a panel a fold and number of steps; what
    was chosen is ringed.

    Args:
        tried: `tuning_frame`. measure: its score's name.
    """
    groups = list(tried.groupby(["fold", "steps"], sort=True))
    losses = ordered(tried["loss"].unique())
    looks = ordered(without_batch(loss) for loss in losses)  # a panel has one batch size
    rates = sorted(tried["lr"].unique())
    columns = min(2, len(groups))
    every = panels(figure, len(groups), columns, 2.7, looks, sharey=True)
    for axes, ((fold, steps), table) in zip(every, groups, strict=True):
        for loss in losses:
            _rates(axes, table[table["loss"] == loss].sort_values("lr"), loss)
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], fontsize=8, rotation=45)
        axes.set_xticks([], minor=True)
        axes.set_title(f"fold {fold}, {steps} steps", fontsize=9.5)
        axes.set_xlabel("learning rate")
    every[0].set_ylabel(f"held-out {measure}, %")


def _rates(axes: Axes, rows: pd.DataFrame, loss: str) -> None:
    look = style(loss)
    value = 100 * rows["miou" if "miou" in rows else "image_iou"]
    axes.plot(rows["lr"], value, ls=look.line, marker=look.marker, color=look.color, ms=4.5)
    best = rows["chosen"].to_numpy(bool)
    axes.plot(rows["lr"][best], value[best], "o", ms=11, mfc="none", mec=look.color, mew=1.4)
