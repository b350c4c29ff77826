"""The sections of the report that show results, each from the records and the analysis's tables.

Where a gain comes from is in `gain_sources`, what happened during training in `curves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.questions import questions
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import Records
from lovasz_repro.report import figures, headings, prose, quoted, tables
from lovasz_repro.report.document import Block, Link, Listing, Paragraph, Section
from lovasz_repro.report.drawing import picture
from lovasz_repro.report.examples import gallery
from lovasz_repro.report.study_tables import Study
from lovasz_repro.report.style import ordered
from lovasz_repro.report.verdict import verdict
from lovasz_repro.words import count, points

SHIPPED = (
    "demo", "finetune", "head", "head_voc", "multiclass", "multiclass_head", "multiclass_paper",
    "paper",
)  # fmt: skip
"""The files of experiments/; a run of another name was made with one of them and other options."""


def opening(records: Records, said: Sequence[str]) -> list[Block]:
    """What a report opens with: the verdict, and the cells that it lacks."""
    lead, *more = said
    blocks: list[Block] = [Paragraph(lead, lead=True), *map(Paragraph, more)]
    failed = [f"{cell}: {error}" for cell, error in records.failed.items()]
    digest = records.study["hash"][:12]
    other = (
        f"Cells finished under another configuration than the study’s ({digest}), or with another "
        "rate or number of steps than is chosen now"
    )
    again = "; run the study again"
    lacking = [
        ("Cells not run", "Cells not run", [str(cell) for cell in records.missing], ""),
        ("Cells that failed", "Cells that failed", failed, ""),
        ("Cells of another configuration", other, list(map(str, records.stale)), again),
    ]
    lacking = [row for row in lacking if row[2]]
    if lacking:
        total, one = len(records.grid.cells()), "loss" if records.multiclass else "category"
        said = [f"{what}: {len(cells)} of {total}{more}." for _, what, cells, more in lacking]
        said.append(
            f"They are left out, and a {one} counts in a comparison only where both losses have "
            "the same cells."
        )
        blocks.append(Paragraph(" ".join(said), warning=True))
    return blocks + [Listing(cells, title) for title, _, cells, _ in lacking]


def answer(study: Study, anchors: set[str]) -> Section:
    """anchors: the figures and tables of the other sections, which the claims link to."""
    blocks = opening(study.records, verdict(study))
    if len(study.choices):
        blocks.append(tables.decision_table(study.choices))
    if study.comparable:
        blocks.append(gain_picture(study))
        anchors = anchors | {"gain"}
    blocks.append(tables.claims_table(study.claims, anchors))
    blocks.append(tables.questions_table(questions(study.scores)))
    if study.of_voc:
        blocks.append(Paragraph(prose.FOOTNOTE, note=True))
    return Section("answer", "The answer", headings.answer(study.differences, study.claims), blocks)


def gain_picture(study: Study, name: str = "gain") -> Block:
    shown = study.headline.dropna(subset="difference").sort_values("difference", ascending=False)
    paper: dict[str, float] = {}
    beside = marks = ""
    if study.of_voc:
        paper = {loss: quoted.gain(loss) for loss in quoted.IMAGE_IOU if loss != REFERENCE}
        beside = ", beside the paper’s gains"
        marks = f" Upright marks: the paper’s gains{quoted.SIGN}."
    return picture(
        name,
        f"Image-IoU minus cross-entropy’s for {prose.loss_names(shown['row'])}, each with its 95 % "
        f"interval{beside}.",
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
    seeds = len(study.records.grid.seeds)
    blocks += [first, Paragraph(prose.estimand(study.scores.partitions, seeds))]
    if folds := study.scores.random_folds:
        blocks.append(tables.fold_table(study.records, folds, {"all": "all"}))
    matrix = stats.own_measure_matrix(study.scores)
    blocks.append(
        Paragraph(
            "The paper claims that each loss is best on its own measure: then the bold entry of "
            "each loss row bears the dot. Soft Jaccard is measured per image; training with it per "
            "batch is another loss, without a measure of its own here."
        )
    )
    blocks.append(tables.measure_table(matrix))
    return Section("table-1", "Table 1", headings.headline(study.headline), blocks)


def _links(records: Records) -> list[Link]:
    """Links from reports/NAME of the repository. It is not checked that the files exist: a report
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
    runs = prose.random_runs(len(study.records.grid.seeds), study.scores.partitions)
    if len(pairs):
        names = pairs["category"]
        blocks += [
            Paragraph(
                "Counted are categories in which the 95 % interval of the difference lies "
                "on one side of zero. The intervals are not corrected for the number of "
                f"categories, the p values below are. In these intervals images {runs}."
            ),
            picture(
                "per-category",
                f"Image-IoU by loss in {count(len(pairs), 'category')}, and the difference of the "
                f"Lovász hinge to cross-entropy, from {names.iloc[0]} (largest gain) to "
                f"{names.iloc[-1]}.",
                "Image-IoU by category and training loss, and the difference of the Lovász hinge "
                "to cross-entropy on the same images with its 95 % interval; sorted by it.",
                figures.per_category(levels, pairs, LOVASZ),
            ),
        ]
    blocks.append(tables.category_table(levels, pairs, study.scores.categories))
    return Section("by-category", "Per category", headings.by_category(pairs), blocks)


def qualitative(study: Study, files: Mapping[str, bytes]) -> list[Section]:
    """No section if the records hold no pictures; `practice` then says so.

    files: of the study, by path.
    """
    entries = study.records.gallery
    if not entries:
        return []
    shown = gallery(entries, ordered(study.scores.losses), files)
    blocks: list[Block] = [Paragraph(prose.CHOICE_OF_IMAGES)]
    if shown.legend:
        blocks.append(Paragraph(prose.WITHOUT_PHOTOGRAPHS))
    gains = [entry["gain"] for entry in entries]
    title = (
        "On single images with the category the Lovász hinge’s gain goes from "
        f"{points(min(gains))} to {points(max(gains))} points"
    )
    return [Section("predictions", "Predictions", title, [*blocks, shown])]


def nothing(what: str) -> Paragraph:
    """The text in place of what the records lack."""
    return Paragraph(f"The records hold no {what} to show here.", warning=True)
