"""The main study beside other runs: what differs, and the gain on the same categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, compare
from lovasz_repro.analysis.written import points
from lovasz_repro.records import UNTRAINED, Records
from lovasz_repro.report.document import count, interval, listed
from lovasz_repro.report.markdown import escaped, pipes

DIFFERENCES = {
    ("network", "kind"): "network {}",
    ("network", "score"): "score: {}",
    ("network", "train"): "trained: {}",
    ("data", "val_list"): "lists {}",
    ("runtime", "precision"): "precision {}",
}
"""Keys of the configuration that tell one run from another, and how their values are named."""

COLUMNS = ("run", "what differs", "cells", "gain", "main study", "with the category", "main study")


def controls_table(main: Records, others: Mapping[str, Records], links: Mapping[str, str]) -> str:
    """A row per other run: the gain of the Lovász hinge over cross-entropy in points, in it and in
    the main study on the same categories (and folds and seeds, where both have the same lists of
    images), on all images and on those with the category.

    Args:
        others: binary studies by name. links: by name, to the report.
    """
    rows = []
    for name, records in others.items():
        pair = [Scores(records), Scores(alike(main, records))]
        gains = [_gain(scores, subset) for subset in ("all", "present") for scores in pair]
        what = [differences(main, records), _size(records)]
        rows.append([f"[{escaped(name)}]({links[name]})", *map(escaped, what), *gains])
    return pipes(COLUMNS, rows, {3, 4, 5, 6})


def differences(main: Records, other: Records) -> str:
    """Number of steps, and the values of `DIFFERENCES` that are not the main study's."""
    found = []
    steps = _steps(other)
    if steps != _steps(main):
        found.append(f"{listed([str(n) for n in steps])} steps")
    for (group, key), text in DIFFERENCES.items():
        values = [r.study.get("config", {}).get(group, {}).get(key) for r in (other, main)]
        if values[0] != values[1]:
            found.append(text.format(values[0]))
    if seeds := [str(n) for n in other.grid.seeds if n not in main.grid.seeds]:
        found.append(f"seed {listed(seeds)}")
    return ", ".join(found) or "nothing"


def alike(main: Records, other: Records) -> Records:
    """The main study's rows of the other's categories, and of its folds and seeds where the lists
    of images are the same."""
    rows = main.images["category"].isin(other.grid.categories)
    lists = [r.study.get("config", {}).get("data", {}).get("val_list") for r in (main, other)]
    if lists[0] == lists[1]:
        rows &= main.images["fold"].isin(other.grid.folds)
        if shared := set(main.grid.seeds) & set(other.grid.seeds):
            rows &= main.images["seed"].isin(shared)
    return replace(main, images=main.images[rows])


def _steps(records: Records) -> list[int]:
    found = (r["steps"] for cell, r in records.results.items() if cell.loss != UNTRAINED)
    return sorted(set(found))


def _size(records: Records) -> str:
    grid = records.grid
    return f"{count(len(grid.categories), 'category')}, {count(len(grid.folds), 'fold')}"


def _gain(scores: Scores, subset: str) -> str:
    row = compare(scores, Arm(LOVASZ), Arm(REFERENCE), subset)
    if not row["categories"]:
        return "–"
    ends = interval(row["low"], row["high"], points)
    return f"{points(row['difference'])} <sub>{ends}</sub>"
