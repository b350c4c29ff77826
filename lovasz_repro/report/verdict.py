"""The three lines that a report opens with: the claim, where a gain comes from, what to use."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd

from lovasz_repro.analysis.claims import LOVASZ, Claim
from lovasz_repro.analysis.decide import SITUATIONS, Situation
from lovasz_repro.analysis.prevalence import NATURAL
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import UNTRAINED
from lovasz_repro.report import quoted
from lovasz_repro.report.document import capital, interval, listed, percent
from lovasz_repro.report.prose import parts_of_gain, the, with_interval
from lovasz_repro.report.study_tables import Study
from lovasz_repro.report.style import ordered
from lovasz_repro.words import count, points

CONDITIONS = (
    ("IoU is averaged over images", "IoU is taken over the data set"),
    ("some images lack the category", "every image holds the category"),
    ("the threshold can be chosen", "the threshold is 0"),
)
"""What each flag of a `Situation` says when it is set, and when it is not."""


def verdict(study: Study) -> list[str]:
    """Three lines: what became of the paper's claim, where a gain comes from, what to use when."""
    claim = next(claim for claim in study.claims if claim.key == "best_image_iou")
    return [
        f"{_gain(study.differences, study.headline, study.of_voc)} {of_claim(claim)}",
        _where(study.parts),
        f"{use(study.choices)} {natural(study.prevalence)}".strip(),
    ]


def _gain(differences: pd.DataFrame, headline: pd.DataFrame, of_voc: bool) -> str:
    rows = differences[(differences["loss"] == LOVASZ) & (differences["categories"] > 0)]
    if rows.empty:
        return (
            "These records do not hold one category with the same cells for the Lovász hinge and "
            "cross-entropy, so they cannot say which of the two gives the better image-IoU."
        )
    row = rows.iloc[0]
    clear = row["low"] > 0 or row["high"] < 0
    text = (
        f"Training with the Lovász hinge gives an image-IoU of {percent(row['value'])}\u00a0%, "
        f"with cross-entropy {percent(row['reference_value'])}\u00a0%, mean over "
        f"{count(int(row['categories']), 'category')}: a difference of {with_interval(row)} for "
        "categories like these"
    )
    own = headline[headline["row"] == LOVASZ].iloc[0]
    if these := interval(own["these_low"], own["these_high"], points):
        text += f", {these} for exactly these"
    text += "." if clear else ". The first interval includes zero."
    if of_voc:
        text += f" The paper’s difference is {points(quoted.gain(LOVASZ))}{quoted.SIGN}."
    return text


def of_claim(claim: Claim) -> str:
    text = (
        "The paper’s claim, that the Lovász hinge is the best of cross-entropy, hinge and Lovász "
        f"hinge: {claim.verdict}"
    )
    if math.isnan(claim.effect):
        return f"{text}."
    row = {"difference": claim.effect, "low": claim.low, "high": claim.high}
    text += f"; {claim.hardest} the difference is {with_interval(row)}"
    if math.isfinite(claim.these_low):
        ends = interval(claim.these_low, claim.these_high, points)
        text += f", {ends} for exactly these categories"
    return f"{text}."


def _where(parts: pd.DataFrame) -> str:
    table = parts_of_gain(parts)
    if table.empty:
        return "Where a gain would come from cannot be said from these records."
    whole, shape = table.loc["gain"], table.loc["oracle"]
    text = (
        f"Of the {points(whole['difference'])} points, images with the category bring "
        f"{with_interval(table.loc['present'])}, images without it "
        f"{with_interval(table.loc['absent'])}. With one threshold per cell, chosen on held-out "
        f"images, the difference is {with_interval(table.loc['both_chosen'])}. At the best "
        "threshold of each single image, IoU on images with the category changes by "
        f"{with_interval(shape)}"
    )
    if shape["high"] < 0:
        text += ": the masks’ shape is worse"
    elif shape["low"] <= 0:
        text += ": no better mask shape is shown"
    return f"{text}."


def use(choices: pd.DataFrame) -> str:
    """Which loss has the highest mean when, in as few conditions as hold exactly, and how often
    cross-entropy and the network before fine-tuning are not told apart from it."""
    if choices.empty:
        return "Which loss to use cannot be said from these records."
    best = dict(zip(SITUATIONS, choices["loss"], strict=True))
    found = []
    for loss in ordered(best.values()):
        own = {case for case, choice in best.items() if choice == loss}
        found.append(f"{the(loss)} has the highest mean {_when(own)}")
    text = capital(f"{'; '.join(found)}.")
    it = "It" if len(found) == 1 else "The loss with the highest mean"
    rivals = [names.split() for names in choices["not_told_apart"]]
    cases = zip(SITUATIONS, rivals, choices["untrained_better"], strict=True)
    clear = {case for case, names, better in cases if not (names or better)}
    if len(clear) == len(SITUATIONS):
        return f"{text} {it} is told apart from every other loss in each of the eight cases."
    only = f"only {_when(clear)}" if clear else "in none of the eight cases"
    text += f" {it} is told apart from every other loss {only}."
    alike = {x: sum(x in names for names in rivals) for x in (REFERENCE, UNTRAINED)}
    said = [f"{the(loss)} in {count(n, 'case')}" for loss, n in alike.items() if n]
    return f"{text} Not told apart from it: {listed(said)}." if said else text


def natural(prevalence: pd.DataFrame) -> str:
    """What the gain is at VOC's own share of images with the category."""
    rows = prevalence[(prevalence["share"] == NATURAL) & (prevalence["loss"] == LOVASZ)]
    if rows.empty:
        return ""
    return (
        "Half of the images hold the category here. With "
        f"{100 * NATURAL:g}\u00a0%, as in VOC’s own list, the Lovász hinge’s gain over "
        f"cross-entropy would be {with_interval(rows.iloc[0])}."
    )


def _when(cases: set[Situation]) -> str:
    """Conditions that hold in these situations and no others, the widest first."""
    found, left = [], set(cases)
    every = product((None, True, False), repeat=len(CONDITIONS))  # None: either
    for flags in sorted(every, key=lambda flags: -flags.count(None)):
        covered = {
            case
            for case in SITUATIONS
            if all(flag in (None, value) for flag, value in zip(flags, case, strict=True))
        }
        if covered <= cases and covered & left:
            left -= covered
            pairs = zip(flags, CONDITIONS, strict=True)
            texts = [yes if flag else no for flag, (yes, no) in pairs if flag is not None]
            found.append(f"when {listed(texts)}" if texts else "in each of the eight cases below")
    return "; or ".join(found)
