"""Drawing functions for what runs over an axis: training steps, thresholds, prevalence, rates."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lovasz_repro.analysis.prevalence import NATURAL
from lovasz_repro.analysis.written import points
from lovasz_repro.report.axes import NARROW, WIDE, limit, window
from lovasz_repro.report.drawing import Draw
from lovasz_repro.report.style import INK, MEASURE_LABELS, ordered, style
from lovasz_repro.schema import without_batch


def _legend(figure: Figure, losses: list[str], narrow: bool) -> None:
    looks = [style(loss) for loss in losses]
    figure.legend(
        [Line2D([], [], color=x.color, ls=x.line) for x in looks],
        [x.label for x in looks],
        loc="outside upper left", ncols=1 if narrow else 3, fontsize=9, handlelength=2.6,
    )  # fmt: skip


def curves(table: pd.DataFrame) -> Draw:
    """Validation measures over training steps, by training loss: the median over categories and the
    band of the middle half of them.

    Args:
        table: loss, measure, step, middle, low, high; the measures are the four losses, image_iou
            and gain; or, where all labels are learned, miou and gain, and a band is of cells.
    """
    measures = list(table["measure"].unique())
    losses = ordered(table["loss"].unique())
    titles = {name: f"{label} loss" for name, label in MEASURE_LABELS.items()}
    titles |= {"image_iou": "image-IoU, %", "gain": "gain over cross-entropy", "miou": "mIoU, %"}

    def draw(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else 3
        lines = -(-len(measures) // columns)
        extra = 0.25 * (len(losses) if narrow else -(-len(losses) // 3))
        figure.set_size_inches(NARROW if narrow else WIDE, 2.2 * lines + extra)
        panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True)).ravel()
        for axes, measure in zip(panels, measures, strict=False):
            for loss in losses:
                rows = table[(table["measure"] == measure) & (table["loss"] == loss)]
                look = style(loss)
                axes.plot(rows["step"], rows["middle"], ls=look.line, color=look.color)
                axes.fill_between(
                    rows["step"], rows["low"], rows["high"], color=look.color, alpha=0.12, lw=0
                )
            axes.set_title(titles[measure])
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step")
        for axes in panels[len(measures) :]:
            axes.axis("off")
        _legend(figure, losses, narrow)

    return draw


def prevalence(table: pd.DataFrame, losses: list[str]) -> Draw:
    """Gain over cross-entropy by the share of images with the category, a line a loss.

    Args:
        table: `prevalence_gains`; losses: those drawn with their bands.
    """
    shown = table[table["loss"].isin(losses)]
    reach = shown.groupby("loss").agg(low=("low", "min"), high=("high", "max"))
    limits = window([reach])

    def draw(figure: Figure, narrow: bool) -> None:
        extra = 0.25 * (len(losses) if narrow else -(-len(losses) // 3))
        figure.set_size_inches(NARROW if narrow else WIDE, 3.6 + extra)
        axes = figure.subplots()
        for loss in losses:
            rows = shown[shown["loss"] == loss]
            look, x = style(loss), 100 * rows["share"]
            axes.plot(x, 100 * rows["difference"], ls=look.line, color=look.color)
            axes.fill_between(
                x, 100 * rows["low"], 100 * rows["high"], color=look.color, alpha=0.13, lw=0
            )
        limit(axes, limits, upright=True)
        _beyond(axes, shown, losses)
        top = axes.get_ylim()[1]
        for share, text in ((NATURAL, "VOC’s own list, 7 %"), (0.5, "val set here, 50 %")):
            axes.axvline(100 * share, color=INK, lw=1, ls=(0, (2, 3)), alpha=0.7)
            axes.annotate(
                text, (100 * share, top), xytext=(4 if share < 0.5 else -4, -2),
                textcoords="offset points", ha="left" if share < 0.5 else "right", va="top",
                fontsize=8.5,
            )  # fmt: skip
        axes.axhline(0, color=INK, lw=1, alpha=0.6)
        axes.set_xlabel("images with the category, %")
        axes.set_ylabel("gain over cross-entropy, points")
        _legend(figure, losses, narrow)

    return draw


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


def thresholds(table: pd.DataFrame, chosen: pd.Series) -> Draw:
    """Image-IoU over the threshold, with the category, without it, and of all.

    Args:
        table: `threshold_curves`; chosen: `chosen_thresholds`, ringed.
    """
    losses = ordered(table["loss"].unique())
    titles = {"all": "all images", "present": "with the category", "absent": "without it"}

    def draw(figure: Figure, narrow: bool) -> None:
        extra = 0.25 * (len(losses) if narrow else -(-len(losses) // 3))
        size = (NARROW, 7.6 + extra) if narrow else (WIDE, 2.9 + extra)
        figure.set_size_inches(*size)
        shape = (3, 1) if narrow else (1, 3)
        panels = np.atleast_1d(figure.subplots(*shape, sharex=True, sharey=True))
        for axes, (part, title) in zip(panels, titles.items(), strict=True):
            for loss in losses:
                rows = table[table["loss"] == loss]
                look = style(loss)
                axes.plot(rows["threshold"], 100 * rows[part], ls=look.line, color=look.color)
                if loss in chosen.index:
                    at = chosen[loss]
                    value = 100 * np.interp(at, rows["threshold"], rows[part])
                    axes.plot(at, value, look.marker, color=look.color, ms=7, mec="none")
            axes.axvline(0, color=INK, lw=1, alpha=0.6)
            axes.set_title(title)
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("threshold on the logits")
        panels[0].set_ylabel("image-IoU, %")
        _legend(figure, losses, narrow)

    return draw


def tuning(tried: pd.DataFrame, measure: str = "image-IoU") -> Draw:
    """Held-out image-IoU or mIoU over the learning rate, a panel a fold and number of steps; what
    was chosen is ringed.

    Args:
        tried: `tuning_frame`. measure: its score's name.
    """
    groups = list(tried.groupby(["fold", "steps"], sort=True))
    losses = ordered(tried["loss"].unique())
    looks = ordered(without_batch(loss) for loss in losses)  # a panel has one batch size
    every = sorted(tried["lr"].unique())

    def draw(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else min(2, len(groups))
        lines = -(-len(groups) // columns)
        extra = 0.25 * (len(looks) if narrow else -(-len(looks) // 3))
        figure.set_size_inches(NARROW if narrow else WIDE, 2.7 * lines + extra)
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
        for axes, ((fold, steps), table) in zip(panels, groups, strict=False):
            for loss in losses:
                _rates(axes, table[table["loss"] == loss].sort_values("lr"), loss)
            axes.set_xscale("log")
            axes.set_xticks(every, [f"{rate:g}" for rate in every], fontsize=8, rotation=45)
            axes.set_xticks([], minor=True)
            axes.set_title(f"fold {fold}, {steps} steps", fontsize=9.5)
            axes.set_xlabel("learning rate")
        for axes in panels[len(groups) :]:
            axes.axis("off")
        panels[0].set_ylabel(f"held-out {measure}, %")
        _legend(figure, looks, narrow)

    return draw


def _rates(axes: Axes, rows: pd.DataFrame, loss: str) -> None:
    look = style(loss)
    value = 100 * rows["miou" if "miou" in rows else "image_iou"]
    axes.plot(rows["lr"], value, ls=look.line, marker=look.marker, color=look.color, ms=4.5)
    best = rows["chosen"].to_numpy(bool)
    axes.plot(rows["lr"][best], value[best], "o", ms=11, mfc="none", mec=look.color, mew=1.4)
