"""The tables of the README, from the records that are committed under reports/."""

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

BENCH = "bench/loss.csv"
BENCH_CASES = ("8x321x321, hard", "8x321x321, easy", "2x512x1024, 19 classes, hard")
NOTHING = "No results on Pascal VOC have been committed yet."


def update_readme(readme: Path, reports: Path) -> None:
    """Replace what stands between README's markers: results (paper beside ours), the benchmarks.

    Args:
        readme: the file, with the pairs of markers `results`, `bench` and `train`.
        reports: folder of reports; those on generated shapes are not results and are left out. Its
            `bench/loss.csv` is what `lovasz-repro bench loss --out` wrote, its `bench/train-*.csv`
            what `lovasz-repro bench train --out` did.

    Raises: UserError where the markers are not there, in order.
    """
    results = {}
    for archive in sorted(reports.glob("*/records.zip")):
        records = load(archive)
        if not records.study.get("generated"):
            results[archive.parent] = stats.mean_levels(Scores(records))
    # The most complete first: the picture is its.
    folders = sorted(results, key=lambda folder: -results[folder]["categories"].max())
    results = {folder: results[folder] for folder in folders}
    text = readme.read_text(encoding="utf-8")
    text = _between(readme, text, "results", _block(results, readme.parent) if results else NOTHING)
    if (reports / BENCH).is_file():
        text = _between(readme, text, "bench", _bench(pd.read_csv(reports / BENCH)))
    if trained := sorted(reports.glob("bench/train-*.csv")):
        text = _between(readme, text, "train", _training(pd.concat(map(pd.read_csv, trained))))
    write_bytes(readme, text.encode())


def _between(readme: Path, text: str, name: str, block: str) -> str:
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    begin, end = text.find(first), text.find(last)
    if not 0 <= begin < end:
        raise UserError(f"{readme}: needs the lines {first} and {last}, in this order")
    return f"{text[:begin]}{first}\n{block}\n{text[end:]}"


def _bench(table: pd.DataFrame) -> str:
    """Forward and backward of the losses on some of the benchmark's cases."""
    names = ["images × height × width, margins", "loss", "ms", "× cross-entropy", "MB"]
    lines = [_row([*names, "gradient error"]), _row([":--", ":--", *["--:"] * 4])]
    for row in table[table["case"].isin(BENCH_CASES)].itertuples():
        figures = [f"{row.milliseconds:.1f}", f"{row.times_floor:.1f}", f"{row.megabytes:.0f}"]
        lines.append(_row([row.case, row.loss, *figures, f"{row.gradient_error:.0e}"]))
    return "\n".join(lines)


def _training(table: pd.DataFrame) -> str:
    """Ways to train, a row each, and what a step of this project's pipeline consists of."""
    lines = [_row(["experiment", "way", "ms a step", "speed, bare step = 1"])]
    lines.append(_row([":--", ":--", "--:", "--:"]))
    for row in table[table["kind"] == "way"].itertuples():
        figures = [f"{row.milliseconds:.1f}", f"{row.ratio:.2f}"]
        lines.append(_row([row.experiment, row.what, *figures]))
    lines.append("")
    for name, parts in table[table["kind"] == "part"].groupby("experiment", sort=False):
        shares = listed([f"{row.what} {row.ratio:.1%}" for row in parts.itertuples()])
        lines.append(f"- A step of this pipeline, `{name}`: {shares}.")
    return "\n".join(lines)


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
