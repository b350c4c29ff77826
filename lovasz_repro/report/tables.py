"""The tables of levels and gains, from the tables of the analysis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lovasz_repro.analysis.claims import Claim
from lovasz_repro.analysis.questions import Question
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.analysis.stats import REFERENCE, mean_differences
from lovasz_repro.records import MEASURES, Records
from lovasz_repro.report import quoted
from lovasz_repro.report.document import (
    MISSING,
    Field,
    Table,
    gain_field,
    interval,
    level_field,
    listed,
    loss_field,
    percent,
    plain,
    probability,
)
from lovasz_repro.report.style import MEASURE_LABELS, ordered, style
from lovasz_repro.words import points

TABLE_1_COLUMNS = (
    "training loss", "image-IoU", f"paper{quoted.SIGN}, gain", "gain over cross-entropy",
    "interval, these categories", "with the category", "without", "dataset-IoU",
    "gain, both thresholds chosen",
)  # fmt: skip


def first_table(rows: pd.DataFrame, of_voc: bool = True) -> Table:
    """Table 1 from `headline`, the highest image-IoU first, the paper's values beside ours.

    Args:
        of_voc: whether the categories are the paper's; else its values are left out.
    """
    best = {name: rows[name].max() for name in ("value", "present", "absent", "dataset_iou")}
    table = []
    for row in rows.sort_values("value", ascending=False, kind="stable").itertuples():
        ends = interval(row.low, row.high)
        these = interval(row.these_low, row.these_high, points)
        table.append(
            [
                loss_field(row.row),
                level_field(row.value, percent, ends, row.value == best["value"]),
                _paper_field(row.row) if of_voc else MISSING,
                gain_field(row.difference, row.difference_low, row.difference_high),
                Field(these, row.difference) if these else MISSING,
                level_field(row.present, percent, best=row.present == best["present"]),
                level_field(row.absent, percent, best=row.absent == best["absent"]),
                level_field(row.dataset_iou, percent, best=row.dataset_iou == best["dataset_iou"]),
                gain_field(row.tuned_difference, math.nan, math.nan),
            ]
        )
    return Table(
        "image-iou",
        "Image-IoU in percent, mean over categories with 95 % interval, and the gain over "
        "cross-entropy in points with two intervals: for categories like these, and for these "
        "categories with other images. The row with a chosen threshold is compared with "
        "cross-entropy at its own chosen one. Then image-IoU of the images with and "
        "without the category, dataset-IoU, and the gain when both thresholds are chosen on "
        "held-out images. The highest of a column in bold.",
        TABLE_1_COLUMNS,
        table,
        rows.assign(paper=rows["row"].map(quoted.IMAGE_IOU if of_voc else {})),
    )


def _paper_field(loss: str) -> Field:
    if loss not in quoted.IMAGE_IOU:
        return MISSING
    value = quoted.IMAGE_IOU[loss]
    change = points(quoted.gain(loss)) if loss != REFERENCE else ""
    return Field(percent(value), value, change, best=value == max(quoted.IMAGE_IOU.values()))


def measure_table(matrix: pd.DataFrame) -> Table:
    """Every measure under every training loss: `own_measure_matrix`."""
    losses = ordered(matrix["loss"].unique())
    cells = {(row.measure, row.loss): row for row in matrix.itertuples()}
    rows = []
    for measure in matrix["measure"].unique():
        is_loss = measure in MEASURES
        write = plain if is_loss else percent
        label = MEASURE_LABELS[measure]
        row = [Field(f"{label}\u00a0↓" if is_loss else f"{label},\u00a0%\u00a0↑")]
        for loss in losses:
            cell = cells[measure, loss]
            ends = interval(cell.low, cell.high, write)
            field = level_field(cell.value, write, ends, bool(cell.best))
            row.append(replace(field, text=f"{field.text}\u00a0•") if cell.own else field)
        rows.append(row)
    return Table(
        "measures",
        "Each evaluation measure (rows) under each training loss (columns): mean over categories "
        "with 95 % interval, the best of a row in bold; • the loss trains with this measure; ↓ "
        "lower is better, ↑ higher is better.",
        ("measure", *(style(loss).label for loss in losses)),
        rows,
        matrix,
    )


def category_table(levels: pd.DataFrame, pairs: pd.DataFrame, expected: Sequence[str]) -> Table:
    """Image-IoU by category and loss, and the paired difference of the headline loss.

    Args:
        levels: `levels`; pairs: `differences` of one loss; expected: the grid's categories.
    """
    losses = ordered(levels["loss"].unique())
    cells = {(row.category, row.loss): row for row in levels.itertuples()}
    change = pairs.set_index("category")
    difference = pairs[["category", "loss", "difference", "low", "high", "p", "p_holm"]].rename(
        columns={"low": "difference_low", "high": "difference_high"}
    )
    rows = []
    for category in expected:
        p = change["p_holm"].get(category, math.nan)
        own = [cells.get((category, loss)) for loss in losses]
        best = max((cell.value for cell in own if cell), default=math.nan)
        rows.append(
            [
                Field(category, category),
                change_of(change, category),
                Field(probability(p), p if math.isfinite(p) else 2.0),
                *(_category_field(cell, best) for cell in own),
            ]
        )
    return Table(
        "categories",
        "By category the difference of the Lovász hinge to cross-entropy on the same images in "
        "points, its 95 % interval, and its p value after Holm over all training losses and "
        "categories, for the trained networks as they are; "
        "then image-IoU in percent by training loss, the best in bold.",
        ("category", "Lovász − cross-entropy", "p (Holm)", *(style(loss).label for loss in losses)),
        rows,
        levels.merge(difference, "left", ["category", "loss"]),
    )


def _category_field(cell: Any, best: float) -> Field:
    """cell: a row of `levels`, None if the category has no cell of the loss."""
    if cell is None:
        return Field("missing", -math.inf)
    lacks = cell.cells < cell.expected_cells
    part = f"{cell.cells} of {cell.expected_cells} cells" if lacks else ""
    return Field(percent(cell.value), cell.value, part, best=cell.value == best)


def gains_table(
    name: str,
    caption: str,
    label: str,
    parts: Sequence[tuple[str, pd.DataFrame]],
    data: pd.DataFrame,
    levels: bool = False,
) -> Table:
    """Differences with intervals, a row per part and a column per loss.

    Args:
        label: heading of the first column.
        parts: text of the row; a table with loss, difference, low, high, reference_value.
        data: what goes to the CSV.
        levels: also show cross-entropy's own value.
    """
    losses = ordered(name for _, table in parts for name in table["loss"])
    rows = []
    for place, (text, table) in enumerate(parts):
        row = [Field(text, place)]
        if levels:
            value = table["reference_value"].iloc[0] if len(table) else math.nan
            row.append(level_field(value, percent))
        by_loss = table.set_index("loss")
        rows.append([*row, *(change_of(by_loss, loss) for loss in losses)])
    reference = (f"{style(REFERENCE).label}, %",) if levels else ()
    columns = (label, *reference, *(style(loss).label for loss in losses))
    return Table(name, caption, columns, rows, data)


def fold_table(records: Records, folds: Mapping[int, Scores], subsets: Mapping[str, str]) -> Table:
    """The gain in each fold, and the rate that was chosen for cross-entropy there.

    Args:
        folds: `Scores.random_folds` of the records. subsets: of the images, and their names.
    """
    rates = {fold: rate for fold in folds for rate in rates_of(records, REFERENCE, [fold])}
    found = {
        (subset, fold): mean_differences(scores, "iou", subset).dropna(subset="difference")
        for subset in subsets
        for fold, scores in folds.items()
    }
    data = pd.concat(
        [
            table.assign(subset=subset, fold=fold, cross_entropy_lr=rates.get(fold, math.nan))
            for (subset, fold), table in found.items()
        ]
    )
    names = {fold: f"{fold} ({rates[fold]:.2g})" if fold in rates else str(fold) for fold in folds}
    columns = ["subset", "fold", "cross_entropy_lr", "loss", "difference", "low", "high"]
    return gains_table(
        "folds",
        "Gain in image-IoU over cross-entropy in points in each fold, with 95 % interval over "
        "categories; in brackets the learning rate chosen for cross-entropy.",
        "images, fold",
        [(f"{subsets[subset]}, {names[fold]}", table) for (subset, fold), table in found.items()],
        data[[*columns, "categories"]],
    )


def rates_of(records: Records, loss: str, folds: Sequence[int] | None = None) -> list[float]:
    """The learning rates of a loss in these folds, or in all, in ascending order."""
    return sorted(
        {
            result["lr"]
            for cell, result in records.results.items()
            if cell.loss == loss and (folds is None or cell.fold in folds)
        }
    )


def change_of(table: pd.DataFrame, key: str) -> Field:
    """The difference in the row `key`; none for the reference itself."""
    if key not in table.index:
        return MISSING
    row = table.loc[key]
    return gain_field(row["difference"], row["low"], row["high"])


CLAIM_EVIDENCE = {
    "best_image_iou": ("gain", "Gain"),
    "own_measure": ("measures", "Table 1"),
    "carry_over": ("gain", "Gain"),
    "small_objects": ("subsets", "Object size"),
    "gap_filling": ("gap-filling", "Gap filling"),
    "lovasz_softmax": ("losses", "The losses"),
}
"""By claim: the anchor of the figure or table that shows it, and its name."""

ANSWER_MARKS = {"yes": "✓", "no": "✗", "open": "?"}
VERDICT_MARKS = {"reproduced": "✓", "not reproduced": "✗", "undecided": "?", "not tested": "–"}

DECISION_COLUMNS = (
    "IoU is taken over", "images without the category", "threshold", "highest mean", "IoU, %",
    "gain over cross-entropy", "not told apart",
)  # fmt: skip


def decision_table(table: pd.DataFrame) -> Table:
    """Which loss to use when: `decisions`."""
    rows = []
    for row in table.itertuples():
        alike = [style(loss).label for loss in ordered(row.not_told_apart.split())]
        others = listed(alike) if alike else "none"
        if row.untrained_better:
            others += "; not fine-tuning at all is better"
        rows.append(
            [
                Field("each image" if row.metric == "per_image" else "the data set"),
                Field("yes, half of them" if row.empty_images else "no"),
                Field("chosen" if row.tunable else "0"),
                replace(loss_field(row.loss), best=True),
                level_field(row.value, percent),
                gain_field(row.difference, row.low, row.high),
                Field(others),
            ]
        )
    return Table(
        "decisions",
        "Which loss to use: the training loss with the highest mean over categories, its gain over "
        "cross-entropy in points with 95 % interval, and the losses that are not told apart from "
        "it (the interval of the difference to it includes zero; they need not be as good). The "
        "interval is not corrected for the choice of the best. Half of the images hold the "
        "category.",
        DECISION_COLUMNS,
        rows,
        table,
        numbers=[4, 5],
        cards=True,
    )


def questions_table(found: Sequence[Question]) -> Table:
    """What the records say of questions beside the paper's claims."""
    rows = []
    for one in found:
        seen = one.note
        if one.asked:
            names = [style(loss).label for loss in ordered(one.winners)]
            seen = f"{len(one.winners)} of {one.asked}" + (f": {listed(names)}." if names else ".")
        rows.append(
            [
                Field(one.title),
                Field(f"{ANSWER_MARKS[one.answer]}\u00a0{one.answer}", best=True),
                gain_field(one.effect, one.low, one.high),
                loss_field(one.loss) if one.loss else MISSING,
                Field(one.unit),
                Field(seen),
            ]
        )
    data = pd.DataFrame([{**vars(one), "winners": " ".join(one.winners)} for one in found])
    return Table(
        "questions",
        "Questions of ours, beside the paper’s claims: the largest difference with its 95 % "
        "interval, whose it is, and for which losses the answer is yes (after Holm over the losses "
        "of the question).",
        ("our question", "answer", "largest difference, points", "of", "in", "yes for"),
        rows,
        data,
        numbers=[2],
        cards=True,
    )


def claims_table(claims: Sequence[Claim], anchors: set[str]) -> Table:
    """anchors: what the document shows; evidence that it lacks is not linked."""
    rows = []
    for claim in claims:
        anchor, name = CLAIM_EVIDENCE[claim.key]
        rows.append(
            [
                Field(claim.title),
                Field(f"{VERDICT_MARKS[claim.verdict]}\u00a0{claim.verdict}", best=True),
                gain_field(claim.effect, claim.low, claim.high),
                Field(claim.unit),
                Field(claim.explanation),
                Field(name, link=anchor) if anchor in anchors else MISSING,
            ]
        )
    return Table(
        "claims",
        "The paper’s claims, judged among the losses of its own table, with 95 % intervals.",
        ("claim of the paper", "verdict", "effect, points", "of", "what was seen", "shown in"),
        rows,
        pd.DataFrame([vars(claim) for claim in claims]),
        numbers=[2],
    )
