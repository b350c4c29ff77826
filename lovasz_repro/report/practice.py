"""How a study was run: rates and steps tried, costs, deviations from the paper, data lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lovasz_repro.records import Cell, Json, Records
from lovasz_repro.report import figures, headings, prose, setup
from lovasz_repro.report.document import (
    MISSING,
    Block,
    Field,
    Listing,
    Paragraph,
    Section,
    Table,
    listed,
    loss_field,
    percent,
)
from lovasz_repro.report.drawing import picture
from lovasz_repro.report.style import ordered, style

COSTS = ("seconds_per_step", "train_seconds", "evaluate_seconds", "total_seconds")


def section(records: Records) -> Section:
    """Learning rates, costs, deviations, base networks, data."""
    tried, costs = tuning_frame(records.tuning), cost_frame(records.costs)
    blocks = _rates(tried, "mIoU" if records.multiclass else "image-IoU")
    blocks.append(cost_table(costs) if len(costs) else Paragraph("Costs: not recorded."))
    if records.multiclass:
        short = "Rates, costs, data"
        title = "How rates were chosen, what cells cost, and what the data were"
        blocks.append(Listing(setup.multiclass_notes(records)))
    else:
        short = "Rates, costs, deviations"
        title = headings.practice(tried)
        blocks += [Paragraph("Deviations from the paper:"), Listing(setup.deviations(records))]
    bases = [f"fold {k}: {percent(base['miou'])} %" for k, base in records.bases.items() if base]
    text = f"Base networks, mean IoU over all labels: {', '.join(bases) or 'not recorded'}."
    blocks.append(Paragraph(text))
    if not (records.gallery or records.multiclass):
        blocks.append(Paragraph("These records hold no pictures of predictions."))
    lists = records.study.get("data", {}).get("lists")
    blocks.append(_list_table(lists) if lists else Paragraph("Data lists: not recorded."))
    return Section("practice", short, title, blocks)


def _rates(tried: pd.DataFrame, measure: str) -> list[Block]:
    """tried: `tuning_frame`; measure: what the trials were chosen by."""
    if tried.empty:
        return [Paragraph("Learning rates tried: not recorded.")]
    text = (
        "Every loss got the same first trials in each fold. The rate with the highest mean "
        f"{measure} on held-out images was taken, for the cells of that fold alone: images of the "
        "fold’s own training list that neither the base network nor a trial trained on."
    )
    if tried["steps"].nunique() > 1:
        text += " The number of steps was chosen by the same rule, at the best rate."
    if tried.groupby(["fold", "loss"])["lr"].nunique().nunique() > 1:
        text += (
            " Where the best rate was the lowest or the highest, further ones were tried beyond it."
        )
    edge = tried[tried["at_edge"]].groupby("loss", sort=False)["fold"].unique()
    if len(edge):
        names = [f"{style(loss).label} (fold {listed(folds)})" for loss, folds in edge.items()]
        text += f" At the edge of what was tried lies the rate of {listed(names)}."
    shown = picture(
        "tuning",
        f"Held-out {measure} over the learning rate for "
        f"{prose.loss_names(ordered(tried['loss']))}.",
        f"Mean {measure} of the trials on held-out images over the learning rate; what was "
        "taken is ringed. A point is missing where a trial diverged.",
        figures.tuning(tried, measure),
    )
    return [Paragraph(text), shown, tuning_table(tried)]


def cost_frame(costs: Mapping[Cell, Json]) -> pd.DataFrame:
    """`COSTS` by loss and the number of cells: medians over cells, which other processes disturb
    less than means."""
    rows = [
        {"loss": cell.loss, **{key: cost.get(key) for key in COSTS}}
        for cell, cost in costs.items()
        if cost
    ]
    data = pd.DataFrame(rows, columns=["loss", *COSTS]).astype(dict.fromkeys(COSTS, float))
    groups = data.groupby("loss", sort=False)
    return groups.median().assign(cells=groups.size())


def cost_table(costs: pd.DataFrame) -> Table:
    """Seconds by training loss: `cost_frame`."""

    def number(value: float) -> Field:
        return Field(f"{value:,.1f}", value) if math.isfinite(value) else MISSING

    rows = []
    for loss in ordered(costs.index):
        step, *others = (costs.loc[loss, key] for key in COSTS)
        cells = costs.loc[loss, "cells"]
        rows.append(
            [loss_field(loss), *map(number, (1000 * step, *others)), Field(str(int(cells)), cells)]
        )
    return Table(
        "costs",
        "Cost by training loss: medians over cells.",
        ("training loss", "ms a step", "training, s", "evaluation, s", "in all, s", "cells"),
        rows,
        costs.reset_index(),
    )


def tuning_frame(tuning: Mapping[str, Json]) -> pd.DataFrame:
    """What was tried: fold, loss, steps, lr, image_iou, trials, diverged, chosen, at_edge.

    A row per fold, loss, number of steps and rate. image_iou (multi-class: miou): mean over the
    trials (categories and seeds), NaN if any of them diverged; diverged: how many did.
    """
    rows = []
    measure = "image_iou"
    for fold, losses in tuning.items():
        for loss, entry in losses.items():
            trials = pd.DataFrame(entry.get("trials", []))
            if trials.empty:
                continue
            measure = "miou" if "miou" in trials else measure
            for (steps, lr), scores in trials.groupby(["steps", "lr"])[measure]:
                scores = scores.astype(float)
                chosen = (steps, lr) == (entry.get("steps"), entry["lr"])
                row = {"fold": int(fold.removeprefix("fold")), "loss": loss, "steps": int(steps)}
                row |= {"lr": float(lr), measure: scores.mean(skipna=False), "trials": len(scores)}
                row |= {"diverged": int(scores.isna().sum()), "chosen": chosen}
                rows.append(row | {"at_edge": chosen and bool(entry.get("at_edge"))})
    columns = ["fold", "loss", "steps", "lr", measure]
    return pd.DataFrame(rows, columns=[*columns, "trials", "diverged", "chosen", "at_edge"])


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
    )


def _trial(row: Any) -> Field:
    if row is None:
        return MISSING
    if row.diverged:
        return Field("diverged", -math.inf)
    value = row.miou if hasattr(row, "miou") else row.image_iou
    edge = "\u00a0‡" if row.at_edge else ""
    return Field(percent(value) + edge, value, best=row.chosen)


def _list_table(lists: Mapping[str, Json]) -> Table:
    """The data lists with their hashes."""
    rows = [
        [Field(name), Field(str(one["images"]), one["images"]), Field(one["sha256"][:16])]
        for name, one in lists.items()
    ]
    data = pd.DataFrame([{"list": name, **entry} for name, entry in lists.items()])
    caption = "Image lists and the first 16 digits of their SHA-256."
    return Table("lists", caption, ("list", "images", "SHA-256"), rows, data, numbers=[1])
