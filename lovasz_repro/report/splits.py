"""Which loss to use, over experiments that differ only in the split of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.claims import LOVASZ, PAPER_LOSSES
from lovasz_repro.analysis.decide import decisions
from lovasz_repro.analysis.prevalence import NATURAL
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.records import Json, Records
from lovasz_repro.report import tables
from lovasz_repro.report.axes import interval, panels, zero
from lovasz_repro.report.controls import RATES, same_lists, setting
from lovasz_repro.report.document import Block, Paragraph, Section, Table, listed, signed
from lovasz_repro.report.drawing import drawing, picture
from lovasz_repro.report.gain_sources import PRESENCE
from lovasz_repro.report.prose import FOOTNOTE, the, with_interval
from lovasz_repro.report.sections import gain_picture
from lovasz_repro.report.study_tables import Study
from lovasz_repro.report.verdict import verdict
from lovasz_repro.words import count

SUBSETS = {"all": "all", **PRESENCE}
ON = SUBSETS | {"all": "on all images"}
CHOSEN = {
    "both_chosen": "all, both thresholds chosen",
    "oracle": "with the category, each image’s own best threshold",
}
"""Parts of the gain that follow the subsets, and their rows."""


def section(studies: Mapping[str, Records], scores: Mapping[str, Scores]) -> Section | None:
    """None if no two of the studies are splits of one experiment.

    studies, scores: of binary studies, by name.
    """
    own = same_but_for_split(studies)
    if not own:
        return None
    study = Study(joined(list(own.values())))
    if study.choices.empty:
        return None
    leaders = study.choices["loss"]
    most = leaders.mode().iloc[0]
    parts = [f"{name} ({count(partitions_of(records), 'split')})" for name, records in own.items()]
    agreed = [
        f"{name} alone in {int((decisions(scores[name])['loss'] == leaders).sum())}" for name in own
    ]
    cases = f"{len(leaders)} ways to score"
    folds = tables.fold_table(study.records, study.scores.random_folds, SUBSETS)
    lead, *rest = verdict(study)
    levels = tables.first_table(study.headline, study.of_voc)
    blocks: list[Block] = [
        Paragraph(lead, lead=True),
        *map(Paragraph, rest),
        Paragraph(
            f"{listed(parts)} train the same network on different splits of the same images, "
            "with rates chosen anew in each fold. A category’s number is the mean over the splits. "
            "Intervals include the spread between folds (base network, chosen rates, training "
            f"run). The best loss of all together is also that of {listed(agreed)} of the {cases}."
        ),
        tables.decision_table(study.choices),
        gain_picture(study, "splits-gain"),
        replace(levels, name="splits-levels"),
        _gains(study, "splits-table", "mean over the splits"),
        *_with_fewer_rates(studies, own),
        folds,
    ]
    by_fold = folds.data[folds.data["loss"] == LOVASZ]
    if len(by_fold) and by_fold["cross_entropy_lr"].notna().all():
        blocks.append(_rate_picture(by_fold))
    if study.of_voc:
        blocks.append(Paragraph(FOOTNOTE, note=True))
    splits = count(study.scores.partitions, "split")
    title = (
        f"Over {splits} together {the(most)} has the highest mean in "
        f"{int((leaders == most).sum())} of {cases}"
    )
    return Section("splits", "Several splits", title, blocks)


def _gains(study: Study, name: str, what: str) -> Table:
    """The gains on all images, with and without the category, at 7 %, and at chosen thresholds."""
    parts = study.parts.rename(columns={"part": "subset"})
    at_natural = study.prevalence[study.prevalence["share"] == NATURAL]
    table = pd.concat(
        [
            study.differences.assign(subset="all"),
            study.by_presence,
            *([at_natural.assign(subset="natural")] if study.of_voc else []),
            parts[parts["subset"].isin(CHOSEN)],
        ],
        ignore_index=True,
    )
    columns = ["subset", "loss", "reference_value", "difference", "low", "high", "p", "p_holm"]
    table = table[[*columns, "categories"]].dropna(subset="difference")
    own_list = {"natural": f"{100 * NATURAL:g}\u00a0% with the category, as in VOC’s own list"}
    rows = SUBSETS | own_list | CHOSEN
    return tables.gains_table(
        name,
        f"Gain in image-IoU over cross-entropy in points, {what}.",
        "images",
        [(rows[subset], own) for subset, own in table.groupby("subset", sort=False)],
        table,
    )


def _with_fewer_rates(studies: Mapping[str, Records], own: Mapping[str, Records]) -> list[Block]:
    """The gains with the studies of the same splits that had the fewest rates to choose from; none
    if these are `own`.

    own: the studies of the section.
    """
    narrow = same_but_for_split(studies, most_rates=False)
    if narrow.keys() == own.keys():
        return []
    study = Study(joined(list(narrow.values())))
    others = listed(name for name in narrow if name not in own)
    instead = listed(name for name in own if name not in narrow)
    over = listed(
        f"{with_interval(stats.compare(study.scores, Arm(LOVASZ), Arm(loss)))} over {the(loss)}"
        for loss in PAPER_LOSSES
        if loss != LOVASZ and loss in study.scores.present
    )
    text = (
        f"{others} ran on the folds of {instead} with a narrower first range of learning rates. "
        f"Taken in its place, they give the Lovász hinge a gain of {over}."
    )
    what = f"with {others} in place of {instead}"
    return [Paragraph(text), _gains(study, "splits-fewer-rates", what)]


def _rate_picture(gains: pd.DataFrame) -> Block:
    """gains: rows of `fold_table`'s data."""
    ranks = {
        subset: own["cross_entropy_lr"].rank().corr(own["difference"].rank())
        for subset, own in gains.groupby("subset")
    }
    said = [f"{signed(ranks[subset])} {text}" for subset, text in ON.items()]
    return picture(
        "splits-rates",
        "Gain of the Lovász hinge over cross-entropy in each fold, over the learning rate chosen "
        "for cross-entropy.",
        "Gain of the Lovász hinge over cross-entropy in each fold, with 95 % interval over "
        "categories, over the learning rate chosen for cross-entropy in that fold. Rank "
        f"correlation over {count(gains['fold'].nunique(), 'fold')}: {listed(said)}.",
        _over_rates(gains),
    )


