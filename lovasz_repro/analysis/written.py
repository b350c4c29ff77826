"""How numbers are written, in the claims' explanations and in the report."""

from __future__ import annotations

import math


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign. Below one point it has two
    decimals, so that the parts of a small difference add up to it."""
    value *= 100
    return written(value, 2 if abs(value) < 0.995 else 1, "+")


def written(value: float, digits: int, sign: str = "") -> str:
    """A number with a true minus, no sign at zero (-0.0 + 0.0 is 0.0), and a dash for NaN."""
    if not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")
