"""Which loss to use, over experiments that differ only in the split of the images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.claims import best_image_iou
from lovasz_repro.analysis.decide import decisions
from lovasz_repro.analysis.prevalence import prevalence_gains
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.records import Json, Records
from lovasz_repro.report import tables
from lovasz_repro.report.controls import LISTS, same
from lovasz_repro.report.document import Block, Paragraph, Section, listed
from lovasz_repro.report.gain_sources import PRESENCE
from lovasz_repro.report.prose import the
from lovasz_repro.report.verdict import natural, of_claim, use
from lovasz_repro.words import count

SUBSETS = {"all": "all", **PRESENCE}


def section(studies: Mapping[str, Records], scores: Mapping[str, Scores]) -> Section | None:
    """None if no two of the studies are splits of one experiment.

    studies, scores: of binary studies, by name.
    """
    own = same_but_for_split(studies)
    if not own:
        return None
    both = Scores(joined(list(own.values())))
    choices = decisions(both)
    if choices.empty:
        return None
    leaders = choices["loss"]
    most = leaders.mode().iloc[0]
    agreed = [
        f"{name} alone in {int((decisions(scores[name])['loss'] == leaders).sum())}" for name in own
    ]
    cases = count(len(choices), "case")
    found = {subset: stats.mean_differences(both, "iou", subset) for subset in SUBSETS}
    blocks: list[Block] = [
        Paragraph(of_claim(replace(best_image_iou(both), these_low=math.nan)), lead=True),
        Paragraph(f"{use(choices)} {natural(prevalence_gains(both))}"),
        Paragraph(
            f"{listed(list(own))} train the same network on different splits of the same images, "
            "with rates chosen anew. A category’s number is the mean over the splits; intervals "
            "are over categories, with the splits given. That they are taken together was decided "
            "when both were known. The same loss has the highest mean in "
            f"{listed(agreed)} of the {cases}."
        ),
        tables.decision_table(choices),
        tables.gains_table(
            "splits-table",
            "Gain in image-IoU over cross-entropy in points, mean over the splits.",
            "images",
            [(text, found[subset].dropna(subset="difference")) for subset, text in SUBSETS.items()],
            pd.concat([table.assign(subset=subset) for subset, table in found.items()]),
            levels=True,
        ),
    ]
    title = (
        f"Over {count(len(own), 'split')} together {the(most)} has the highest mean in "
        f"{int((leaders == most).sum())} of {cases}"
    )
    return Section("splits", "Several splits", title, blocks)


def same_but_for_split(studies: Mapping[str, Records]) -> dict[str, Records]:
    """The first group of studies with the same network and data but different lists; empty if there
    is none. A study that repeats the split itself is left out: its intervals already hold the
    spread between its splits."""
    groups: dict[str, dict[str, Records]] = {}
    for name, records in studies.items():
        config = records.study["config"]  # empty if it is not recorded
        if config.get("cells", {}).get("folds_per_partition"):
            continue
        data = {key: x for key, x in config.get("data", {}).items() if not key.endswith("_list")}
        group = groups.setdefault(repr((config.get("network"), data)), {})
        if not any(same(records, other, *LISTS) for other in group.values()):
            group[name] = records
    return next((group for group in groups.values() if len(group) > 1), {})


def joined(studies: Sequence[Records]) -> Records:
    """The cells of several studies as those of one, for the losses that all of them have.

    Folds of different studies stay apart, so that an image counts once per study that scores it.
    """
    first = studies[0]
    losses = [x for x in first.grid.losses if all(x in r.grid.losses for r in studies)]
    apart = 1 + max(fold for r in studies for fold in r.grid.folds)
    images = pd.concat(
        [r.images.assign(fold=r.images["fold"] + apart * k) for k, r in enumerate(studies)],
        ignore_index=True,
    )
    folds = [fold + apart * k for k, r in enumerate(studies) for fold in r.grid.folds]
    grid: Json = first.study["grid"] | {"losses": losses, "folds": folds}
    study = first.study | {"grid": grid}
    return replace(first, study=study, images=images[images["loss"].isin(losses)])
