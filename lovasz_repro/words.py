"""Numbers in English, for terminals, errors and reports."""

from __future__ import annotations


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
