"""What is generated in Markdown files: the README's result, the list of reports, the benchmarks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lovasz_repro.analysis.headline import UNTRAINED_TUNED
from lovasz_repro.errors import UserError
from lovasz_repro.files import write_bytes
from lovasz_repro.records import UNTRAINED, Records, load
from lovasz_repro.report import bench_tables, multiclass, prose, tables
from lovasz_repro.report.controls import controls_table
from lovasz_repro.report.document import listed
from lovasz_repro.report.markdown import escaped, table
from lovasz_repro.report.splits import joined, partitions_of, same_but_for_split
from lovasz_repro.report.study_tables import Study
from lovasz_repro.report.verdict import verdict
from lovasz_repro.words import count

NOTHING = "No results on Pascal VOC have been committed yet."
VERDICT_TITLES = ("The claim", "Where the gain comes from", "Which loss to use")
CONTROLS = (
    "Each other whole run of the binary experiment beside the study that it differs least from. "
    "*Gain*: image-IoU of the Lovász hinge minus that of cross-entropy in this run, in points. "
    "*There*: the same in the other study, on the same categories. *Difference*: gain minus there, "
    "with its 95 % interval over categories. First on all images, then on those with the category. "
    "Exactly zero: the same cells."
)
SPLITS_FIGURE = "figures/splits-gain.svg"
TABLE_1_COLUMNS = (0, 2, 1, 3, 5, 6)  # loss, paper, here, gain, with and without the category
HERE = 2


def update_readme(readme: Path, reports: Path) -> None:
    """Replace what stands between the markers of README, and of the files in the reports' folder.

    Args:
        readme: the file, with the markers `results`: filled from the main report, the binary one
            with most categories; of these a fine-tuned one before a head, then most cells.
        reports: folder of reports; those on generated shapes are not results and are left out. Its
            README.md, if it has one, holds the markers `reports`; its bench/README.md, if that
            folder exists, `bench` for bench/loss.csv, `convergence` for bench/convergence.csv,
            `train` for bench/train-*.csv and `gpu` for bench/gpu-*.csv (`lovasz-repro bench`
            writes them).

    Raises: UserError if a file or its markers, in order, are missing; then nothing is written.
    """
    found = {path.parent: load(path) for path in sorted(reports.glob("*/records.zip"))}
    results = {path: r for path, r in found.items() if not r.study.get("generated")}
    blocks: dict[Path, dict[str, str]] = {readme: {"results": _result(results, readme.parent)}}
    if (reports / "README.md").is_file():
        blocks[reports / "README.md"] = {"reports": _list_of(results)}
    if (reports / "bench").is_dir():
        blocks[reports / "bench/README.md"] = _bench_blocks(reports / "bench")
    _renew(blocks)


def update_benchmarks(folder: Path) -> None:
    """Renew the tables of a folder's README.md from the CSV files beside it.

    Raises: UserError if a marker is missing.
    """
    _renew({folder / "README.md": _bench_blocks(folder)})


def _renew(blocks: dict[Path, dict[str, str]]) -> None:
    written = {path: _renewed(path, parts) for path, parts in blocks.items()}
    for path, text in written.items():
        write_bytes(path, text.encode())


def _bench_blocks(folder: Path) -> dict[str, str]:
    measured = [pd.read_csv(path) for path in sorted(folder.glob("gpu-*.csv"))]
    blocks = {"gpu": "\n\n".join(map(bench_tables.gpu, measured)) or "Not measured."}
    if (folder / "loss.csv").is_file():
        blocks["bench"] = bench_tables.losses(pd.read_csv(folder / "loss.csv"))
    if (folder / "convergence.csv").is_file():
        found = pd.read_csv(folder / "convergence.csv")
        blocks["convergence"] = bench_tables.convergence(found)
    if trained := sorted(folder.glob("train-*.csv")):
        blocks["train"] = bench_tables.training(pd.concat(map(pd.read_csv, trained)))
    return blocks


def _renewed(path: Path, blocks: dict[str, str]) -> str:
    """The file's text with these blocks between their markers."""
    if not path.is_file():
        raise UserError(f"{path}: is not there")
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        begin, end = text.find(first), text.find(last)
        if not 0 <= begin < end:
            raise UserError(f"{path}: needs the lines {first} and {last}, in this order")
        text = f"{text[:begin]}{first}\n{block}\n{text[end:]}"
    return text