@drawing
def _over_rates(figure: Figure, gains: pd.DataFrame) -> None:
    rates = sorted(gains["cross_entropy_lr"].unique())
    for axes, (subset, text) in zip(panels(figure, 3, 3, 2.9), ON.items(), strict=True):
        own = gains[gains["subset"] == subset].sort_values(["cross_entropy_lr", "fold"])
        # Folds with the same rate stand side by side.
        place = own["cross_entropy_lr"] * 1.12 ** own.groupby("cross_entropy_lr").cumcount()
        for x, row in zip(place, own.itertuples(), strict=True):
            interval(axes, x, row, LOVASZ, upright=True)
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:.2g}" for rate in rates], fontsize=8)
        axes.set_xticks([], minor=True)
        axes.set_xlim(rates[0] / 1.8, rates[-1] * 1.8)
        axes.grid(axis="x", visible=False)
        zero(axes, upright=True)
        axes.set_title(text, fontsize=10)
        axes.set_xlabel("cross-entropy’s rate")
    figure.axes[0].set_ylabel("gain over cross-entropy, points")


def same_but_for_split(
    studies: Mapping[str, Records], *, most_rates: bool = True
) -> dict[str, Records]:
    """The first group of studies with the same network and data but different lists; empty if there
    is none.

    Of those on the same lists, the one with the most learning rates to choose from first
    (`tuning.lrs`) counts, of equals the first. Left out are studies whose rates were not chosen,
    that lack a cell, or a category or loss of the group's largest.

    Args:
        most_rates: False for the fewest.
    """
    groups: dict[str, dict[str, Records]] = {}
    for name, records in studies.items():
        if records.whole and records.tuning:
            groups.setdefault(_experiment(records), {})[name] = records
    for group in groups.values():
        largest = max(group.values(), key=lambda r: len(r.grid.categories) * len(r.grid.losses))
        order = sorted(group, key=lambda name: _first_rates(group[name]), reverse=most_rates)
        found: dict[str, Records] = {}
        for name in order:
            grid = group[name].grid
            if (
                set(grid.categories) >= set(largest.grid.categories)
                and set(grid.losses) >= set(largest.grid.losses)
                and not any(same_lists(group[name], other) for other in found.values())
            ):
                found[name] = group[name]
        if len(found) > 1:
            return {name: records for name, records in group.items() if name in found}
    return {}


def _first_rates(records: Records) -> int:
    """How many learning rates there were to choose from before any was added."""
    return len(setting(records, *RATES) or [])


def _experiment(records: Records) -> str:
    """The network and the data, whatever the lists of images."""
    config = records.study["config"]
    data = {key: x for key, x in config.get("data", {}).items() if not key.endswith("_list")}
    return repr((config.get("network"), data))


def _places(records: Records) -> dict[int, tuple[int, int]]:
    """By fold its partition of the images, and its place in that."""
    folds, size = sorted(records.grid.folds), records.folds_per_partition
    if not size:
        return {fold: (0, place) for place, fold in enumerate(folds)}
    return {fold: divmod(fold, size) for fold in folds}


def partitions_of(records: Records) -> int:
    """How many partitions of the images into folds a study has."""
    return len({partition for partition, _ in _places(records).values()})


def joined(studies: Sequence[Records]) -> Records:
    """The cells of several studies as those of one, for the losses that all of them have: each
    study is a partition of the images into folds, or several.

    Folds are numbered through, so that an image counts once per partition that scores it.
    """
    first = studies[0]
    losses = [x for x in first.grid.losses if all(x in r.grid.losses for r in studies)]
    every = [_places(r) for r in studies]
    size = 1 + max(place for places in every for _, place in places.values())
    numbers: list[dict[int, int]] = []
    start = 0  # the first partition of a study
    for places in every:
        partitions = sorted({partition for partition, _ in places.values()})
        numbers.append(
            {
                x: (start + partitions.index(own)) * size + place
                for x, (own, place) in places.items()
            }
        )
        start += len(partitions)
    images = pd.concat(
        [
            r.images.assign(fold=r.images["fold"].map(own))
            for r, own in zip(studies, numbers, strict=True)
        ],
        ignore_index=True,
    )
    folds = [number for own in numbers for number in own.values()]
    results = {
        replace(cell, fold=own[cell.fold]): result
        for r, own in zip(studies, numbers, strict=True)
        for cell, result in r.results.items()
        if cell.loss in losses
    }
    grid: Json = first.study["grid"] | {"losses": losses, "folds": folds}
    config = first.study["config"]
    config = config | {"cells": config.get("cells", {}) | {"folds_per_partition": size}}
    study = first.study | {"grid": grid, "config": config}
    images = images[images["loss"].isin(losses)]
    return replace(first, study=study, images=images, results=results)
