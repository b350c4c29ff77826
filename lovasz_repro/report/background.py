"""The sections that need no comparison of cells: the surrogates, and how the study was run."""

from __future__ import annotations

from functools import cache

import pandas as pd

from lovasz_repro.records import Records
from lovasz_repro.report import figures, prose, surrogate_figures, tables
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
from lovasz_repro.report.style import style
from lovasz_repro.report.surrogates import PIXELS, SHARES, SWEPT, Sweep, sweep


@cache
def surrogates() -> Section:
    sweeps = [sweep(share) for share in SHARES]
    return Section(
        "surrogates",
        "The surrogates",
        "The surrogates themselves",
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
                "the four labelings.",
                "The Lovász hinge of two pixels over both scores, for the four labelings (label of "
                "pixel 1, label of pixel 2). Every contour is half a unit.",
                surrogate_figures.surface(),
            ),
            Paragraph(_sweep_sentence(sweeps)),
            picture(
                "bias",
                "Jaccard loss and four surrogates over a bias added to all scores, at three shares "
                "of foreground, each with its least point marked.",
                "Scores are normal with variance 1 around +½ on foreground and −½ on background, "
                "and one bias is added to all. Each curve's least point is marked; the dotted line "
                f"is the bias that the Jaccard loss itself asks for. {PIXELS:,} pixels at the "
                "quantiles of the two distributions, nothing drawn at random.",
                surrogate_figures.bias(sweeps),
            ),
            _sweep_table(sweeps),
        ],
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
        "Jaccard loss paid at the bias that minimises each loss (the bias behind it); the "
        "surrogate that pays least in bold.",
        ("minimised", *(f"{100 * one.share:g} % foreground" for one in sweeps)),
        rows,
        pd.DataFrame(data),
        numeric=frozenset(range(1, len(sweeps) + 1)),
    )


def practice(records: Records) -> Section:
    """Learning rates, costs, deviations, data, base networks."""
    blocks: list[Block] = [*_rates(records)]
    if any(records.costs.values()):
        blocks.append(tables.cost_table(records.costs))
    else:
        blocks.append(Paragraph("Costs: not recorded."))
    blocks.append(Paragraph("Deviations from the paper:"))
    blocks.append(Listing(prose.deviations(records)))
    blocks.append(Paragraph(_bases(records)))
    if records.study.get("data", {}).get("lists"):
        blocks.append(tables.list_table(records))
    else:
        blocks.append(Paragraph("Data lists: not recorded."))
    return Section(
        "practice", "Rates, costs, deviations", "Learning rates, costs, deviations, data", blocks
    )


def _rates(records: Records) -> list[Block]:
    given = records.learning_rates
    rates = {loss: given[loss] for loss in records.grid.losses if given.get(loss, {}).get("curve")}
    if not rates:
        return [Paragraph("Learning rates tried: not recorded.")]
    edge = [style(loss).label for loss, entry in rates.items() if entry.get("at_edge")]
    note = f" The rate of {listed(edge)} lies at the edge of what was tried." if edge else ""
    return [
        Paragraph(
            "Every loss got the same rates to try, on training images only; the rate that gave the "
            "best image-IoU on held-out training images was taken for all its cells." + note
        ),
        picture(
            "learning-rates",
            f"Image-IoU over the learning rate for {prose.loss_names(list(rates))}.",
            "Image-IoU on held-out training images over the learning rate; the rate taken is "
            "ringed. A point is missing where training diverged.",
            figures.learning_rates(tables.rate_frame(rates)),
        ),
        tables.rate_table(rates),
    ]


def _bases(records: Records) -> str:
    parts = [
        f"fold {fold}: {percent(base['miou'])} %"
        for fold, base in records.bases.items()
        if "miou" in base
    ]
    if not parts:
        return "Base networks, 21-way mean IoU: not recorded."
    return f"Base networks, 21-way mean IoU: {', '.join(parts)}."
