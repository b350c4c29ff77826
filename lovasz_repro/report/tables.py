"""The tables of the report, from the tables of `stats`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lovasz_repro.analysis.claims import Claim
from lovasz_repro.analysis.questions import Question
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.analysis.written import points
from lovasz_repro.records import MEASURES
from lovasz_repro.report import quoted
from lovasz_repro.report.document import (
    MISSING,
    Field,
    Table,
    interval,
    listed,
    loss_field,
    percent,
    plain,
    probability,
    signed,
)
from lovasz_repro.report.style import MEASURE_LABELS, ordered, style

CLAIM_EVIDENCE = {
    "best_image_iou": ("gain", "Gain"),
    "own_measure": ("measures", "Table 1"),
    "carry_over": ("gain", "Gain"),
    "small_objects": ("subsets", "Object size"),
    "gap_filling": ("gap-filling", "Gap filling"),
    "lovasz_softmax": ("losses", "The losses"),
}
"""By claim: the anchor of the figure or table that shows it, and its name."""

VERDICT_MARKS = {"reproduced": "✓", "not reproduced": "✗", "undecided": "?", "not tested": "–"}


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
                _value(row.value, percent),
                _gain(row.difference, row.low, row.high),
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
        (
            "IoU is taken over",
            "images without the category",
            "threshold",
            "highest mean",
            "IoU, %",
            "gain over cross-entropy",
            "not told apart",
        ),
        rows,
        table,
        numeric=frozenset({4, 5}),
        cards=True,
    )


ANSWER_MARKS = {"yes": "✓", "no": "✗", "open": "?"}


def questions_table(found: Sequence[Question]) -> Table:
    """What the records say of questions beside the paper's claims."""
    rows = []
    for one in found:
        seen = one.note
        if one.asked:
            names = [style(loss).label for loss in ordered(one.beaten)]
            seen = f"{len(one.beaten)} of {one.asked}" + (f": {listed(names)}." if names else ".")
        rows.append(
            [
                Field(one.title),
                Field(f"{ANSWER_MARKS[one.answer]}\u00a0{one.answer}", best=True),
                _gain(one.effect, one.low, one.high),
                loss_field(one.loss) if one.loss else MISSING,
                Field(one.unit),
                Field(seen),
            ]
        )
    data = pd.DataFrame([{**vars(one), "beaten": " ".join(one.beaten)} for one in found])
    return Table(
        "questions",
        "Questions of ours, beside the paper’s claims: the largest difference with its 95 % "
        "interval, whose it is, and for which losses the answer is yes (after Holm over the losses "
        "of the question).",
        ("our question", "answer", "largest difference, points", "of", "in", "yes for"),
        rows,
        data,
        numeric=frozenset({2}),
        cards=True,
    )


def claims_table(claims: Sequence[Claim], anchors: set[str]) -> Table:
    """anchors: what the document shows; evidence that it lacks is not linked."""
    rows = []
    for claim in claims:
        anchor, name = CLAIM_EVIDENCE[claim.key]
        shown = Field(name, link=anchor) if anchor in anchors else MISSING
        effect = _difference(claim.effect, claim.low, claim.high)
        if not math.isfinite(claim.effect):
            effect = MISSING
        verdict = Field(f"{VERDICT_MARKS[claim.verdict]}\u00a0{claim.verdict}", best=True)
        of = Field(claim.unit)
        rows.append([Field(claim.title), verdict, effect, of, Field(claim.explanation), shown])
    return Table(
        "claims",
        "The paper’s claims, judged among the losses of its own table, with 95 % intervals.",
        ("claim of the paper", "verdict", "effect, points", "of", "what was seen", "shown in"),
        rows,
        pd.DataFrame([vars(claim) for claim in claims]),
        numeric=frozenset({2}),
    )


def first_table(rows: pd.DataFrame, of_voc: bool = True) -> Table:
    """Table 1 from `headline`, the highest image-IoU first, the paper's values beside ours.

    Args:
        of_voc: whether the categories are the paper's; else its values are left out.
    """
    best = {name: rows[name].max() for name in ("value", "present", "absent", "dataset_iou")}
    table = []
    for row in rows.sort_values("value", ascending=False, kind="stable").itertuples():
        levels = [
            _value(getattr(row, name), percent, best=getattr(row, name) == best[name])
            for name in ("present", "absent", "dataset_iou")
        ]
        ends = interval(row.low, row.high)
        these = interval(row.these_low, row.these_high, points)
        value = quoted.IMAGE_IOU.get(row.row) if of_voc else None
        paper = MISSING
        if value is not None:
            change = points(quoted.gain(row.row)) if row.row != REFERENCE else ""
            highest = value == max(quoted.IMAGE_IOU.values())
            paper = Field(percent(value), value, change, best=highest)
        table.append(
            [
                loss_field(row.row),
                _value(row.value, percent, ends, row.value == best["value"]),
                paper,
                _gain(row.difference, row.difference_low, row.difference_high),
                Field(these or "–", row.difference),
                *levels,
                replace(_gain(row.tuned_difference, row.tuned_low, row.tuned_high), interval=""),
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
        (
            "training loss",
            "image-IoU",
            f"paper{quoted.SIGN}, gain",
            "gain over cross-entropy",
            "interval, these categories",
            "with the category",
            "without",
            "dataset-IoU",
            "gain, both thresholds chosen",
        ),
        table,
        rows.assign(paper=rows["row"].map(quoted.IMAGE_IOU if of_voc else {})),
        numeric=frozenset(range(1, 9)),
    )


def measure_table(matrix: pd.DataFrame) -> Table:
    """Every measure under every training loss: `own_measure_matrix`."""
    losses = ordered(matrix["loss"].unique())
    cells = {(row.measure, row.loss): row for row in matrix.itertuples()}
    rows = []
    for measure in matrix["measure"].unique():
        is_loss = measure in MEASURES
        write = plain if is_loss else percent
        label = MEASURE_LABELS.get("image_iou" if measure == "iou" else measure, measure)
        row = [Field(f"{label}\u00a0↓" if is_loss else f"{label},\u00a0%\u00a0↑")]
        for loss in losses:
            cell = cells[measure, loss]
            ends = interval(cell.low, cell.high, write)
            field = _value(cell.value, write, ends, bool(cell.best))
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
        numeric=frozenset(range(1, len(losses) + 1)),
    )


