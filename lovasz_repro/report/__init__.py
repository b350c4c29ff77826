"""The report of a study: `write_report` makes it from records alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lovasz_repro.config import check_settings
from lovasz_repro.files import write_bytes
from lovasz_repro.records import Records, load
from lovasz_repro.report import (
    curves,
    gain_sources,
    markdown,
    multiclass,
    page,
    practice,
    sections,
)
from lovasz_repro.report.archive import pack, read_files, without_photographs
from lovasz_repro.report.compare import compare
from lovasz_repro.report.document import Document, Gallery, Table
from lovasz_repro.report.drawing import Picture
from lovasz_repro.report.readme import update_readme
from lovasz_repro.report.setup import facts
from lovasz_repro.report.study_tables import Study

__all__ = ["update_readme", "write_comparison", "write_report"]

BANNER = "A demo on generated shapes, not a result: it shows that the pipeline runs, nothing more."
OWN_FOLDERS = ("figures", "tables")


def write_report(runs: Path, out: Path, photographs: bool = True) -> Path:
    """Write index.html, report.md, figures/, tables/ and records.zip to `out`.

    Computes from records alone: equal records give equal bytes. `out`'s folders figures and tables
    belong to the report and are made anew.

    Args:
        runs: a run's folder, or the records.zip of an earlier report (which may lie in `out`).
        out: made if it is not there.
        photographs: False leaves them out of the page and of records.zip, and shows predictions as
            masks; a report built again from that archive is the same.

    Returns: the path of the page.

    Raises: UserError naming the file that is missing, truncated, malformed or edited.
    """
    records = load(runs)
    if records.study["config"]:  # else the report says that it is not recorded
        check_settings(records.study, runs / "study.json")
    files = read_files(runs, records)
    if not photographs:
        records, files = without_photographs(records, files)
    document = multiclass.document(records) if records.multiclass else _document(records, files)
    _write(replace(document, banner=BANNER if records.study.get("generated") else ""), out)
    write_bytes(out / "records.zip", pack(files))
    return out / "index.html"


def write_comparison(reports: Sequence[Path], out: Path) -> Path:
    """Write index.html, report.md, figures/ and tables/ over several reports to `out`.

    Args:
        reports: folders that `write_report` wrote; their records.zip are read.
        out: made if it is not there.

    Returns:
        The path of the page.

    Raises:
        UserError: a report lacks valid records, is multi-class, or has another's name.
    """
    _write(compare(reports, out), out)
    return out / "index.html"


def _write(document: Document, out: Path) -> None:
    for folder in OWN_FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)
    for block in document.blocks():
        match block:
            case Picture():
                write_bytes(out / f"figures/{block.name}.svg", block.svg)
            case Table():
                # Ten digits: a mean can be checked to 1e-9, another machine's rounding is hidden.
                text = block.data.to_csv(index=False, float_format="%.10g", lineterminator="\n")
                write_bytes(out / block.csv, text.encode())
            case Gallery():
                for example in block.examples:
                    write_bytes(out / example.file, example.strip)
    write_bytes(out / "report.md", markdown.render(document).encode())
    write_bytes(out / "index.html", page.render(document).encode())


def _document(records: Records, files: Mapping[str, bytes]) -> Document:
    from lovasz_repro.report import surrogates  # torch takes seconds to import

    study = Study(records)
    rest = [
        sections.table_1(study),
        sections.per_category(study),
        curves.binary(study),
        *gain_sources.sections(study),
        *sections.qualitative(study, files),
        surrogates.section(),
        practice.section(study.records),
    ]
    anchors = {b.name for s in rest for b in s.blocks if isinstance(b, Picture | Table)}
    return Document(
        title=f"The Lovász hinge and image-IoU: {study.records.study['experiment']}",
        facts=facts(study.records),
        sections=[sections.answer(study, anchors), *rest],
    )
