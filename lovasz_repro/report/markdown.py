"""The Markdown report: the same document for a code host, with links to the figures beside it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence

from lovasz_repro.report.document import (
    Block,
    Document,
    Example,
    Field,
    Gallery,
    Listing,
    Paragraph,
    Table,
)
from lovasz_repro.report.drawing import Picture

ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "*": "\\*", "`": "\\`", "](": "]\\("}


def render(document: Document) -> str:
    parts = [f"# {escaped(document.title)}"]
    if document.banner:
        parts.append(f"> **{escaped(document.banner)}**")
    for number, section in enumerate(document.sections):
        parts.append(f"## {escaped(section.title)}")
        parts += [_block(block) for block in section.blocks]
        if number == 0:
            parts.append("\n".join(f"- {escaped(a)}: {escaped(b)}" for a, b in document.facts))
    return "\n\n".join(parts) + "\n"


def table(block: Table) -> str:
    """A pipe table; intervals stay behind their value."""
    rows = [[_field(field) for field in row] for row in block.rows]
    return pipes([escaped(name) for name in block.columns], rows, block.numeric)


def pipes(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Container[int]) -> str:
    """A pipe table of Markdown texts. numeric: right-aligned columns."""
    rule = ["--:" if place in numeric else ":--" for place in range(len(columns))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, rule, *rows])


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"> {escaped(block.text)}" if block.warning else escaped(block.text)
        case Listing():
            head = f"{escaped(block.summary)}:\n\n" if block.summary else ""
            return head + "\n".join(f"- {escaped(item)}" for item in block.items)
        case Table():
            links = [("CSV", block.csv), *((x.text, x.markdown or x.page) for x in block.links)]
            shown = " · ".join(f"[{escaped(text)}]({path})" for text, path in links)
            return f"*{escaped(block.caption)}* {shown}\n\n{table(block)}"
        case Picture():
            image = f"![{escaped(block.alt)}](figures/{block.name}.svg)"
            return f"{image}\n\n*{escaped(block.caption)}*"
        case Gallery():
            return "\n\n".join(_example(example) for example in block.examples)


def _example(example: Example) -> str:
    tiles = ["image"] if example.image else []
    tiles += ["truth", *(f"{p.label} {p.iou}" for p in example.predictions)]
    text = f"{', '.join(tiles)} (image-IoU, %)"
    title = f"**{escaped(example.title)}** ({escaped(example.note)}), from left: {escaped(text)}."
    return f"{title}\n\n![{escaped(example.title)}: {escaped(text)}]({example.file})"


def _field(field: Field) -> str:
    text = f"**{escaped(field.text)}**" if field.best else escaped(field.text)
    return f"{text} <sub>{escaped(field.interval)}</sub>" if field.interval else text


def escaped(text: str) -> str:
    """The text escaped and on one line: a new line could start a heading or a link address."""
    text = re.sub(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+", " ", text)
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text
