"""The sections that need no comparison of cells: the surrogates, and how the study was run."""

from __future__ import annotations

from functools import cache

import pandas as pd

from lovasz_repro.records import Records
from lovasz_repro.report import (
    headings,
    lines,
    practice_tables,
    prose,
    setup,
    surrogate_figures,
)
from lovasz_repro.report.document import (
    Block,
    Field,
    Listing,
    Paragraph,
    Section,
    Table,
    listed,
    percent,
    plain,
    signed,
)
from lovasz_repro.report.drawing import picture
from lovasz_repro.report.style import ordered, style
from lovasz_repro.report.surrogates import PIXELS, SHARES, SWEPT, Sweep, sweep


@cache
def surrogates() -> Section:
    sweeps = [sweep(share) for share in SHARES]
    return Section(
        "surrogates",
        "The surrogates",
        _surrogate_title(sweeps),
        [
            Paragraph(
                "Two pixels already show the shape of the Lovász hinge. Where both labels are "
                "right by a margin of 1 it is zero, and at scores of ±1 it is exactly twice the "
                "Jaccard loss. With no foreground (first panel) only the worst pixel counts; with "
                "all foreground (last panel) it is the mean of two hinges."
            ),
            picture(
                "surface",
                "Contour plots of the Lovász hinge over the scores of two pixels, one for each of "
                "the four cases of what they are in truth.",
                "The Lovász hinge of two pixels over both scores (logits), for each case of what "
                "the two are in truth. Contours lie 0.5 apart.",
                surrogate_figures.surface(),
            ),
            Paragraph(_sweep_sentence(sweeps)),
            picture(
                "bias",
                "1 − IoU and four training losses over a bias added to all scores, at three shares "
                "of foreground, each with its least point marked.",
                "Losses over one bias that is added to all scores; these are normal with variance "
                "1 around +½ on foreground and −½ on background. Each curve's least point is "
                "marked; the dotted line is the bias with the least Jaccard loss, 1 − IoU. "
                f"{PIXELS:,} pixels at the "
                "quantiles of the two distributions, nothing drawn at random.",
                surrogate_figures.bias(sweeps),
            ),
            _sweep_table(sweeps),
        ],
    )


def _surrogate_title(sweeps: list[Sweep]) -> str:
    """How often the Lovász hinge's best bias is the least costly one."""
    best = sum("lovasz_hinge" in _least_costly(one) for one in sweeps)
    return (
        "With one parameter to choose, the Lovász hinge costs the least Jaccard loss at "
        f"{best} of {len(sweeps)} shares of foreground"
    )


def _sweep_sentence(sweeps: list[Sweep]) -> str:
    """Which surrogate's best bias costs the least Jaccard loss, at each share of foreground."""
    parts = []
    for one in sweeps:
        best = [
            f"the {style(name).label.removesuffix(' per image')}" for name in _least_costly(one)
        ]
        parts.append(f"at {100 * one.share:g} % foreground by {listed(best)}")
    return (
        "The paper’s synthetic experiment asks which surrogate a classifier with a single "
        "parameter should minimise when it is judged by the Jaccard loss. The bias that costs "
        f"least Jaccard loss, to three decimals, is chosen {', '.join(parts)}."
    )


def _least_costly(one: Sweep) -> list[str]:
    """The surrogates whose best bias costs the least Jaccard loss, to three decimals."""
    costs = {name: round(one.jaccard_at(name), 3) for name in SWEPT}
    return [name for name, cost in costs.items() if cost == min(costs.values())]


def _sweep_table(sweeps: list[Sweep]) -> Table:
    rows, data = [], []
    for name in ("jaccard", *SWEPT):
        label = "Jaccard loss itself" if name == "jaccard" else style(name).label
        row = [Field(label, label, loss="" if name == "jaccard" else name)]
        for one in sweeps:
            bias = one.bias(name)
            cost = one.jaccard_at(name)
            at = f"at {signed(bias)}"
            row.append(Field(plain(cost), cost, at, best=name in _least_costly(one)))
            data.append({"loss": name, "share": one.share, "bias": bias, "jaccard_loss": cost})
        rows.append(row)
    return Table(
        "bias-table",
        "Jaccard loss, 1 − IoU, paid at the bias that minimises each loss (the bias behind it); "
        "the loss that pays least in bold.",
        ("minimised", *(f"{100 * one.share:g} % foreground" for one in sweeps)),
        rows,
        pd.DataFrame(data),
        numeric=frozenset(range(1, len(sweeps) + 1)),
    )


def practice(records: Records) -> Section:
    """Learning rates, costs, deviations, data, base networks."""
    blocks: list[Block] = [*rates(records)]
    if any(records.costs.values()):
        blocks.append(practice_tables.cost_table(records.costs))
    else:
        blocks.append(Paragraph("Costs: not recorded."))
    blocks.append(Paragraph("Deviations from the paper:"))
    blocks.append(Listing(setup.deviations(records)))
    blocks.append(Paragraph(bases(records)))
    if not records.gallery:
        blocks.append(Paragraph("These records hold no pictures of predictions."))
    if records.study.get("data", {}).get("lists"):
        blocks.append(practice_tables.list_table(records))
    else:
        blocks.append(Paragraph("Data lists: not recorded."))
    title = headings.practice(
        practice_tables.tuning_frame(records.tuning), practice_tables.cost_frame(records.costs)
    )
    return Section("practice", "Rates, costs, deviations", title, blocks)


def rates(records: Records) -> list[Block]:
    measure = "mIoU" if records.multiclass else "image-IoU"
    tried = practice_tables.tuning_frame(records.tuning)
    if tried.empty:
        return [Paragraph("Learning rates tried: not recorded.")]
    edge = tried[tried["at_edge"]].groupby("loss", sort=False)["fold"].unique()
    names = [
        f"{style(x).label} (fold {listed([str(n) for n in folds])})" for x, folds in edge.items()
    ]
    note = f" At the edge of what was tried lies the rate of {listed(names)}." if names else ""
    if tried.groupby(["fold", "loss"])["lr"].nunique().nunique() > 1:
        note = (
            " Where the best rate was the lowest or the highest, further ones were tried beyond it."
        ) + note
    return [
        Paragraph(
            "Every loss got the same trials, on images of each fold’s own training list; taken was "
            f"what gave the highest mean {measure} on held-out images, which neither the base "
            "network nor a trial trained on, and for the cells of that fold alone."
            + practice_tables.steps_sentence(tried, measure)
            + note
        ),
        picture(
            "tuning",
            f"{measure[0].upper()}{measure[1:]} over the learning rate for "
            f"{prose.loss_names(ordered(tried['loss']))}.",
            f"Mean {measure} of the trials on held-out images over the learning rate; what was "
            "taken is ringed. A point is missing where a trial diverged.",
            lines.tuning(tried, measure),
        ),
        practice_tables.tuning_table(tried),
    ]


def bases(records: Records) -> str:
    parts = [
        f"fold {fold}: {percent(base['miou'])} %"
        for fold, base in records.bases.items()
        if "miou" in base
    ]
    if not parts:
        return "Base networks, 21-way mean IoU: not recorded."
    return f"Base networks, 21-way mean IoU: {', '.join(parts)}."
