"""What several figures draw: intervals, rows of losses, axes that no outlier flattens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lovasz_repro.analysis.written import points
from lovasz_repro.report.style import INK, style

WIDE, NARROW = 7.6, 3.75  # inches: the page's column, a phone
FAR = 3.5  # an interval that reaches so many times as far from zero as the median one
CROWDED = 0.6  # and without which the axis is at most so long
Window = tuple[float, float] | None


def window(tables: Iterable[pd.DataFrame]) -> Window:
    """The part of an axis, in points, that shows all intervals but those far out.

    Args:
        tables: with low and high, as shares.

    Returns:
        None where there are none far out: the axis then shows everything.
    """
    ends = pd.concat([table[["low", "high"]] for table in tables]).dropna().to_numpy(float) * 100
    if len(ends) < 3:
        return None
    reach = np.abs(ends).max(axis=1)
    near = reach <= FAR * np.median(reach)
    if near.all() or reach[near].max() > CROWDED * reach.max():
        return None
    low, high = min(0.0, ends[near].min()), max(0.0, ends[near].max())
    room = 0.14 * (high - low)
    return low - room, high + room


ARROWS = {(True, False): "<", (False, False): ">", (True, True): "v", (False, True): "^"}
"""By whether a value lies below the axis, and whether the axis is the vertical one."""


def interval(
    axes: Axes,
    place: float,
    row: tuple[float, float, float],
    loss: str,
    limits: Window = None,
    upright: bool = False,
) -> None:
    """A value with its interval; an arrow with the number at the edge of `limits` where it lies
    beyond.

    Args:
        place: on the other axis.
        row: value, low, high, as shares.
        upright: the values lie on the vertical axis.
    """
    look = style(loss)
    value, low, high = (100 * number for number in row)
    if not limits or inside(value, limits):
        line = np.clip([low, high], *limits) if limits else np.array([low, high])
        if np.isfinite(line).all() and line[0] < line[1]:
            _plot(axes, line, [place, place], "-", upright, color=look.color, lw=2, alpha=0.55)
            # A caret where the interval goes on beyond the axis.
            for end, below in ((line[0], True), (line[1], False)):
                if low < end if below else end < high:
                    mark = ARROWS[below, upright]
                    _plot(
                        axes, [end], [place], mark, upright, color=look.color, ms=4, clip_on=False
                    )
        _plot(axes, [value], [place], look.marker, upright, color=look.color, ms=6.5, mew=1.6,
              clip_on=False)  # fmt: skip
        return
    below = value < (limits[0] + limits[1]) / 2
    edge = limits[0] if below else limits[1]
    marker = ARROWS[below, upright]
    _plot(axes, [edge], [place], marker, upright, color=look.color, ms=7, clip_on=False)
    inward = 1 if below else -1
    offset = (5 * inward, 0) if upright else (8 * inward, 0)
    axes.annotate(
        points(row[0]),
        (place, edge) if upright else (edge, place),
        xytext=(5, 3 * inward) if upright else offset,
        textcoords="offset points",
        ha="left" if upright or below else "right",
        va="center" if not upright else "bottom" if below else "top",
        color=look.color,
        fontsize=8 if upright else 9,
    )


def inside(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _plot(axes: Axes, values: Any, places: Any, mark: str, upright: bool, **look: Any) -> None:
    pair = (places, values) if upright else (values, places)
    kind: dict[str, Any] = {"ls": mark} if mark == "-" else {"marker": mark, "ls": ""}
    axes.plot(*pair, **kind, **look)


def limit(axes: Axes, limits: Window, upright: bool = False) -> None:
    if limits:
        (axes.set_ylim if upright else axes.set_xlim)(*limits)


def rows_of(axes: Axes, losses: Sequence[str]) -> None:
    """The losses as the ticks of the vertical axis, in their colours."""
    axes.set_yticks(range(len(losses)), [style(loss).label for loss in losses])
    for tick, loss in zip(axes.get_yticklabels(), losses, strict=True):
        tick.set_color(style(loss).color)


def zero(axes: Axes) -> None:
    axes.axvline(0, color=INK, lw=1, alpha=0.6)
    axes.grid(axis="y", visible=False)
