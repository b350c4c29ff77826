"""The tables of the report, from the tables of `stats`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from lovasz_repro.claims import Claim
from lovasz_repro.records import MEASURES, Cell, Json, Records
from lovasz_repro.report import quoted
from lovasz_repro.report.document import (
    MISSING,
    Field,
    Table,
    interval,
    loss_field,
    percent,
    plain,
    points,
    probability,
)
from lovasz_repro.report.style import MEASURE_LABELS, style
from lovasz_repro.stats import REFERENCE

CLAIM_EVIDENCE = {
    "best_image_iou": ("gain", "Gain"),
    "own_measure": ("measures", "Table 1"),
    "carry_over": ("gain", "Gain"),
    "small_objects": ("subsets", "Object size"),
    "gap_filling": ("gap-filling", "Gap filling"),
}
"""By claim: the anchor of the figure or table that shows it, and its name."""

VERDICT_MARKS = {"reproduced": "✓", "not reproduced": "✗", "undecided": "?"}


def claims_table(claims: Sequence[Claim], anchors: set[str]) -> Table:
    """anchors: what the document shows; evidence that it lacks is not linked."""
    rows = []
    for claim in claims:
        anchor, name = CLAIM_EVIDENCE[claim.key]
        shown = Field(name, link=anchor) if anchor in anchors else MISSING
        effect = _difference(claim.effect, claim.low, claim.high)
        if not math.isfinite(claim.effect):
            effect = MISSING
        verdict = Field(f"{VERDICT_MARKS[claim.verdict]}\u00a0{claim.verdict}", best=True)
        of = Field(claim.unit)
        rows.append([Field(claim.title), verdict, effect, of, Field(claim.explanation), shown])
    return Table(
        "claims",
        "The paper’s claims and what these records say of each, with 95 % intervals.",
        ("claim of the paper", "verdict", "effect, points", "of", "what was seen", "shown in"),
        rows,
        pd.DataFrame([vars(claim) for claim in claims]),
        numeric=frozenset({2}),
    )


def paper_table(levels: pd.DataFrame, differences: pd.DataFrame) -> Table:
    """Image-IoU, the paper's beside ours: `mean_levels`, `mean_differences`."""
    change = differences.set_index("loss")
    best = levels["value"].max()
    rows = []
    for row in levels.itertuples():
        here = _value(row.value, percent, interval(row.low, row.high), row.value == best)
        if row.loss in quoted.IMAGE_IOU:
            value, gain = quoted.IMAGE_IOU[row.loss], quoted.gain(row.loss)
            paper = Field(percent(value), value, best=value == max(quoted.IMAGE_IOU.values()))
            paper_gain = Field(points(gain), gain) if row.loss != REFERENCE else MISSING
        else:
            paper, paper_gain = MISSING, MISSING
        rows.append([loss_field(row.loss), paper, here, paper_gain, _change(change, row.loss)])
    data = levels.assign(paper=levels["loss"].map(quoted.IMAGE_IOU))
    return Table(
        "image-iou",
        f"Image-IoU in percent, mean over categories with 95 % interval. Paper: {quoted.MARK}.",
        ("training loss", "paper (quoted)", "here", "paper: gain", "here: gain over cross-entropy"),
        rows,
        data,
        numeric=frozenset({1, 2, 3, 4}),
    )


def measure_table(matrix: pd.DataFrame) -> Table:
    """Every measure under every training loss: `own_measure_matrix`."""
    losses = list(matrix["loss"].unique())
    cells = {(row.measure, row.loss): row for row in matrix.itertuples()}
    rows = []
    for measure in matrix["measure"].unique():
        is_loss = measure in MEASURES
        write = plain if is_loss else percent
        label = MEASURE_LABELS.get("image_iou" if measure == "iou" else measure, measure)
        row = [Field(f"{label}\u00a0↓" if is_loss else f"{label},\u00a0%\u00a0↑")]
        for loss in losses:
            cell = cells[measure, loss]
            ends = interval(cell.low, cell.high, write)
            row.append(_value(cell.value, write, ends, bool(cell.best)))
        rows.append(row)
    return Table(
        "measures",
        "Each evaluation measure (rows) under each training loss (columns): mean over categories "
        "with 95 % interval, the best of a row in bold; ↓ lower is better, ↑ higher is better.",
        ("measure", *(style(loss).label for loss in losses)),
        rows,
        matrix,
        numeric=frozenset(range(1, len(losses) + 1)),
    )


def category_table(levels: pd.DataFrame, pairs: pd.DataFrame, expected: Sequence[str]) -> Table:
    """Image-IoU by category and loss, and the paired difference of the headline loss.

    Args:
        levels: `levels`; pairs: `differences` of one loss; expected: the grid's categories.
    """
    losses = list(levels["loss"].unique())
    cells = {(row.category, row.loss): row for row in levels.itertuples()}
    change = pairs.set_index("category")
    rows = []
    for category in expected:
        row = [Field(category, category)]
        found = [cells[category, loss].value for loss in losses if (category, loss) in cells]
        for loss in losses:
            cell = cells.get((category, loss))
            if cell is None:
                row.append(Field("missing", -math.inf))
                continue
            part = (
                f"{cell.cells} of {cell.expected_cells} cells"
                if cell.cells < cell.expected_cells
                else ""
            )
            row.append(Field(percent(cell.value), cell.value, part, best=cell.value == max(found)))
        row.append(_change(change, category))
        p = change["p_holm"].get(category, math.nan)
        rows.append([*row, Field(probability(p), p if math.isfinite(p) else 2.0)])
    return Table(
        "categories",
        "Image-IoU in percent by category and training loss, best in bold; last the paired "
        "difference of the Lovász hinge to cross-entropy in points, its 95 % interval, and its p "
        "value after Holm over all losses and categories.",
        ("category", *(style(loss).label for loss in losses), "Lovász − cross-entropy", "p (Holm)"),
        rows,
        levels,
        numeric=frozenset(range(1, len(losses) + 3)),
    )


