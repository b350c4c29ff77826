"""What several figures share: panels, legends, intervals, axes that no outlier flattens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lovasz_repro.report.style import INK, style
from lovasz_repro.words import points

WIDTH = 7.6  # inches: the page's column
FAR = 3.5  # an interval is cut off if it reaches this many times as far from zero as the median
GAP = 2.5  # and this many times as far as the next nearer one,
CROWDED = 0.6  # and if the axis without it is at most this fraction as long
Window = tuple[float, float] | None


def panels(
    figure: Figure, count: int, columns: int, height: float, losses: Sequence[str] = (),
    **shared: Any,
) -> list[Axes]:  # fmt: skip
    """Set a figure's size and divide it into panels.

    Args:
        columns: panels side by side.
        height: of a panel, in inches.
        losses: named above the panels by their lines.
        shared: of `Figure.subplots`: sharex, sharey, width_ratios.
    """
    lines = -(-count // columns)
    above = 0.25 * -(-len(losses) // 3)
    figure.set_size_inches(WIDTH, height * lines + above)
    every = list(figure.subplots(lines, columns, squeeze=False, **shared).ravel())
    for axes in every[count:]:
        axes.axis("off")
    if losses:
        keys = [Line2D([], [], color=style(loss).color, ls=style(loss).line) for loss in losses]
        legend(figure, keys, losses, handlelength=2.6)
    return every[:count]


def markers(losses: Sequence[str]) -> list[Line2D]:
    """The keys of a legend of markers."""
    looks = [style(loss) for loss in losses]
    return [Line2D([], [], color=look.color, marker=look.marker, ls="") for look in looks]


def legend(figure: Figure, keys: Sequence[Artist], losses: Sequence[str], **spacing: Any) -> None:
    """Name the losses above the figure."""
    labels = [style(loss).label for loss in losses]
    figure.legend(keys, labels, loc="outside upper left", ncols=3, fontsize=9, **spacing)


def window(tables: Iterable[pd.DataFrame]) -> Window:
    """The part of an axis, in points, that shows all intervals but those far out: far from the
    median, with a gap to the next.

    Args:
        tables: with low and high, as shares.

    Returns:
        None if there are none far out: the axis then shows everything.
    """
    ends = pd.concat([table[["low", "high"]] for table in tables]).dropna().to_numpy(float) * 100
    if len(ends) < 3:
        return None
    reach = np.abs(ends).max(axis=1)
    rank = np.sort(reach)
    gap = (rank[1:] > FAR * np.median(reach)) & (rank[1:] > GAP * rank[:-1])
    near = reach <= (rank[gap.argmax()] if gap.any() else rank[-1])
    if near.all() or reach[near].max() > CROWDED * reach.max():
        return None
    low, high = min(0.0, ends[near].min()), max(0.0, ends[near].max())
    room = 0.14 * (high - low)
    return low - room, high + room


ARROWS = {(True, False): "<", (False, False): ">", (True, True): "v", (False, True): "^"}
"""By whether a value lies below the axis, and whether the axis is the vertical one."""


def interval(
    axes: Axes, place: float, row: Any, loss: str, limits: Window = None, upright: bool = False
) -> None:
    """A value with its interval; an arrow with the number at the edge of `limits` if it is beyond.

    Args:
        place: on the other axis.
        row: difference, low, high, as shares.
        upright: the values lie on the vertical axis.
    """
    value, low, high = 100 * row.difference, 100 * row.low, 100 * row.high
    if limits and not inside(value, limits):
        _arrow(axes, place, row.difference, loss, limits, upright)
        return
    look = style(loss)
    ends = np.clip([low, high], *_edges(limits)) if limits else np.array([low, high])
    if np.isfinite(ends).all() and ends[0] < ends[1]:
        line = ([place, place], ends) if upright else (ends, [place, place])
        axes.plot(*line, color=look.color, lw=2, alpha=0.55)
        # A caret if the interval goes on beyond the axis.
        for end, below in ((ends[0], True), (ends[1], False)):
            if low < end if below else end < high:
                _mark(axes, end, place, ARROWS[below, upright], upright, color=look.color, ms=4)
    _mark(axes, value, place, look.marker, upright, color=look.color, ms=6.5, mew=1.6)


def _arrow(
    axes: Axes, place: float, value: float, loss: str, limits: tuple[float, float], upright: bool
) -> None:
    """At the edge of the axis, with the number that lies beyond it."""
    color = style(loss).color
    below = 100 * value < (limits[0] + limits[1]) / 2
    inward = 1 if below else -1
    edge = _edges(limits)[0 if below else 1]
    _mark(axes, edge, place, ARROWS[below, upright], upright, color=color, ms=7)
    if upright:
        at, offset, size = (place, edge), (5, 3 * inward), 8
        align: dict[str, Any] = {"ha": "left", "va": "bottom" if below else "top"}
    else:
        at, offset, size = (edge, place), (8 * inward, 0), 9
        align = {"ha": "left" if below else "right", "va": "center"}
    axes.annotate(
        points(value), at, xytext=offset, textcoords="offset points", color=color, fontsize=size,
        **align,
    )  # fmt: skip


def _edges(limits: tuple[float, float]) -> tuple[float, float]:
    """Where marks of what lies beyond are drawn: inside the axis, off the names of the rows."""
    inset = 0.015 * (limits[1] - limits[0])
    return limits[0] + inset, limits[1] - inset


def _mark(axes: Axes, value: float, place: float, marker: str, upright: bool, **look: Any) -> None:
    x, y = (place, value) if upright else (value, place)
    axes.plot([x], [y], marker=marker, ls="", clip_on=False, **look)


def inside(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def limit(axes: Axes, limits: Window, upright: bool = False) -> None:
    if limits:
        (axes.set_ylim if upright else axes.set_xlim)(*limits)


def rows_of(axes: Axes, losses: Sequence[str]) -> None:
    """The losses as the ticks of the vertical axis, in their colours."""
    axes.set_yticks(range(len(losses)), [style(loss).label for loss in losses])
    for tick, loss in zip(axes.get_yticklabels(), losses, strict=True):
        tick.set_color(style(loss).color)


def zero(axes: Axes, upright: bool = False) -> None:
    """A line where a loss is as good as the reference."""
    (axes.axhline if upright else axes.axvline)(0, color=INK, lw=1, alpha=0.6)
