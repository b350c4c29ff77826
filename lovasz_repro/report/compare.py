"""One page over several experiments: the gains side by side, and against the base's strength."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.errors import UserError
from lovasz_repro.records import UNTRAINED, Records, load
from lovasz_repro.report import figures, headings, splits, tables
from lovasz_repro.report.axes import legend, markers, panels, zero
from lovasz_repro.report.document import (
    Block,
    Document,
    Field,
    Link,
    Paragraph,
    Section,
    Table,
    listed,
    percent,
)
from lovasz_repro.report.drawing import drawing, picture
from lovasz_repro.report.sections import nothing
from lovasz_repro.report.setup import commit
from lovasz_repro.report.style import ordered, style

SUBSETS = {
    "all": "all images",
    "present": "images with the category",
    "absent": "images without the category",
}
Gains = dict[tuple[str, str], pd.DataFrame]
"""By experiment and subset: the losses' differences to cross-entropy."""


def compare(reports: Sequence[Path], out: Path) -> Document:
    """The page over the records of some report folders. out: the page's folder.

    Raises: UserError if two folders have the same name, or one has no records or is multi-class.
    """
    studies: dict[str, Records] = {}
    paths: dict[str, str] = {}
    for folder in reports:
        if folder.name in studies:
            raise UserError(f"--compare: two reports are named {folder.name}")
        studies[folder.name] = load(folder / "records.zip")
        if studies[folder.name].multiclass:
            raise UserError(f"--compare: {folder} has no image-IoU: all labels are learned at once")
        paths[folder.name] = Path(os.path.relpath(folder, out)).as_posix()
    generated = [name for name, records in studies.items() if records.study.get("generated")]
    banner = f"On generated shapes, not a result: {', '.join(generated)}." if generated else ""
    scores = {name: Scores(records) for name, records in studies.items()}
    facts = [
        (name, f"{len(r.results)} of {len(r.grid.cells())} cells, commit {commit(r.machine)}")
        for name, r in studies.items()
    ]
    links = [Link(name, f"{path}/index.html", f"{path}/report.md") for name, path in paths.items()]
    gains = {
        (name, subset): stats.mean_differences(one, "iou", subset).dropna(subset="difference")
        for name, one in scores.items()
        for subset in SUBSETS
    }
    parts = [_gains(gains, scores, links), splits.section(studies, scores), _base(scores, gains)]
    return Document("The experiments side by side", facts, [p for p in parts if p], banner)


def _gains(gains: Gains, scores: dict[str, Scores], links: Sequence[Link]) -> Section:
    """links: to the reports, behind the first table."""
    names = list(dict.fromkeys(name for name, _ in gains))
    rows = [own.assign(experiment=name, subset=part) for (name, part), own in gains.items()]
    table = pd.concat(rows, ignore_index=True)
    if table.empty:
        title = "In no experiment can the Lovász hinge be compared to cross-entropy"
        return Section("gain-by-experiment", "Gains", title, [nothing("comparisons")])
    own = table[table["loss"] == LOVASZ].groupby("subset", sort=False)
    said = {part: headings.agreement(rows) for part, rows in own}
    title = f"The Lovász hinge’s gain over cross-entropy {said.get('all', 'is not known')}"
    random = [name for name, one in scores.items() if one.partitions > 1]
    spread = f" In {listed(random)} it includes the spread between folds." if random else ""
    blocks: list[Block] = [
        Paragraph(f"On {SUBSETS[part]} the gain {text}.")
        for part, text in said.items()
        if part != "all"
    ]
    blocks.append(
        picture(
            "gains",
            f"Gain in image-IoU over cross-entropy in {', '.join(names)}, by loss.",
            "Gain in image-IoU over cross-entropy, mean over categories with 95 % "
            f"interval, one panel per experiment.{spread}",
            figures.forests(
                [(name, gains[name, "all"]) for name in names], "gain over cross-entropy, points"
            ),
        )
    )
    for subset, text in SUBSETS.items():
        shown = tables.gains_table(
            "gains-table" if subset == "all" else f"gains-{subset}-table",
            f"Gain in image-IoU over cross-entropy in points, {text}.",
            "experiment",
            [(name, gains[name, subset]) for name in names],
            table[table["subset"] == subset],
            levels=True,
        )
        blocks.append(replace(shown, links=links) if subset == "all" else shown)
    return Section("gain-by-experiment", "Gains", title, blocks)


def _base(scores: dict[str, Scores], gains: Gains) -> Section:
    """The gain of each loss over the image-IoU of the network that it starts from."""
    found, lacking = [], []
    for name, one in scores.items():
        if UNTRAINED not in one.present:
            lacking.append(name)
            continue
        rows = gains[name, "all"][["loss", "difference", "low", "high"]]
        base, chosen = (stats.level(one, Arm(UNTRAINED, x)).mean() for x in ("iou", "tuned_iou"))
        rows = rows[rows["loss"] != UNTRAINED]
        found.append(rows.assign(experiment=name, base=base, chosen=chosen))
    blocks: list[Block] = []
    if lacking:
        text = f"The network before fine-tuning was not scored in: {', '.join(lacking)}."
        blocks.append(Paragraph(text, warning=True))
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    if found:
        blocks += [
            picture(
                "base-strength",
                "Gain over cross-entropy against the image-IoU of the network before fine-tuning, "
                "a point an experiment and loss.",
                "Gain in image-IoU over cross-entropy, with its 95 % interval over categories. "
                "The experiments in the order of their base network's image-IoU at a threshold "
                "chosen on held-out images.",
                _strength(table),
            ),
            _strength_table(table),
        ]
    title = "The gain beside the strength of the base network"
    return Section("base", "Strength of the base", title, blocks or [nothing("base networks")])


def _strength_table(table: pd.DataFrame) -> Table:
    losses = ordered(table["loss"])
    rows = []
    for name, own in table.groupby("experiment", sort=False):
        by_loss, levels = own.set_index("loss"), own[["base", "chosen"]].iloc[0]
        head = [Field(str(name)), *(Field(percent(level), level) for level in levels)]
        rows.append([*head, *(tables.change_of(by_loss, loss) for loss in losses)])
    return Table(
        "base-strength-table",
        "Image-IoU of the base network in percent, at threshold 0 and at a chosen one, and the "
        "gain over cross-entropy in points.",
        ("experiment", "base at 0", "base, chosen", *(style(loss).label for loss in losses)),
        rows,
        table,
    )


@drawing
def _strength(figure: Figure, table: pd.DataFrame) -> None:
    losses = ordered(table["loss"])
    bases = table.drop_duplicates("experiment").sort_values("chosen", kind="stable")
    places = {name: place for place, name in enumerate(bases["experiment"])}
    (axes,) = panels(figure, 1, 1, 4.2)
    for place, loss in enumerate(losses):
        own, look = table[table["loss"] == loss], style(loss)
        x = own["experiment"].map(places) + (place - (len(losses) - 1) / 2) * 0.12
        axes.vlines(x, 100 * own["low"], 100 * own["high"], color=look.color, alpha=0.5)
        axes.plot(x, 100 * own["difference"], look.marker, color=look.color, ms=6.5)
    zero(axes, upright=True)
    names = [f"{row.experiment}\n{percent(row.chosen)}\u00a0%" for row in bases.itertuples()]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("image-IoU of the base network, threshold chosen")
    axes.set_ylabel("gain over cross-entropy, points")
    legend(figure, markers(losses), losses)
