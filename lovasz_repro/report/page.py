"""The HTML page: one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import math

from jinja2 import Environment, PackageLoader, StrictUndefined

from lovasz_repro.report.document import Document, Field


def render(document: Document) -> str:
    """The template escapes every text; our own CSS and JavaScript are part of it."""
    environment = Environment(
        loader=PackageLoader("lovasz_repro.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data": lambda content, kind: f"data:{kind};base64,{base64.b64encode(content).decode()}",
        "kind": lambda block: type(block).__name__,
        "order": _order,
    }
    return environment.get_template("page.html.j2").render(document=document)


def _order(field: Field) -> str:
    """The sort key as JavaScript's Number() reads it, or the text itself."""
    if isinstance(field.order, float) and math.isinf(field.order):
        return "Infinity" if field.order > 0 else "-Infinity"
    return str(field.order if field.order != "" else field.text)
