"""From a drawing function to the bytes of a figure, an SVG."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lovasz_repro.report.style import INK, RC

Draw = Callable[[Figure], None]
"""Draws into an empty figure, whose size it sets."""
P = ParamSpec("P")

# The ink follows the reader's colour scheme, also if the SVG is shown as an <img>.
THEME = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#d5dae0}}</style>"
FONTS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    name: of its files and its anchor; alt: what it shows, for those who do not see it;
    caption: what to read from it.
    """

    name: str
    alt: str
    caption: str
    svg: bytes


def drawing(draw: Callable[Concatenate[Figure, P], None]) -> Callable[P, Draw]:
    """Take the other arguments first, the empty figure later."""
    return lambda *args, **options: lambda figure: draw(figure, *args, **options)


def picture(name: str, alt: str, caption: str, draw: Draw) -> Picture:
    return Picture(name, alt, caption, _svg(draw))


def _svg(draw: Draw) -> bytes:
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context(RC):
        figure = Figure()
        draw(figure)
        FigureCanvasSVG(figure)
        # By hand: a figure with a layout engine is drawn twice, the first time only to be laid out.
        ConstrainedLayoutEngine().execute(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue().replace(INK, "currentColor").replace("'DejaVu Sans'", FONTS)
    start = text.index("<svg")
    head = text.index(">", start) + 1
    return f"{text[start:head]}{THEME}{text[head:]}".encode()
