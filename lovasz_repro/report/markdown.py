"""The Markdown report: the same document for a code host, with links to the figures beside it."""

from __future__ import annotations

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
    parts = [f"# {_escaped(document.title)}"]
    if document.banner:
        parts.append(f"> **{_escaped(document.banner)}**")
    for number, section in enumerate(document.sections):
        parts.append(f"## {_escaped(section.title)}")
        parts += [_block(block) for block in section.blocks]
        if number == 0:
            parts.append("\n".join(f"- {_escaped(a)}: {_escaped(b)}" for a, b in document.facts))
    return "\n\n".join(parts) + "\n"


def table(block: Table) -> str:
    """A pipe table; intervals stay behind their value."""
    rule = ["--:" if place in block.numeric else ":--" for place in range(len(block.columns))]
    rows = [[_escaped(name) for name in block.columns], rule]
    rows += [[_field(field) for field in row] for row in block.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"> {_escaped(block.text)}" if block.warning else _escaped(block.text)
        case Listing():
            head = f"{_escaped(block.summary)}:\n\n" if block.summary else ""
            return head + "\n".join(f"- {_escaped(item)}" for item in block.items)
        case Table():
            return f"*{_escaped(block.caption)}*\n\n{table(block)}"
        case Picture():
            image = f"![{_escaped(block.alt)}](figures/{block.name}.svg)"
            return f"{image}\n\n*{_escaped(block.caption)}*"
        case Gallery():
            return "\n\n".join(_example(example) for example in block.examples)


def _example(example: Example) -> str:
    shown = ", ".join(f"{p.label} {p.iou}" for p in example.predictions)
    text = f"image, truth, {shown} (image-IoU, %)"
    path = f"figures/gallery/{example.anchor}.jpg"
    title = (
        f"**{_escaped(example.title)}** ({_escaped(example.note)}), from left: {_escaped(text)}."
    )
    return f"{title}\n\n![{_escaped(example.title)}: {_escaped(text)}]({path})"


def _field(field: Field) -> str:
    text = f"**{_escaped(field.text)}**" if field.best else _escaped(field.text)
    return f"{text} <sub>{_escaped(field.interval)}</sub>" if field.interval else text


def _escaped(text: str) -> str:
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text