def category_table(levels: pd.DataFrame, pairs: pd.DataFrame, expected: Sequence[str]) -> Table:
    """Image-IoU by category and loss, and the paired difference of the headline loss.

    Args:
        levels: `levels`; pairs: `differences` of one loss; expected: the grid's categories.
    """
    losses = ordered(levels["loss"].unique())
    cells = {(row.category, row.loss): row for row in levels.itertuples()}
    change = pairs.set_index("category")
    rows = []
    for category in expected:
        row = [Field(category, category)]
        found = [cells[category, loss].value for loss in losses if (category, loss) in cells]
        for loss in losses:
            cell = cells.get((category, loss))
            if cell is None:
                row.append(Field("missing", -math.inf))
                continue
            part = (
                f"{cell.cells} of {cell.expected_cells} cells"
                if cell.cells < cell.expected_cells
                else ""
            )
            row.append(Field(percent(cell.value), cell.value, part, best=cell.value == max(found)))
        p = change["p_holm"].get(category, math.nan)
        pair = [change_of(change, category), Field(probability(p), p if math.isfinite(p) else 2.0)]
        rows.append([*row[:1], *pair, *row[1:]])
    return Table(
        "categories",
        "By category the difference of the Lovász hinge to cross-entropy on the same images in "
        "points, its 95 % interval, and its p value after Holm over all training losses and "
        "categories, for the trained networks as they are; "
        "then image-IoU in percent by training loss, the best in bold.",
        ("category", "Lovász − cross-entropy", "p (Holm)", *(style(loss).label for loss in losses)),
        rows,
        levels,
        numeric=frozenset(range(1, len(losses) + 3)),
    )


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
        found = {row.loss: row for row in table.itertuples()}
        row = [Field(text, place)]
        if levels:
            value = next(iter(found.values())).reference_value if found else math.nan
            row.append(_value(value, percent))
        for loss in losses:
            one = found.get(loss)
            row.append(MISSING if one is None else _difference(one.difference, one.low, one.high))
        rows.append(row)
    reference = (f"{style(REFERENCE).label}, %",) if levels else ()
    columns = (label, *reference, *(style(loss).label for loss in losses))
    return Table(name, caption, columns, rows, data, frozenset(range(1, len(columns))))


def threshold_table(curves: pd.DataFrame, chosen: pd.Series) -> Table:
    """Image-IoU of all images at threshold 0, at the median chosen one, and at the best of the mean
    curve: `threshold_curves`, `chosen_thresholds`."""
    rows = []
    for loss in ordered(curves["loss"].unique()):
        own = curves[curves["loss"] == loss]
        best = own.loc[own["all"].idxmax()]
        at = chosen.get(loss, math.nan)
        # Beyond the thresholds that were recorded nothing is known.
        values = [
            np.interp(x, own["threshold"], own["all"], left=math.nan, right=math.nan)
            for x in (0.0, at)
        ]
        row = [loss_field(loss), _value(values[0], percent)]
        there = _value(values[1], percent) if math.isfinite(values[1]) else MISSING
        row += [MISSING, MISSING] if math.isnan(at) else [Field(signed(at), at), there]
        row += [Field(signed(best["threshold"]), best["threshold"]), _value(best["all"], percent)]
        rows.append(row)
    return Table(
        "threshold-curves-table",
        "Image-IoU in percent of the mean curve at threshold 0, at the median of the chosen "
        "thresholds, and at its own highest point, which no choice on held-out images can know.",
        ("training loss", "at 0", "chosen", "there", "highest at", "there"),
        rows,
        curves,
        numeric=frozenset(range(1, 6)),
    )


def _value(
    value: float, write: Callable[[float], str], interval: str = "", best: bool = False
) -> Field:
    if not math.isfinite(value):
        return Field("missing", -math.inf)
    return Field(write(value), value, interval, best=best)


def _difference(value: float, low: float, high: float) -> Field:
    return _value(value, points, interval(low, high, points))


def _gain(value: float, low: float, high: float) -> Field:
    """As `_difference`; a dash where there is nothing to compare with."""
    return _difference(value, low, high) if math.isfinite(value) else MISSING


def change_of(table: pd.DataFrame, key: str) -> Field:
    """The difference in the row `key`; none for the reference itself."""
    if key not in table.index:
        return MISSING
    row = table.loc[key]
    return _difference(row["difference"], row["low"], row["high"])
