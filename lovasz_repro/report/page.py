"""The HTML page: one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lovasz_repro.report.document import Document, Field


def render(document: Document) -> str:
    """The template escapes every text; only our own CSS and JavaScript are not escaped."""
    environment = Environment(
        loader=PackageLoader("lovasz_repro.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "svg": _data("image/svg+xml"),
        "png": _data("image/png"),
        "jpeg": _data("image/jpeg"),
        "kind": lambda block: type(block).__name__,
        "order": _order,
    }
    template = environment.get_template("page.html.j2")
    return template.render(document=document, css=_own("page.css"), js=_own("page.js"))


def _data(kind: str) -> Callable[[bytes], str]:
    return lambda content: f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _own(name: str) -> Markup:
    return Markup(files("lovasz_repro.report").joinpath(name).read_text("utf-8"))


def _order(field: Field) -> str:
    """The sort key as JavaScript's Number() reads it, or the text itself."""
    if isinstance(field.order, float) and math.isinf(field.order):
        return "Infinity" if field.order > 0 else "-Infinity"
    return str(field.order if field.order != "" else field.text)
