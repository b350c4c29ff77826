"""Which loss to use, over experiments that differ only in the split of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.decide import decisions
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.records import Json, Records
from lovasz_repro.report import tables
from lovasz_repro.report.controls import same_lists
from lovasz_repro.report.document import Block, Paragraph, Section, listed
from lovasz_repro.report.gain_sources import PRESENCE
from lovasz_repro.report.prose import the
from lovasz_repro.report.sections import gain_picture
from lovasz_repro.report.study_tables import Study
from lovasz_repro.report.verdict import verdict
from lovasz_repro.words import count

SUBSETS = {"all": "all", **PRESENCE}


def section(studies: Mapping[str, Records], scores: Mapping[str, Scores]) -> Section | None:
    """None if no two of the studies are splits of one experiment.

    studies, scores: of binary studies, by name.
    """
    own = same_but_for_split(studies)
    if not own:
        return None
    study = Study(joined(list(own.values())), {})
    if study.choices.empty:
        return None
    leaders = study.choices["loss"]
    most = leaders.mode().iloc[0]
    agreed = [
        f"{name} alone in {int((decisions(scores[name])['loss'] == leaders).sum())}" for name in own
    ]
    cases = count(len(leaders), "case")
    gains = pd.concat(
        [study.differences.assign(subset="all"), stats.by_presence(study.scores)], ignore_index=True
    )
    shown = gains.dropna(subset="difference")
    lead, *more = verdict(study)
    blocks: list[Block] = [
        Paragraph(lead, lead=True),
        *map(Paragraph, more),
        Paragraph(
            f"{listed(list(own))} train the same network on different splits of the same images, "
            "with rates chosen anew in each fold. A category’s number is the mean over the splits. "
            "Folds are random: intervals hold their spread, which is that of base networks, chosen "
            "rates and training runs. That the first two are taken together was decided when both "
            f"were known. The same loss has the highest mean in {listed(agreed)} of the {cases}."
        ),
        tables.decision_table(study.choices),
        gain_picture(study, "splits-gain"),
        tables.gains_table(
            "splits-table",
            "Gain in image-IoU over cross-entropy in points, mean over the splits.",
            "images",
            [(text, shown[shown["subset"] == subset]) for subset, text in SUBSETS.items()],
            gains,
            levels=True,
        ),
        tables.fold_table(study.scores.random_folds, SUBSETS),
    ]
    title = (
        f"Over {count(len(own), 'split')} together {the(most)} has the highest mean in "
        f"{int((leaders == most).sum())} of {cases}"
    )
    return Section("splits", "Several splits", title, blocks)


def same_but_for_split(studies: Mapping[str, Records]) -> dict[str, Records]:
    """The first group of studies with the same network and data but different lists; empty if there
    is none.

    Left out are a study that repeats the split itself (its intervals already hold the spread
    between its folds), and one that lacks a cell, or a loss of the group's first.
    """
    groups: dict[str, dict[str, Records]] = {}
    for name, records in studies.items():
        config = records.study["config"]  # empty if it is not recorded
        if config.get("cells", {}).get("folds_per_partition"):
            continue
        data = {key: x for key, x in config.get("data", {}).items() if not key.endswith("_list")}
        group = groups.setdefault(repr((config.get("network"), data)), {})
        whole = all(set(r.grid.losses) <= set(records.grid.losses) for r in group.values())
        if whole and not any(same_lists(records, other) for other in group.values()):
            group[name] = records
    complete = ({k: r for k, r in own.items() if not r.missing} for own in groups.values())
    return next((group for group in complete if len(group) > 1), {})


def joined(studies: Sequence[Records]) -> Records:
    """The cells of several studies as those of one, for the losses that all of them have: each
    study is a partition of the images into folds.

    Folds are numbered through, so that an image counts once per study that scores it.
    """
    first = studies[0]
    losses = [x for x in first.grid.losses if all(x in r.grid.losses for r in studies)]
    size = max(len(r.grid.folds) for r in studies)
    numbers = [
        {fold: k * size + place for place, fold in enumerate(sorted(r.grid.folds))}
        for k, r in enumerate(studies)
    ]
    images = pd.concat(
        [
            r.images.assign(fold=r.images["fold"].map(own))
            for r, own in zip(studies, numbers, strict=True)
        ],
        ignore_index=True,
    )
    folds = [number for own in numbers for number in own.values()]
    grid: Json = first.study["grid"] | {"losses": losses, "folds": folds}
    config = first.study["config"]
    config = config | {"cells": config.get("cells", {}) | {"folds_per_partition": size}}
    study = first.study | {"grid": grid, "config": config}
    return replace(first, study=study, images=images[images["loss"].isin(losses)])
