"""The tables that answer: which loss to use, the paper's claims, and our own questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from lovasz_repro.analysis.claims import Claim
from lovasz_repro.analysis.questions import Question
from lovasz_repro.report.document import (
    MISSING,
    Field,
    Table,
    gain_field,
    level_field,
    listed,
    loss_field,
    percent,
)
from lovasz_repro.report.style import ordered, style

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
