"""The sections of the report that show results, each from the records and the analysis's tables.

Where a gain comes from is in `sources`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.claims import LOVASZ, Claim, claims
from lovasz_repro.analysis.decide import decisions
from lovasz_repro.analysis.decompose import decomposition
from lovasz_repro.analysis.headline import headline
from lovasz_repro.analysis.prevalence import prevalence_gains
from lovasz_repro.analysis.questions import questions
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.data.voc import CATEGORIES
from lovasz_repro.records import MEASURES, UNTRAINED, Records
from lovasz_repro.report import figures, headings, lines, prose, quoted, setup, tables
from lovasz_repro.report.document import Block, Link, Listing, Paragraph, Section, Table, count
from lovasz_repro.report.drawing import picture
from lovasz_repro.report.examples import gallery
from lovasz_repro.report.style import ordered

SHIPPED = (
    "demo", "finetune", "head", "head_voc", "multiclass", "multiclass_head", "multiclass_paper",
    "paper",
)  # fmt: skip
"""The files of experiments/; a run of another name was made with one of them and other options."""


@dataclass(frozen=True)
class Study:
    """The records of a study, its files by path, and the tables that several sections share."""

    records: Records
    files: Mapping[str, bytes]

    @cached_property
    def scores(self) -> Scores:
        return Scores(self.records)

    @cached_property
    def claims(self) -> list[Claim]:
        return claims(self.scores)

    @cached_property
    def differences(self) -> pd.DataFrame:
        return stats.mean_differences(self.scores)

    @cached_property
    def headline(self) -> pd.DataFrame:
        return headline(self.scores)

    @cached_property
    def parts(self) -> pd.DataFrame:
        return decomposition(self.scores)

    @cached_property
    def presence(self) -> pd.DataFrame:
        return stats.by_presence(self.scores)

    @cached_property
    def choices(self) -> pd.DataFrame:
        return decisions(self.scores)

    @cached_property
    def prevalence(self) -> pd.DataFrame:
        return prevalence_gains(self.scores)

    @property
    def verdict(self) -> list[str]:
        """The three lines that a report opens with."""
        return prose.verdict(
            self.differences, self.headline, self.parts, self.claims, self.choices,
            self.prevalence, self.of_voc,
        )  # fmt: skip

    @property
    def of_voc(self) -> bool:
        """Whether the categories are the paper's: only then its values stand beside ours."""
        classes = self.records.study.get("config", {}).get("data", {}).get("classes")
        return classes is None or classes == list(CATEGORIES)

    @property
    def comparable(self) -> bool:
        """Whether any loss can be compared to the reference."""
        return bool(self.differences["difference"].notna().any())


def answer(study: Study, anchors: set[str]) -> Section:
    """anchors: the figures and tables of the other sections, which the claims link to."""
    lead, *more = study.verdict
    blocks: list[Block] = [Paragraph(lead, lead=True), *map(Paragraph, more)]
    if gaps := setup.completeness(study.records):
        blocks.append(Paragraph(gaps, warning=True))
    lists = {
        "Cells not run": [str(cell) for cell in study.records.missing],
        "Cells that failed": [f"{cell}: {e}" for cell, e in study.records.failed.items()],
        "Cells of another configuration": [str(cell) for cell in study.records.stale],
    }
    blocks += [Listing(cells, title) for title, cells in lists.items() if cells]
    if len(study.choices):
        blocks.append(tables.decision_table(study.choices))
    if study.comparable:
        blocks.append(_gain_picture(study))
        anchors = anchors | {"gain"}
    blocks.append(tables.claims_table(study.claims, anchors))
    blocks.append(tables.questions_table(questions(study.scores)))
    if study.of_voc:
        blocks.append(Paragraph(prose.FOOTNOTE, note=True))
    return Section("answer", "The answer", headings.answer(study.differences, study.claims), blocks)


