"""One page over several experiments: the gains side by side, and against the base's strength."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.headline import UNTRAINED_TUNED, headline
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.errors import UserError
from lovasz_repro.records import UNTRAINED, Records, load
from lovasz_repro.report import figures, headings, tables
from lovasz_repro.report.axes import NARROW, WIDE
from lovasz_repro.report.document import (
    Block,
    Document,
    Field,
    Link,
    Paragraph,
    Section,
    Table,
    percent,
)
from lovasz_repro.report.drawing import Draw, picture
from lovasz_repro.report.sections import nothing
from lovasz_repro.report.style import INK, ordered, style

SUBSETS = {"all": "all images", "present": "with the category", "absent": "without it"}


def compare(reports: Sequence[Path], out: Path) -> Document:
    """The page over the records of some report folders; out: where it will lie.

    Raises: UserError where two of them have the same name, or one has no records.
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
        (name, f"{len(r.results)} of {len(r.grid.cells())} cells, commit {_commit(r)}")
        for name, r in studies.items()
    ]
    links = [Link(name, f"{path}/index.html", f"{path}/report.md") for name, path in paths.items()]
    parts = [_gains(scores, links), _base(scores)]
    return Document("The experiments side by side", facts, parts, banner)


def _commit(records: Records) -> str:
    return str(records.machine.get("commit") or "not recorded")[:12]


def _gains(scores: dict[str, Scores], links: Sequence[Link]) -> Section:
    """links: to the reports, behind the first table."""
    rows = []
    for name, one in scores.items():
        for subset in SUBSETS:
            table = stats.mean_differences(one, "iou", subset).dropna(subset="difference")
            rows.append(table.assign(experiment=name, subset=subset))
    table = pd.concat(rows, ignore_index=True)
    if table.empty:
        title = headings.gains_by_experiment(table)
        return Section("gain-by-experiment", "Gains", title, [nothing("comparisons")])
    verdict = headings.agreement(table)
    blocks: list[Block] = [Paragraph(verdict, lead=True)] if verdict else []
    for subset, text in SUBSETS.items():
        own = table[table["subset"] == subset]
        panels = [(name, own[own["experiment"] == name]) for name in scores]
        suffix = "" if subset == "all" else f"-{subset}"
        if subset == "all":
            blocks.append(
                picture(
                    "gains",
                    f"Gain in image-IoU over cross-entropy in {', '.join(scores)}, by loss.",
                    "Gain in image-IoU over cross-entropy, mean over categories with 95 % "
                    "interval, one panel per experiment.",
                    figures.forests(panels, "gain over cross-entropy, points"),
                )
            )
        caption = f"Gain in image-IoU over cross-entropy in points, {text}."
        shown = tables.gains_table(f"gains{suffix}-table", caption, "experiment", panels, own, True)
        blocks.append(replace(shown, links=links) if subset == "all" else shown)
    title = headings.gains_by_experiment(table[table["subset"] == "all"])
    return Section("gain-by-experiment", "Gains", title, blocks)


def _base(scores: dict[str, Scores]) -> Section:
    """The gain of each loss over the image-IoU of the network that it starts from."""
    found, lacking = [], []
    for name, one in scores.items():
        table = headline(one).set_index("row")
        if UNTRAINED not in one.present:
            lacking.append(name)
            continue
        base = {
            "base": table.loc[UNTRAINED, "value"],
            "chosen": table.loc[UNTRAINED_TUNED, "value"],
        }
        losses = [loss for loss in one.trained if pd.notna(table.loc[loss, "difference"])]
        columns = ["difference", "difference_low", "difference_high"]
        rows = table.loc[losses, columns].set_axis(["difference", "low", "high"], axis=1)
        found.append(rows.rename_axis("loss").reset_index().assign(experiment=name, **base))
    blocks: list[Block] = []
    if lacking:
        names = ", ".join(lacking)
        blocks.append(
            Paragraph(f"The network before fine-tuning was not scored in: {names}.", warning=True)
        )
    if found:
        table = pd.concat(found, ignore_index=True)
        blocks.append(
            picture(
                "base-strength",
                "Gain over cross-entropy against the image-IoU of the network before fine-tuning, "
                "a point an experiment and loss.",
                "Gain in image-IoU over cross-entropy, with its 95 % interval over categories, "
                "against the image-IoU of the base network at a threshold chosen on held-out "
                "images. Losses of one experiment stand beside each other.",
                _strength(table),
            )
        )
        blocks.append(_strength_table(table))
    title = headings.base_strength(pd.concat(found) if found else pd.DataFrame())
    return Section("base", "Strength of the base", title, blocks or [nothing("base networks")])


def _strength_table(table: pd.DataFrame) -> Table:
    losses = ordered(table["loss"])
    rows = []
    for name, own in table.groupby("experiment", sort=False):
        by_loss = own.set_index("loss")
        base, chosen = own["base"].iloc[0], own["chosen"].iloc[0]
        gains = [tables.change_of(by_loss, loss) for loss in losses]
        head = [Field(str(name)), Field(percent(base), base), Field(percent(chosen), chosen)]
        rows.append([*head, *gains])
    return Table(
        "base-strength-table",
        "Image-IoU of the base network in percent, at threshold 0 and at a chosen one, and the "
        "gain over cross-entropy in points.",
        ("experiment", "base at 0", "base, chosen", *(style(loss).label for loss in losses)),
        rows,
        table,
        numeric=frozenset(range(1, 3 + len(losses))),
    )


def _strength(table: pd.DataFrame) -> Draw:
    losses = ordered(table["loss"])

    def draw(figure: Figure, narrow: bool) -> None:
        figure.set_size_inches(NARROW if narrow else WIDE, 4.2)
        axes = figure.subplots()
        span = 100 * (table["chosen"].max() - table["chosen"].min())
        step = 0.012 * span or 0.1
        for place, loss in enumerate(losses):
            own, look = table[table["loss"] == loss], style(loss)
            x = 100 * own["chosen"] + (place - (len(losses) - 1) / 2) * step
            for at, row in zip(x, own.itertuples(), strict=True):
                axes.plot([at, at], [100 * row.low, 100 * row.high], color=look.color, alpha=0.5)
            axes.plot(x, 100 * own["difference"], look.marker, color=look.color, ms=6.5)
        for place, (name, own) in enumerate(table.groupby("experiment", sort=False)):
            at = (100 * own["chosen"].iloc[0], 1 + 0.05 * (place % 2))  # bases may be equally good
            axes.annotate(
                str(name), at, xycoords=("data", "axes fraction"), ha="center", va="bottom",
                fontsize=9,
            )  # fmt: skip
        axes.axhline(0, color=INK, lw=1, alpha=0.6)
        axes.margins(x=0.15)
        axes.set_xlabel("image-IoU of the base network, threshold chosen, %")
        axes.set_ylabel("gain over cross-entropy, points")
        looks = [style(loss) for loss in losses]
        figure.legend(
            [Line2D([], [], color=x.color, marker=x.marker, ls="") for x in looks],
            [x.label for x in looks],
            loc="outside upper left", ncols=1 if narrow else 3, fontsize=9,
        )  # fmt: skip

    return draw
