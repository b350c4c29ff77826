"""The three lines that a report opens with: the claim, where a gain comes from, what to use."""

from __future__ import annotations

import math

import pandas as pd

from lovasz_repro.analysis.claims import LOVASZ, Claim
from lovasz_repro.analysis.prevalence import NATURAL
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import UNTRAINED
from lovasz_repro.report import quoted
from lovasz_repro.report.document import listed, percent
from lovasz_repro.report.prose import parts_of_gain, the, with_interval
from lovasz_repro.report.study_tables import Study
from lovasz_repro.report.style import ordered
from lovasz_repro.words import count, points


def verdict(study: Study) -> list[str]:
    """Three lines: what became of the paper's claim, where a gain comes from, what to use when."""
    claim = next(claim for claim in study.claims if claim.key == "best_image_iou")
    own_list = natural(study.prevalence) if study.of_voc else ""
    return [
        f"{_gain(study.differences, study.of_voc)} {of_claim(claim)}",
        f"{_where(study)} {own_list}".strip(),
        use(study.choices),
    ]


def _gain(differences: pd.DataFrame, of_voc: bool) -> str:
    rows = differences[(differences["loss"] == LOVASZ) & (differences["categories"] > 0)]
    if rows.empty:
        return (
            "These records do not hold one category with the same cells for the Lovász hinge and "
            "cross-entropy, so they cannot say which of the two gives the better image-IoU."
        )
    row = rows.iloc[0]
    text = (
        f"The Lovász hinge gives an image-IoU of {percent(row['value'])}\u00a0%, cross-entropy "
        f"{percent(row['reference_value'])}\u00a0%, mean over "
        f"{count(int(row['categories']), 'category')}: a gain of {with_interval(row)}."
    )
    if row["low"] <= 0 <= row["high"]:
        text += " The interval includes zero."
    if of_voc:
        paper = quoted.gain(LOVASZ)
        place = "above" if paper > row["high"] else "below" if paper < row["low"] else ""
        where = f", {place} the interval" if place else ""
        text += f" The paper’s gain is {points(paper)}{quoted.SIGN}{where}."
    return text


def of_claim(claim: Claim) -> str:
    text = (
        "The paper’s claim, that the Lovász hinge is the best of cross-entropy, hinge and Lovász "
        f"hinge: {claim.verdict}"
    )
    if math.isnan(claim.effect):
        return f"{text}."
    row = {"difference": claim.effect, "low": claim.low, "high": claim.high}
    return f"{text}; {claim.hardest} the gain is {with_interval(row)}."


def _where(study: Study) -> str:
    table = parts_of_gain(study.parts)
    if table.empty:
        return "Where a gain would come from cannot be said from these records."
    halves = study.by_presence[study.by_presence["loss"] == LOVASZ].set_index("subset")
    shape = table.loc["oracle"]
    text = (
        f"On images with the category the gain is {with_interval(halves.loc['present'])}, on "
        f"those without it {with_interval(halves.loc['absent'])}. With one threshold per cell, "
        f"chosen on held-out images, it is {with_interval(table.loc['both_chosen'])}. At the best "
        "threshold of each single image, the gain on images with the category is "
        f"{with_interval(shape)}"
    )
    if shape["high"] < 0:
        text += ": the masks’ shape is worse"
    elif shape["low"] <= 0:
        text += ": no better mask shape is shown"
    return f"{text}."


def use(choices: pd.DataFrame) -> str:
    """How often each loss has the highest mean, and how often cross-entropy and the network before
    fine-tuning are not told apart from it."""
    if choices.empty:
        return "Which loss to use cannot be said from these records."
    best = choices["loss"].value_counts()
    first, *others = sorted(ordered(best.index), key=lambda loss: -best[loss])
    often = [f"the highest mean in {best[first]}", *(f"{the(x)} in {best[x]}" for x in others)]
    rivals = [names.split() for names in choices["not_told_apart"]]
    better = int(choices["untrained_better"].sum())
    clear = int((choices["not_told_apart"].eq("") & ~choices["untrained_better"]).sum())
    alike = {loss: sum(loss in names for names in rivals) for loss in (REFERENCE, UNTRAINED)}
    said = [f"from {the(loss)} in {n}" for loss, n in alike.items() if n]
    text = (
        f"Of {len(choices)} ways to score (over images or the data set, with images without the "
        f"category or not, threshold 0 or chosen) {the(first)} has {listed(often)}. The best loss "
        f"is told apart from all others in {clear or 'none'}"
    )
    text += f"; it is not told apart {listed(said)}." if said else "."
    return text + (f" In {better} not fine-tuning at all is better." if better else "")


def natural(prevalence: pd.DataFrame) -> str:
    """What the gain is at VOC's own share of images with the category."""
    rows = prevalence[(prevalence["share"] == NATURAL) & (prevalence["loss"] == LOVASZ)]
    if rows.empty:
        return ""
    return (
        f"Half of the images hold the category here; with {100 * NATURAL:g}\u00a0%, as in VOC’s "
        f"own list, the gain would be {with_interval(rows.iloc[0])}."
    )