def _gain_picture(study: Study) -> Block:
    shown = study.headline.dropna(subset="difference").sort_values("difference", ascending=False)
    compared = quoted.IMAGE_IOU if study.of_voc else {}
    paper = {loss: quoted.gain(loss) for loss in compared if loss != REFERENCE}
    marks = f" Upright marks: the paper’s gains{quoted.SIGN}." if study.of_voc else ""
    return picture(
        "gain",
        f"Image-IoU minus cross-entropy’s for {prose.loss_names(shown['row'])}, each with its 95 % "
        f"interval{', beside the paper’s gains' if study.of_voc else ''}.",
        "Gain in image-IoU over cross-entropy, mean over categories; at a chosen threshold, over "
        "cross-entropy at its own. Line: 95 % interval for categories like these; broad bar: for "
        f"these categories, with other images.{marks} An arrow with a number lies beyond the axis.",
        figures.gains(shown, paper),
    )


def table_1(study: Study) -> Section:
    blocks: list[Block] = []
    common = study.scores.common(study.scores.present)
    if note := prose.common_categories(len(common), len(study.scores.categories)):
        blocks.append(Paragraph(note, warning=True))
    if text := prose.baselines(study.headline):
        blocks.append(Paragraph(text))
    first = replace(tables.first_table(study.headline, study.of_voc), links=_links(study.records))
    partitions = study.scores.partitions
    seeds = len(study.records.grid.seeds)
    blocks += [first, Paragraph(prose.estimand(len(partitions), seeds))]
    if partitions:
        blocks.append(_partition_table([stats.mean_differences(part) for part in partitions]))
    matrix = stats.own_measure_matrix(study.scores)
    blocks.append(
        Paragraph(
            "The paper’s claim on own measures is that each loss is best on its own: then the bold "
            "entries of the four loss rows bear the dot of the loss that trains with the measure. "
            "Soft Jaccard is measured per image; training with it per batch is another loss, "
            "without a measure of its own here."
        )
    )
    blocks.append(tables.measure_table(matrix))
    return Section("table-1", "Table 1", headings.headline(study.headline), blocks)


def _partition_table(partitions: list[pd.DataFrame]) -> Table:
    """The gain in each partition. partitions: `mean_differences` of each."""
    parts = [(f"partition {number}", table) for number, table in enumerate(partitions, 1)]
    data = pd.concat([table.assign(partition=name) for name, table in parts])
    return tables.gains_table(
        "partitions",
        "Gain in image-IoU over cross-entropy in each partition of the images, with 95 % interval "
        "over categories; in points.",
        "partition",
        parts,
        data[["partition", "loss", "difference", "low", "high", "categories"]],
    )


def _links(records: Records) -> list[Link]:
    """From reports/NAME of the repository. Whether the files are there is not looked at: a report
    follows from its records alone."""
    name = records.study["experiment"]
    configuration = Link("how it was run", "../../experiments/README.md")
    if name in SHIPPED:
        configuration = Link(f"configuration ({name}.yaml)", f"../../experiments/{name}.yaml")
    return [configuration, Link("other reports", "../README.md")]


def per_category(study: Study) -> Section:
    levels = stats.levels(study.scores)
    pairs = stats.differences(study.scores)
    pairs = pairs[pairs["loss"] == LOVASZ].sort_values("difference", ascending=False, kind="stable")
    blocks: list[Block] = []
    if len(pairs):
        blocks.append(
            Paragraph(
                "Counted are categories in which the 95 % interval of the difference lies "
                "on one side of zero; categories are not corrected for being many. The p values "
                "below are."
            )
        )
        blocks.append(
            picture(
                "per-category",
                f"Image-IoU by loss in {count(len(pairs), 'category')}, and the difference of the "
                f"Lovász hinge to cross-entropy, from {pairs['category'].iloc[0]} (largest gain) "
                f"to {pairs['category'].iloc[-1]}.",
                "Image-IoU by category and training loss, and the difference of the Lovász hinge "
                "to cross-entropy on the same images with its 95 % interval; sorted by it.",
                figures.per_category(levels, pairs, LOVASZ),
            )
        )
    blocks.append(tables.category_table(levels, pairs, study.scores.categories))
    return Section("by-category", "Per category", headings.by_category(pairs), blocks)


