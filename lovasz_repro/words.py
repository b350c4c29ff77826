"""Numbers as text, for terminals, errors and reports."""

from __future__ import annotations

import math


def count(number: int, noun: str) -> str:
    """`1 cell`, `3 cells`, `2 categories`."""
    plural = (
        noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("s") else "s")
    )
    return f"{number} {noun if number == 1 else plural}"


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign. Below one point it has two
    decimals, so that the parts of a small difference add up to it."""
    value *= 100
    return written(value, 2 if abs(value) < 0.995 else 1, "+")


def written(value: float, digits: int, sign: str = "") -> str:
    """A number with a true minus, and a dash for NaN.

    sign: "+" also keeps the sign of what rounds to zero, `−0.00`, so that an interval that includes
    zero shows it. Within rounding errors of zero it is a plus.
    """
    if not math.isfinite(value):
        return "–"
    if not sign or abs(value) < 1e-8:
        value = round(value, digits) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:{sign}.{digits}f}".replace("-", "−")
