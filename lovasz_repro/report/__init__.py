"""The report of a study: `write_report` makes it from records alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from lovasz_repro.records import load, write_bytes, write_table
from lovasz_repro.report import background, markdown, page, sections
from lovasz_repro.report.archive import pack, read_files
from lovasz_repro.report.document import Document, Gallery, Table
from lovasz_repro.report.drawing import Picture
from lovasz_repro.report.prose import facts
from lovasz_repro.report.readme import update_readme
from lovasz_repro.report.sections import Study

__all__ = ["update_readme", "write_report"]

BANNER = "A demo on generated shapes, not a result: it shows that the pipeline runs, nothing more."
OWN_FOLDERS = ("figures", "tables")


def write_report(runs: Path, out: Path) -> Path:
    """Write index.html, report.md, figures/, tables/ and records.zip to `out`.

    Computes from records alone: equal records give equal bytes. `out`'s folders figures and tables
    belong to the report and are made anew.

    Args:
        runs: a run's folder, or the records.zip of an earlier report (which may lie in `out`).
        out: made if it is not there.

    Returns:
        The path of the page.

    Raises:
        UserError: records are missing, truncated or malformed; the message names the file.
    """
    records = load(runs)
    study = Study(records, read_files(runs, records))
    document = _document(study)
    for folder in OWN_FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)
    for block in document.blocks():
        match block:
            case Picture():
                write_bytes(out / f"figures/{block.name}.svg", block.wide)
                write_bytes(out / f"figures/{block.name}.png", block.png)
            case Table():
                write_table(out / f"tables/{block.name}.csv", block.data)
            case Gallery():
                for example in block.examples:
                    write_bytes(out / f"figures/gallery/{example.anchor}.jpg", example.strip)
    write_bytes(out / "records.zip", pack(dict(study.files)))
    write_bytes(out / "report.md", markdown.render(document).encode())
    write_bytes(out / "index.html", page.render(document).encode())
    return out / "index.html"


def _document(study: Study) -> Document:
    rest = [
        sections.table_1(study),
        sections.per_category(study),
        sections.training_curves(study),
        sections.sources(study),
        sections.qualitative(study),
        background.surrogates(),
        background.practice(study.records),
    ]
    anchors = {b.name for s in rest for b in s.blocks if isinstance(b, Picture | Table)}
    return Document(
        title=f"The Lovász hinge and image-IoU: {study.records.study['experiment']}",
        facts=facts(study.records),
        banner=BANNER if study.records.study.get("generated") else "",
        sections=[sections.answer(study, anchors), *rest],
    )
