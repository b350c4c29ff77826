"""Each other run beside the study whose settings are nearest: what differs, and both gains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, gains, over_categories
from lovasz_repro.records import UNTRAINED, Records
from lovasz_repro.report.document import interval, listed
from lovasz_repro.report.markdown import escaped, pipes
from lovasz_repro.report.style import style
from lovasz_repro.report.tables import rates_of
from lovasz_repro.words import count, points

NETWORK, TRAINED, LISTS = ("network", "kind"), ("network", "train"), ("data", "val_list")
RATES = ("tuning", "lrs")

DIFFERENCES = {
    NETWORK: "network {}",
    ("network", "score"): "score: {}",
    TRAINED: "trained: {}",
    ("data", "views"): "{} fixed views",
    LISTS: "lists {}",
    ("runtime", "precision"): "precision {}",
}
"""Keys of the configuration that tell one run from another, and how their values are named."""

COLUMNS = (
    "run", "what differs", "cells", "beside", "gain", "there", "difference",
    "with the category", "there", "difference",
)  # fmt: skip


def controls_table(studies: Mapping[str, Records], main: str) -> str:
    """The gain of the Lovász hinge over cross-entropy in each study but the main one, in points;
    the gain in the study beside it on the same categories (`alike`), and the difference of the two
    with its 95 % interval over categories. On all images, then on those with the category.

    Args:
        studies: binary studies by name; links lead to their folders.
    """
    rows = []
    for name, records in studies.items():
        if name == main:
            continue
        beside = counterpart(studies, name, main)
        what = differences(studies[beside], records)
        grid = records.grid
        size = f"{count(len(grid.categories), 'category')}, {count(len(grid.folds), 'fold')}"
        row = [_link(name), escaped(what), escaped(size), _link(beside)]
        for found in change(records, studies[beside]).values():
            ends = interval(found["low"], found["high"], points)
            row += [points(found["gain"]), points(found["gain_beside"])]
            row.append(f"{points(found['difference'])} <sub>{ends}</sub>")
        rows.append(row)
    return pipes(COLUMNS, rows, range(4, len(COLUMNS)))


def counterpart(studies: Mapping[str, Records], name: str, main: str) -> str:
    """The study that `name` differs least from: first in network, trained part and image lists,
    then in everything else. It is the main one, or one on the same lists that has more cells, or as
    many and was begun earlier."""
    own = studies[name]
    before = (-len(own.results), _begun(own))
    others = [
        other
        for other, records in studies.items()
        if (-len(records.results), _begun(records)) < before and same_lists(records, own)
    ]

    def distance(other: str) -> tuple[int, int]:
        study = studies[other]
        large = sum(not same(study, own, *key) for key in (NETWORK, TRAINED))
        return large + (not same_lists(study, own)), len(list(_differences(study, own)))

    return min([main, *others], key=distance)


def _begun(records: Records) -> str:
    """When the first of a study's commands was started; "" if it is not recorded."""
    runs = [records.machine, *records.machine.get("earlier", [])]
    return min(str(run.get("started", "")) for run in runs)


def change(records: Records, beside: Records) -> dict[str, dict[str, float]]:
    """By subset (all, present) the gain of `records`, that of `beside`, and their difference with
    its interval, over the categories that both have."""
    arms = (Arm(LOVASZ), Arm(REFERENCE))
    found = {}
    scores = Scores(records)
    for subset in ("all", "present"):
        there = Scores(alike(beside, records, subset))
        own, other = ([gains(x, *arms, subset) for x in side.each] for side in (scores, there))
        # Random folds are in one of the two; if both had them, theirs would be the same.
        pairs = [(one, other[0]) for one in own[1:]] or [(own[0], one) for one in other[1:]]
        whole = (own[0] - other[0]).dropna()
        mean = over_categories([whole, *(one - two for one, two in pairs)])
        found[subset] = {
            "gain": own[0][whole.index].mean(), "gain_beside": other[0][whole.index].mean(),
            "difference": mean.value, "low": mean.low, "high": mean.high,
        }  # fmt: skip
    return found


def differences(main: Records, other: Records) -> str:
    """Steps, values of `DIFFERENCES`, seeds and chosen rates that differ from the main study's."""
    return ", ".join(_differences(main, other)) or "nothing"


def _differences(main: Records, other: Records) -> Iterator[str]:
    steps = _steps(other)
    if steps != _steps(main):
        yield f"{listed(steps)} steps"
    for (group, key), text in DIFFERENCES.items():
        if not same(main, other, group, key):
            yield text.format(setting(other, group, key))
        elif (group, key) == LISTS and (
            more := sorted(set(other.grid.folds) - set(main.grid.folds))
        ):
            yield f"{'fold' if len(more) == 1 else 'folds'} {listed(more)}"
    if not set(main.grid.seeds) & set(other.grid.seeds):
        yield f"seed {listed(other.grid.seeds)}"
    if same(main, other, *NETWORK):
        tried = [setting(records, *RATES) or [] for records in (main, other)]
        if all(tried) and (min(tried[0]), max(tried[0])) != (min(tried[1]), max(tried[1])):
            yield f"first rates from {min(tried[1]):.2g} to {max(tried[1]):.2g}"
        for loss in (REFERENCE, LOVASZ):
            if same_lists(main, other):
                folds = sorted(set(main.grid.folds) & set(other.grid.folds))
                rates, former = (_in_folds(records, loss, folds) for records in (other, main))
            else:
                rates, former = (_shown(rates_of(records, loss)) for records in (other, main))
            if rates != former:
                yield f"{style(loss).label} at {rates} instead of {former}"


def _in_folds(records: Records, loss: str, folds: Sequence[int]) -> str:
    """The rates of a loss in the order of these folds; once if they are the same."""
    each = [_shown(rates_of(records, loss, [fold])) or "–" for fold in folds]
    return f"{listed(each)} (folds {listed(folds)})" if len(set(each)) > 1 else each[0]


def _shown(rates: Sequence[float]) -> str:
    return listed(f"{rate:.2g}" for rate in rates)


def alike(main: Records, other: Records, subset: str) -> Records:
    """The main study's images of the other's categories.

    If the lists of images are the same, only those of its folds and, if they share any, of its
    seeds; if they differ, with subset "present", only those that both score.
    """
    rows = main.images["category"].isin(other.grid.categories)
    if same_lists(main, other):
        rows &= main.images["fold"].isin(other.grid.folds)
        if shared := set(main.grid.seeds) & set(other.grid.seeds):
            rows &= main.images["seed"].isin(shared)
    elif subset == "present":
        keys = [pd.MultiIndex.from_frame(r.images[["category", "id"]]) for r in (main, other)]
        rows &= keys[0].isin(keys[1])
    return replace(main, images=main.images[rows])


def same_lists(one: Records, other: Records) -> bool:
    """Whether two studies score the same lists of images in a fold or more."""
    return same(one, other, *LISTS) and bool(set(one.grid.folds) & set(other.grid.folds))


def same(one: Records, other: Records, group: str, key: str) -> bool:
    """Whether two studies have the same value of a key, or neither has recorded it."""
    return bool(setting(one, group, key) == setting(other, group, key))


def setting(records: Records, group: str, key: str) -> Any:
    """A value of the study's configuration; None if it is not recorded."""
    return records.study.get("config", {}).get(group, {}).get(key)


def _steps(records: Records) -> list[int]:
    found = (r["steps"] for cell, r in records.results.items() if cell.loss != UNTRAINED)
    return sorted(set(found))


def _link(name: str) -> str:
    return f"[{escaped(name)}]({name}/report.md)"
