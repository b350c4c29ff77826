"""What a report is made of: sections of text, tables and pictures, and how numbers are written.

The HTML page and the Markdown report are two renderings of the same document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from lovasz_repro.report.drawing import Picture
from lovasz_repro.report.style import style
from lovasz_repro.words import points, written


@dataclass(frozen=True)
class Field:
    """One field of a table. order: what its column sorts by; interval: shown small behind the text;
    loss: the loss whose colour marks the row; best: printed bold; link: an anchor on the page."""

    text: str
    order: float | str = ""
    interval: str = ""
    loss: str = ""
    best: bool = False
    link: str = ""

    @property
    def color(self) -> str:
        return style(self.loss).color if self.loss else ""


@dataclass(frozen=True)
class Link:
    """A relative link from the page; markdown: from report.md, if that differs."""

    text: str
    page: str
    markdown: str = ""


@dataclass(frozen=True)
class Table:
    """name: of its CSV and anchor; data: the content of the CSV; numbers: the columns of numbers,
    None for all but the first; cards: on a phone each row is a card, its fields one below the
    other; links: shown after the one to the CSV."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Field]]
    data: pd.DataFrame
    numbers: Sequence[int] | None = None
    cards: bool = False
    links: Sequence[Link] = ()

    @property
    def csv(self) -> str:
        """The path of its CSV from the page."""
        return f"tables/{self.name}.csv"

    @property
    def numeric(self) -> Sequence[int]:
        """The columns that are aligned to the right."""
        return range(1, len(self.columns)) if self.numbers is None else self.numbers

    def interval_width(self, column: int) -> int:
        """The characters of a column's longest interval, so that its values line up before them."""
        return max((len(row[column].interval) for row in self.rows), default=0)


@dataclass(frozen=True)
class Paragraph:
    """lead: large, at the top; warning: in a box; note: a footnote."""

    text: str
    lead: bool = False
    warning: bool = False
    note: bool = False


@dataclass(frozen=True)
class Listing:
    """A list of points; with `summary` it is folded on the page behind that line."""

    items: Sequence[str]
    summary: str = ""


@dataclass(frozen=True)
class Prediction:
    """What one loss predicts for a gallery image. picture: a layer over the photograph; without a
    photograph, the difference to the truth on a plain background."""

    loss: str
    label: str
    iou: str
    picture: bytes

    @property
    def color(self) -> str:
        return style(self.loss).color


@dataclass(frozen=True)
class Example:
    """One image of the gallery with its pictures.

    image: the photograph, None in records without them; predictions: those shown at once; others:
    those folded away; strip: `predictions` side by side, for Markdown.
    """

    anchor: str
    category: str
    title: str
    note: str
    width: int
    height: int
    image: bytes | None
    truth: bytes
    outline: bytes
    predictions: Sequence[Prediction]
    others: Sequence[Prediction]
    before: Prediction | None  # the two that the slider compares
    after: Prediction | None
    strip: bytes

    @property
    def file(self) -> str:
        """The path of the strip from the page."""
        return f"figures/gallery/{self.anchor}.{'jpg' if self.image else 'png'}"


@dataclass(frozen=True)
class Gallery:
    """legend: text and colour of what a prediction without a photograph shows."""

    examples: Sequence[Example]
    legend: Sequence[tuple[str, str]] = ()

    @property
    def categories(self) -> dict[str, list[Example]]:
        """The examples by category, in order."""
        groups: dict[str, list[Example]] = {}
        for example in self.examples:
            groups.setdefault(example.category, []).append(example)
        return groups


Block = Paragraph | Listing | Table | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """short: its line in the table of contents."""

    anchor: str
    short: str
    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Document:
    """title, facts: the lines of the header (label, text); banner: shown above all if not empty."""

    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    banner: str = ""

    def blocks(self) -> list[Block]:
        return [block for section in self.sections for block in section.blocks]


def of_difference(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose low and high are those of its difference instead of those of its value."""
    ends = {"difference_low": "low", "difference_high": "high"}
    return table.drop(columns=["low", "high"], errors="ignore").rename(columns=ends)


MISSING = Field("–", -math.inf)


def loss_field(loss: str) -> Field:
    return Field(style(loss).label, style(loss).label, loss=loss)


def level_field(
    value: float, write: Callable[[float], str], interval: str = "", best: bool = False
) -> Field:
    if not math.isfinite(value):
        return Field("missing", -math.inf)
    return Field(write(value), value, interval, best=best)


def gain_field(value: float, low: float, high: float) -> Field:
    """A difference with its interval; a dash if there is nothing to compare with."""
    if not math.isfinite(value):
        return MISSING
    return level_field(value, points, interval(low, high, points))


def percent(value: float) -> str:
    """A share in percent with one decimal, as in the paper's table."""
    return written(100 * value, 1)


def plain(value: float) -> str:
    return written(value, 3)


def signed(value: float) -> str:
    return written(value, 2, "+")


def probability(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float, high: float, write: Callable[[float], str] = percent) -> str:
    """`[low, high]`, never broken over lines; empty if there is none (one category)."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{write(low)},\u00a0{write(high)}]"


def listed(words: Iterable[object]) -> str:
    """`a, b and c`."""
    texts = [str(word) for word in words]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def capital(text: str) -> str:
    """The text with a capital first letter; the others stay as they are."""
    return text[0].upper() + text[1:]
