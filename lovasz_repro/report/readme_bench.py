"""The tables of reports/bench/README.md, from what `lovasz-repro bench` wrote."""

from __future__ import annotations

import pandas as pd

from lovasz_repro.report.document import listed

BENCH_CASES = (
    "10x41x41, hard", "8x321x321, hard", "8x321x321, easy", "2x512x1024, 19 classes, hard",
)  # fmt: skip


def loss_table(table: pd.DataFrame) -> str:
    """Forward and backward of the losses on some of the benchmark's cases."""
    names = ["images × height × width, margins", "loss", "ms", "× cross-entropy", "MB"]
    lines = [_row([*names, "gradient error"]), _row([":--", ":--", *["--:"] * 4])]
    for row in table[table["case"].isin(BENCH_CASES)].itertuples():
        figures = [f"{row.milliseconds:.2f}", f"{row.times_floor:.1f}", f"{row.megabytes:.0f}"]
        lines.append(_row([row.case, row.loss, *figures, f"{row.gradient_error:.0e}"]))
    return "\n".join(lines)


def training_table(table: pd.DataFrame) -> str:
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


def _row(fields: list[str]) -> str:
    return f"| {' | '.join(fields)} |"