def _list_of(results: dict[Path, Records]) -> str:
    """The reports, then the whole runs beside the main one."""
    lines = []
    for folder, records in results.items():
        categories = count(len(records.grid.categories), "category")
        what = "all labels at once" if records.multiclass else categories
        losses = sum(loss != UNTRAINED for loss in records.grid.losses)
        what += f", {count(losses, 'training loss')}"
        cells = f"{len(records.results)} of {count(len(records.grid.cells()), 'cell')}"
        lines.append(f"- [{folder.name}]({folder.name}/report.md): {what}, {cells}.")
    whole = {path: records for path, records in results.items() if records.whole}
    studies = _binary(whole)
    if len(studies) > 1 and (main := _main(whole)):
        lines += ["", CONTROLS, "", controls_table(studies, main.name)]
    return "\n".join(lines) or NOTHING


def _binary(results: dict[Path, Records], first: Path | None = None) -> dict[str, Records]:
    """The binary studies by name, one of them first."""
    order = sorted(results, key=lambda path: path != first)
    return {path.name: results[path] for path in order if not results[path].multiclass}


def _main(results: dict[Path, Records]) -> Path | None:
    """The binary report with the highest `_weight`."""
    binary = [path for path, records in results.items() if not records.multiclass]
    return max(binary, key=lambda path: _weight(results[path]), default=None)


def _result(every: dict[Path, Records], root: Path) -> str:
    """Table 1, picture and verdict of the main report, together with those that are the same but
    for the split of the images; the answer of each multi-class report.

    root: the folder that links start from.
    """
    links = {path: Path(os.path.relpath(path, root)).as_posix() for path in every}
    answers = [
        f"- **All labels at once, [{path.name}]({links[path]}/report.md).** "
        f"{escaped(multiclass.answer(records))}"
        for path, records in every.items()
        if records.multiclass
    ]
    main = _main(every)
    if main is None:
        return "\n".join(answers) or NOTHING
    name, link = main.name, links[main]
    records, source = every[main], f"From [the report of `{name}`]({link}/report.md)."
    figure = f"{link}/figures/gain.svg"
    together = main.parent / "compare"
    own = same_but_for_split(_binary(every, first=main))
    if own and (together / SPLITS_FIGURE).is_file():
        records = joined(list(own.values()))
        folder = Path(os.path.relpath(together, root)).as_posix()
        name = listed(list(own))
        reports = listed(
            f"[`{x}`]({links[main.parent / x]}/report.md) ({count(partitions_of(r), 'split')})"
            for x, r in own.items()
        )
        source = f"From {reports}, [taken together]({folder}/report.md)."
        figure = f"{folder}/{SPLITS_FIGURE}"
    study = Study(records)
    lines = [
        f"- **{title}.** {escaped(text)}"
        for title, text in zip(VERDICT_TITLES, verdict(study), strict=True)
    ]
    parts = [
        _table_1(study),
        f"{_caption(study)} {source} {prose.FOOTNOTE}",
        f"![Gain in image-IoU over cross-entropy, {name}]({figure})",
        "\n".join([*lines, *answers]),
    ]
    return "\n\n".join(parts)


def _weight(records: Records) -> tuple[int, bool, int]:
    """The key of `_main`. Of as many categories heads come last, since the paper fine-tunes."""
    network = records.study.get("config", {}).get("network", {})
    tuned = network.get("train") != "head"
    return len(records.grid.categories), tuned, len(records.results)


def _table_1(study: Study) -> str:
    """Without the levels' intervals, and without the base network at a chosen threshold."""
    shown = study.headline[study.headline["row"] != UNTRAINED_TUNED]
    whole = tables.first_table(shown, study.of_voc)
    columns = [whole.columns[place] for place in TABLE_1_COLUMNS]
    columns[HERE] = "image-IoU here, %"
    rows = [[row[place] for place in TABLE_1_COLUMNS] for row in whole.rows]
    for row in rows:
        row[HERE] = replace(row[HERE], interval="")
    return table(replace(whole, columns=columns, rows=rows))


def _caption(study: Study) -> str:
    categories = count(int(study.headline["categories"].max()), "category")
    partitions = study.scores.partitions
    splits = f" and {count(partitions, 'split')}" if partitions > 1 else ""
    return f"Mean over {categories}{splits}; gains in points with 95 % interval."
