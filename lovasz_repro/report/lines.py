"""Drawing functions for what runs over an axis: training steps, thresholds, prevalence, rates."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lovasz_repro.analysis.prevalence import NATURAL
from lovasz_repro.analysis.written import points
from lovasz_repro.report.axes import limit, panels, window, zero
from lovasz_repro.report.drawing import Draw
from lovasz_repro.report.style import INK, MEASURE_LABELS, ordered, style
from lovasz_repro.schema import without_batch


def _band(
    axes: Axes, x: pd.Series, middle: pd.Series, ends: pd.DataFrame, loss: str, alpha: float
) -> None:
    """A line and the band around it. ends: low and high."""
    look = style(loss)
    axes.plot(x, middle, ls=look.line, color=look.color)
    axes.fill_between(x, ends["low"], ends["high"], color=look.color, alpha=alpha, lw=0)


def curves(table: pd.DataFrame) -> Draw:
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

    def draw(figure: Figure) -> None:
        every = panels(figure, len(measures), 3, 2.2, losses, sharex=True)
        for axes, measure in zip(every, measures, strict=True):
            for loss in losses:
                rows = table[(table["measure"] == measure) & (table["loss"] == loss)]
                _band(axes, rows["step"], rows["middle"], rows, loss, 0.12)
            axes.set_title(titles[measure])
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step")

    return draw


def prevalence(table: pd.DataFrame, losses: list[str]) -> Draw:
    """Gain over cross-entropy by the share of images with the category, a line a loss.

    Args:
        table: `prevalence_gains`; losses: those drawn with their bands.
    """
    shown = table[table["loss"].isin(losses)]
    reach = shown.groupby("loss").agg(low=("low", "min"), high=("high", "max"))
    limits = window([reach])

    def draw(figure: Figure) -> None:
        (axes,) = panels(figure, 1, 1, 3.6, losses)
        for loss in losses:
            rows = 100 * shown[shown["loss"] == loss].drop(columns="loss")
            _band(axes, rows["share"], rows["difference"], rows, loss, 0.13)
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
        zero(axes, upright=True)
        axes.set_xlabel("images with the category, %")
        axes.set_ylabel("gain over cross-entropy, points")

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
        table: `threshold_curves`; chosen: `chosen_thresholds`, marked.
    """
    losses = ordered(table["loss"].unique())
    titles = {"all": "all images", "present": "with the category", "absent": "without it"}

    def draw(figure: Figure) -> None:
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
    rates = sorted(tried["lr"].unique())

    def draw(figure: Figure) -> None:
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

    return draw


def _rates(axes: Axes, rows: pd.DataFrame, loss: str) -> None:
    look = style(loss)
    value = 100 * rows["miou" if "miou" in rows else "image_iou"]
    axes.plot(rows["lr"], value, ls=look.line, marker=look.marker, color=look.color, ms=4.5)
    best = rows["chosen"].to_numpy(bool)
    axes.plot(rows["lr"][best], value[best], "o", ms=11, mfc="none", mec=look.color, mew=1.4)
