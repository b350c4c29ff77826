"""The tables of how a study was run: rates and steps tried, costs, data lists."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from lovasz_repro.analysis.written import points
from lovasz_repro.records import Cell, Json, Records
from lovasz_repro.report.document import (
    MISSING,
    Field,
    Table,
    count,
    listed,
    loss_field,
    percent,
)
from lovasz_repro.report.style import ordered

COSTS = ("seconds_per_step", "train_seconds", "evaluate_seconds", "total_seconds")


def cost_frame(costs: Mapping[Cell, Json]) -> pd.DataFrame:
    """By loss `COSTS` and cells; medians over cells, which others on the machine disturb less than
    means."""
    rows = [
        {"loss": cell.loss, **{key: cost.get(key) for key in COSTS}}
        for cell, cost in costs.items()
        if cost
    ]
    data = pd.DataFrame(rows, columns=["loss", *COSTS])
    data = data.astype(dict.fromkeys(COSTS, float))
    groups = data.groupby("loss", sort=False)
    return groups.median().assign(cells=groups.size())


def cost_table(costs: Mapping[Cell, Json]) -> Table:
    """Seconds by training loss: `cost_frame`."""
    summary = cost_frame(costs)
    rows = [
        [
            loss_field(str(loss)),
            _number(1000 * summary.loc[loss, "seconds_per_step"]),
            *(_number(summary.loc[loss, key]) for key in COSTS[1:]),
            Field(str(int(summary.loc[loss, "cells"])), summary.loc[loss, "cells"]),
        ]
        for loss in ordered(summary.index)
    ]
    return Table(
        "costs",
        "Cost by training loss: medians over cells.",
        ("training loss", "ms a step", "training, s", "evaluation, s", "in all, s", "cells"),
        rows,
        summary.reset_index(),
        numeric=frozenset({1, 2, 3, 4, 5}),
    )


def _number(value: float) -> Field:
    return Field(f"{value:,.1f}", value) if math.isfinite(value) else MISSING


def tuning_frame(tuning: Mapping[str, Json]) -> pd.DataFrame:
    """What was tried: fold, loss, steps, lr, image_iou, trials, diverged, chosen, at_edge.

    A row per fold, loss, number of steps and rate. image_iou (miou where all labels are learned):
    mean over the trials (categories and seeds), NaN where any of them diverged; diverged: how many
    did.
    """
    rows = []
    measure = "image_iou"
    for fold, losses in tuning.items():
        for loss, entry in losses.items():
            trials = pd.DataFrame(entry.get("trials", []))
            if trials.empty:
                continue
            measure = "miou" if "miou" in trials else measure
            trials[measure] = trials[measure].astype(float)
            for (steps, lr), group in trials.groupby(["steps", "lr"], sort=True):
                chosen = (steps, lr) == (entry.get("steps"), entry["lr"])
                rows.append(
                    {
                        "fold": int(fold.removeprefix("fold")),
                        "loss": loss,
                        "steps": int(steps),
                        "lr": float(lr),
                        measure: group[measure].mean(skipna=False),
                        "trials": len(group),
                        "diverged": int(group[measure].isna().sum()),
                        "chosen": chosen,
                        "at_edge": chosen and bool(entry.get("at_edge")),
                    }
                )
    columns = [
        "fold",
        "loss",
        "steps",
        "lr",
        measure,
        "trials",
        "diverged",
        "chosen",
        "at_edge",
    ]
    return pd.DataFrame(rows, columns=columns)


def steps_sentence(tried: pd.DataFrame, measure: str) -> str:
    """Which number of steps was taken how often, and what the others gave at the same rate; empty
    where one number was tried. tried: as of `tuning_frame`; measure: as it is called."""
    column = "miou" if "miou" in tried else "image_iou"
    changes: dict[tuple[int, int], list[float]] = {}
    taken: list[int] = []
    for _, own in tried.groupby(["fold", "loss"]):
        first = own.groupby("steps")["lr"].nunique().idxmax()  # where the rates were tried
        others = own[own["steps"] != first]
        before = own[own["steps"] == first].set_index("lr")[column]
        for row in others.to_dict("records"):
            change = row[column] - before[row["lr"]]
            changes.setdefault((first, row["steps"]), []).append(change)
        if len(others):
            taken += own.loc[own["chosen"], "steps"].tolist()
    if not taken:
        return ""
    counts = [f"{n} in {taken.count(n)}" for n in sorted({n for pair in changes for n in pair})]
    said = f"{listed(counts)} of {count(len(taken), 'choice')}"
    ranges = [
        f"{other} instead of {first} change {measure} by {points(min(by))} to {points(max(by))}"
        for (first, other), every in changes.items()
        if (by := [change for change in every if math.isfinite(change)])
    ]
    said += f"; {listed(ranges)} points" if ranges else ""
    return f" The number of steps was chosen by the same rule, at the best rate: {said}."


def tuning_table(tried: pd.DataFrame) -> Table:
    """A row per fold, loss and number of steps; the rate and steps taken are bold."""
    rates = sorted(tried["lr"].unique())
    several = tried["steps"].nunique() > 1
    rows = []
    for fold, steps in sorted({(r.fold, r.steps) for r in tried.itertuples()}):
        part = tried[(tried["fold"] == fold) & (tried["steps"] == steps)]
        for loss in ordered(part["loss"]):
            found = {row.lr: row for row in part[part["loss"] == loss].itertuples()}
            head = [loss_field(loss), Field(str(fold), fold)]
            head += [Field(str(steps), steps)] if several else []
            rows.append([*head, *(_trial(found.get(rate)) for rate in rates)])
    fixed = ("training loss", "fold", *(["steps"] if several else []))
    return Table(
        "tuning-table",
        f"{'mIoU' if 'miou' in tried else 'Image-IoU'} in percent on held-out images by learning "
        "rate, mean over trials; bold: what was taken, ‡ at the edge of what was tried.",
        (*fixed, *(f"{rate:g}" for rate in rates)),
        rows,
        tried,
        numeric=frozenset(range(1, len(fixed) + len(rates))),
    )


def _trial(row: object) -> Field:
    if row is None:
        return MISSING
    if row.diverged:  # type: ignore[attr-defined]
        return Field("diverged", -math.inf)
    value = row.miou if hasattr(row, "miou") else row.image_iou  # type: ignore[attr-defined]
    edge = "\u00a0‡" if row.at_edge else ""  # type: ignore[attr-defined]
    return Field(percent(value) + edge, value, best=row.chosen)  # type: ignore[attr-defined]


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
