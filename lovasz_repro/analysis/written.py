"""How numbers are written, in the claims' explanations and in the report."""

from __future__ import annotations

import math


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign; with a second decimal where one
    would hide on which side of zero it lies."""
    value *= 100
    return written(value, 2 if 0 < abs(value) < 0.05 else 1, "+")


def written(value: float, digits: int, sign: str = "") -> str:
    """With a true minus; zero has none (what is left of -0.0 by adding 0.0); a dash for NaN."""
    if not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")