def training_curves(study: Study) -> Section:
    table = curve_table(study)
    if table.empty:
        title = headings.training(table)
        return Section("training", "Training curves", title, [nothing("curves")])
    shown = prose.loss_names(list(table["loss"].unique()))
    blocks: list[Block] = [
        picture(
            "curves",
            f"Four validation losses, image-IoU and its gain over training steps for {shown}.",
            "Validation measures over training steps, by training loss; step 0 is the network "
            "before training, where it was scored. Losses are relative to the first validation of "
            "their category. The last panel is the difference in image-IoU to cross-entropy "
            "at the same step. Line: median over categories; band: the middle half of the "
            "categories.",
            lines.curves(table),
        )
    ]
    if text := prose.still_falling(study.records.curves):
        blocks.append(Paragraph(text))
    return Section("training", "Training curves", headings.training(table), blocks)


def curve_table(study: Study) -> pd.DataFrame:
    """loss, measure, step, middle, low, high, over the categories that all losses have whole.

    The untrained network's row, at step 0, starts the curve of every loss. Losses are relative to a
    category's first validation; image_iou is in percent, gain (paired, over cross-entropy) in
    points.
    """
    curves = study.records.curves
    curves = curves[curves["category"].isin(study.scores.common(study.scores.present))]
    names = [*MEASURES, "image_iou"]
    start = curves[curves["loss"] == UNTRAINED]
    trained = curves[(curves["loss"] != UNTRAINED) & (curves["step"] > 0)]
    losses = [loss for loss in study.scores.trained if (trained["loss"] == loss).any()]
    every = pd.concat([*(start.assign(loss=loss) for loss in losses), trained])
    runs = every.groupby(["category", "loss", "step"], as_index=False)[names].mean()
    first = runs[runs["step"] == runs["step"].min()].groupby("category")[list(MEASURES)].mean()
    for name in MEASURES:
        runs[name] = runs[name] / runs["category"].map(first[name])
    runs["image_iou"] *= 100
    against = runs.loc[runs["loss"] == REFERENCE, ["category", "step", "image_iou"]]
    runs = runs.merge(against, on=["category", "step"], how="left", suffixes=("", "_reference"))
    runs["gain"] = runs["image_iou"] - runs["image_iou_reference"]
    names.append("gain")
    runs.loc[runs["loss"] == REFERENCE, "gain"] = np.nan  # of itself
    long = runs.melt(["category", "loss", "step"], names, var_name="measure").dropna()
    groups = long.groupby(["loss", "measure", "step"])["value"]
    table = groups.agg(
        middle="median", low=lambda x: x.quantile(0.25), high=lambda x: x.quantile(0.75)
    ).reset_index()
    order = {loss: place for place, loss in enumerate(study.scores.losses)}
    place = table["measure"].map(names.index)
    table = table.assign(loss_place=table["loss"].map(order), place=place)
    return table.sort_values(["place", "loss_place", "step"]).drop(columns=["place", "loss_place"])


def qualitative(study: Study) -> list[Section]:
    """No section where the records hold no pictures; `background.practice` then says so."""
    entries = study.records.gallery
    if not entries:
        return []
    shown = gallery(entries, ordered(study.scores.losses), study.files)
    blocks: list[Block] = [Paragraph(prose.CHOICE_OF_IMAGES)]
    if shown.legend:
        blocks.append(Paragraph(prose.WITHOUT_PHOTOGRAPHS))
    title = headings.predictions([entry["gain"] for entry in entries])
    return [Section("predictions", "Predictions", title, [*blocks, shown])]


def nothing(what: str) -> Paragraph:
    """In place of what the records lack."""
    return Paragraph(f"The records hold no {what.removeprefix('a ')} to show here.", warning=True)