def gains_table(
    name: str,
    caption: str,
    label: str,
    parts: Sequence[tuple[str, pd.DataFrame]],
    data: pd.DataFrame,
    levels: bool = False,
) -> Table:
    """Differences with intervals, a row per part and a column per loss.

    Args:
        label: heading of the first column.
        parts: text of the row; a table with loss, difference, low, high, reference_value.
        data: what goes to the CSV.
        levels: also show cross-entropy's own value.
    """
    losses = max((list(table["loss"]) for _, table in parts), key=len)
    rows = []
    for place, (text, table) in enumerate(parts):
        found = {row.loss: row for row in table.itertuples()}
        row = [Field(text, place)]
        if levels:
            value = next(iter(found.values())).reference_value if found else math.nan
            row.append(_value(value, percent))
        for loss in losses:
            one = found.get(loss)
            row.append(MISSING if one is None else _difference(one.difference, one.low, one.high))
        rows.append(row)
    reference = (f"{style(REFERENCE).label}, %",) if levels else ()
    columns = (label, *reference, *(style(loss).label for loss in losses))
    return Table(name, caption, columns, rows, data, frozenset(range(1, len(columns))))


def cost_table(costs: Mapping[Cell, Json]) -> Table:
    """Seconds and memory by training loss; medians over cells, which others on the machine disturb
    less than means."""
    keys = ("seconds_per_step", "train_seconds", "total_seconds", "peak_memory_mib")
    data = pd.DataFrame([{"loss": cell.loss, **cost} for cell, cost in costs.items() if cost])
    data = data.reindex(columns=["loss", *keys])
    groups = data.groupby("loss", sort=False)
    summary = groups.median().assign(cells=groups.size(), sum_seconds=groups["total_seconds"].sum())
    rows = [
        [
            loss_field(str(loss)),
            Field(_number(1000 * row["seconds_per_step"], 1), row["seconds_per_step"]),
            Field(_number(row["train_seconds"], 1), row["train_seconds"]),
            Field(_number(row["sum_seconds"] / 60, 1), row["sum_seconds"]),
            Field(_number(row["peak_memory_mib"], 0), row["peak_memory_mib"]),
            Field(str(int(row["cells"])), row["cells"]),
        ]
        for loss, row in summary.iterrows()
    ]
    return Table(
        "costs",
        "Cost by training loss: medians over cells, and the sum of all cells.",
        (
            "training loss",
            "ms a step",
            "training, s a cell",
            "all cells, min",
            "peak memory, MiB",
            "cells",
        ),
        rows,
        summary.reset_index(),
        numeric=frozenset({1, 2, 3, 4, 5}),
    )


def rate_table(rates: Json) -> Table:
    """Learning rates: those tried, what each gave, the one chosen (bold)."""
    data = rate_frame(rates)
    tried = sorted(data["lr"].unique())
    rows = []
    for loss, table in data.groupby("loss", sort=False):
        found = {row.lr: row for row in table.itertuples()}
        rows.append([loss_field(str(loss)), *(_rate(found.get(lr)) for lr in tried)])
    return Table(
        "rates-table",
        "Image-IoU in percent on held-out training images by learning rate; bold: the rate taken.",
        ("training loss", *(f"{lr:g}" for lr in tried)),
        rows,
        data,
        numeric=frozenset(range(1, len(tried) + 1)),
    )


def _rate(row: Any) -> Field:
    if row is None:
        return MISSING
    if not math.isfinite(row.image_iou):
        return Field("diverged", -math.inf)
    return Field(percent(row.image_iou), row.image_iou, best=row.chosen)


def rate_frame(rates: Json) -> pd.DataFrame:
    """loss, lr, image_iou (NaN where training diverged), chosen."""
    frame = pd.DataFrame(
        [
            {"loss": loss, **point, "chosen": point["lr"] == entry["chosen"]}
            for loss, entry in rates.items()
            for point in entry["curve"]
        ]
    )
    return frame.astype({"image_iou": float})


def list_table(records: Records) -> Table:
    """The data lists with their hashes."""
    lists = records.study.get("data", {}).get("lists", {})
    rows = [
        [
            Field(name, name),
            Field(str(entry["images"]), entry["images"]),
            Field(entry["sha256"][:16]),
        ]
        for name, entry in lists.items()
    ]
    data = pd.DataFrame([{"list": name, **entry} for name, entry in lists.items()])
    return Table(
        "lists",
        "Image lists and the first 16 digits of their SHA-256.",
        ("list", "images", "SHA-256"),
        rows,
        data,
        numeric=frozenset({1}),
    )


def _value(
    value: float, write: Callable[[float], str], interval: str = "", best: bool = False
) -> Field:
    if not math.isfinite(value):
        return Field("missing", -math.inf)
    return Field(write(value), value, interval, best=best)


def _difference(value: float, low: float, high: float) -> Field:
    return _value(value, points, interval(low, high, points))


def _change(table: pd.DataFrame, key: str) -> Field:
    """The difference in the row `key`; none for the reference itself."""
    if key not in table.index:
        return MISSING
    row = table.loc[key]
    return _difference(row["difference"], row["low"], row["high"])


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "–"
