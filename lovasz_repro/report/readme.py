"""The result table of the README, from the records that the committed reports keep."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from lovasz_repro import stats
from lovasz_repro.errors import UserError
from lovasz_repro.records import load, write_bytes
from lovasz_repro.report import quoted
from lovasz_repro.report.document import interval, listed, percent
from lovasz_repro.report.style import LOSSES
from lovasz_repro.scores import Scores

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
NOTHING = "No results on Pascal VOC have been committed yet."


def update_readme(readme: Path, reports: Path) -> None:
    """Replace what stands between README's result markers: paper beside ours, and a picture.

    Args:
        readme: the file, with both markers.
        reports: folder of reports; those on generated shapes are not results and are left out.

    Raises: UserError where the markers are not there, in order.
    """
    text = readme.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if not 0 <= begin < end:
        raise UserError(f"{readme}: needs the lines {BEGIN} and {END}, in this order")
    results = {}
    for archive in sorted(reports.glob("*/records.zip")):
        records = load(archive)
        if not records.study.get("generated"):
            results[archive.parent] = stats.mean_levels(Scores(records))
    block = _block(results, readme.parent) if results else NOTHING
    write_bytes(readme, f"{text[:begin]}{BEGIN}\n{block}\n{text[end:]}".encode())


def _block(results: dict[Path, pd.DataFrame], root: Path) -> str:
    """The table and the picture of the first report; results: `mean_levels` by report folder."""
    links = {folder: Path(os.path.relpath(folder, root)).as_posix() for folder in results}
    heads = [f"here: [{folder.name}]({link}/report.md)" for folder, link in links.items()]
    lines = [
        _row(["training loss", "paper (quoted)", *heads]),
        _row([":--"] + ["--:"] * (len(heads) + 1)),
    ]
    tables = [table.set_index("loss") for table in results.values()]
    for loss, look in LOSSES.items():
        if any(loss in table.index for table in tables):
            paper = percent(quoted.IMAGE_IOU[loss]) if loss in quoted.IMAGE_IOU else "–"
            lines.append(_row([look.label, paper, *(_level(table, loss) for table in tables)]))
    spans = listed([f"{int(t['categories'].max())} ({f.name})" for f, t in results.items()])
    note = (
        f"Image-IoU in percent with 95 % interval, mean over categories: {spans}. "
        f"Paper: {quoted.MARK}."
    )
    first, link = next(iter(links.items()))
    picture = f"![Gain in image-IoU over cross-entropy, {first.name}]({link}/figures/gain.svg)"
    return "\n".join([*lines, "", note, "", picture])


def _level(table: pd.DataFrame, loss: str) -> str:
    if loss not in table.index:
        return "–"
    row = table.loc[loss]
    if not row["categories"]:
        return "missing"
    best = row["value"] == table["value"].max()
    value = f"**{percent(row['value'])}**" if best else percent(row["value"])
    return f"{value} {interval(row['low'], row['high'])}".strip()


def _row(fields: list[str]) -> str:
    return f"| {' | '.join(fields)} |"
