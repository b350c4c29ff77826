"""The tables of reports/bench/README.md, from what `lovasz-repro bench` wrote."""

from __future__ import annotations

import pandas as pd

from lovasz_repro.report.document import listed
from lovasz_repro.report.markdown import pipes

BENCH_CASES = (
    "10x41x41, hard", "8x321x321, hard", "8x321x321, easy", "2x512x1024, 19 classes, hard",
)  # fmt: skip

# By the column of a CSV file: its title, and the format of its numbers, empty for texts.
LOSS_COLUMNS = {
    "case": ("images × height × width, margins", ""), "loss": ("loss", ""),
    "milliseconds": ("ms", ".2f"),
    "times_floor": ("× cross-entropy", ".1f"), "megabytes": ("MB", ".0f"),
    "gradient_error": ("gradient error", ".0e"),
}  # fmt: skip
TRAINING_COLUMNS = {
    "experiment": ("experiment", ""), "what": ("way", ""),
    "milliseconds": ("ms a step", ".1f"), "ratio": ("speed, bare step = 1", ".2f"),
}  # fmt: skip
CONVERGENCE_COLUMNS = {
    "category": ("category", ""), "loss": ("loss", ""),
    "objective_start": ("objective before", ".3f"), "objective_sgd": ("after SGD", ".3f"),
    "objective_minimum": ("after L-BFGS", ".3f"), "gradient": ("gradient left", ".3f"),
    "image_iou_start": ("held-out image-IoU before", ".3f"),
    "image_iou_sgd": ("after SGD", ".3f"), "image_iou_minimum": ("after L-BFGS", ".3f"),
}  # fmt: skip
GPU_COLUMNS = {
    "case": ("case", ""), "name": ("what", ""), "milliseconds": ("ms", ".2f"),
    "ratio": ("× first", ".2f"), "megabytes": ("MB", ".0f"), "check": ("check", ""),
}  # fmt: skip


def losses(table: pd.DataFrame) -> str:
    """Forward and backward of the losses on some of the benchmark's cases."""
    return _table(table[table["case"].isin(BENCH_CASES)], LOSS_COLUMNS)


def convergence(table: pd.DataFrame) -> str:
    """Cells of a linear head: SGD beside the minimum of its objective."""
    return _table(table, CONVERGENCE_COLUMNS)


def training(table: pd.DataFrame) -> str:
    """Ways to train, a row each, and what a step of this project's pipeline consists of."""
    lines = [_table(table[table["kind"] == "way"], TRAINING_COLUMNS), ""]
    for name, parts in table[table["kind"] == "part"].groupby("experiment", sort=False):
        shares = listed([f"{row.what} {row.ratio:.1%}" for row in parts.itertuples()])
        lines.append(f"- A step of this pipeline, `{name}`: {shares}.")
    for name, parts in table[table["kind"] == "cell"].groupby("experiment", sort=False):
        seconds = listed([f"{p.what} {p.milliseconds / 1000:.1f} s" for p in parts.itertuples()])
        lines.append(f"- A whole cell, `{name}`: {seconds}.")
    return "\n".join(lines)


def gpu(table: pd.DataFrame) -> str:
    """The losses and training steps on one GPU."""
    text = _table(table.fillna({"check": ""}), GPU_COLUMNS)
    return f"{table['device'][0]}:\n\n{text}"


def _table(table: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> str:
    rows = [
        [format(row[name], form) for name, (_, form) in columns.items()]
        for row in table.to_dict("records")
    ]
    numeric = [place for place, (_, form) in enumerate(columns.values()) if form]
    return pipes([title for title, _ in columns.values()], rows, numeric)
