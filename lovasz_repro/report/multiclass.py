"""The report of a multi-class study: its sections, from the records and their tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lovasz_repro.analysis.claims import Claim
from lovasz_repro.analysis.multiclass import (
    LOVASZ_SOFTMAX,
    MOVED,
    LabelScores,
    claim,
    label_table,
    largest_move,
    scores_table,
)
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import UNTRAINED, Records
from lovasz_repro.report import curves, figures, practice, prose, setup, tables
from lovasz_repro.report.document import (
    Block,
    Document,
    Field,
    Paragraph,
    Section,
    Table,
    gain_field,
    level_field,
    listed,
    loss_field,
    of_difference,
    percent,
)
from lovasz_repro.report.document import interval as ends
from lovasz_repro.report.drawing import picture
from lovasz_repro.report.sections import nothing, opening
from lovasz_repro.report.style import style
from lovasz_repro.schema import without_batch
from lovasz_repro.words import count, points

NAME = "Lovász-Softmax"


def document(records: Records) -> Document:
    scores = LabelScores(records)
    table, images = (scores_table(scores, name) for name in ("miou", "image_miou"))
    seeds = len({cell.seed for cell in records.results if cell.loss != UNTRAINED})
    return Document(
        title=f"{NAME} and mean IoU: {records.study['experiment']}",
        facts=setup.facts(records),
        sections=[
            _answer(records, table, images),
            _losses(scores, table, images, seeds),
            _batches(scores, table),
            _labels(label_table(scores)),
            curves.multiclass(scores, records.curves),
            practice.section(records),
        ],
    )


def answer(records: Records) -> str:
    """The levels of Lovász-Softmax and cross-entropy, the gain, and the verdict."""
    table = scores_table(LabelScores(records), "miou")
    judged = claim(table)
    if not np.isfinite(judged.effect):
        return f"{judged.title}: {judged.verdict}. {judged.explanation}"
    level = table.set_index("loss")["value"]
    return (
        f"{NAME} per batch gives an mIoU of {percent(level[LOVASZ_SOFTMAX])}\u00a0%, cross-entropy "
        f"{percent(level[REFERENCE])}\u00a0%: {_gain(table)} for exactly these labels and folds. "
        f"{_said(judged)}"
    )


def _said(judged: Claim) -> str:
    text = f"The claim that {judged.title}: {judged.verdict}"
    if judged.verdict == "not tested":
        text += f", since no loss changes the network’s mIoU by as much as {100 * MOVED:g} points"
    return f"{text}."


def _gain(table: pd.DataFrame) -> str:
    """What the Lovász-Softmax gains over cross-entropy. table: `scores_table`."""
    return prose.with_interval(of_difference(table).set_index("loss").loc[LOVASZ_SOFTMAX])


def verdict(table: pd.DataFrame, images: pd.DataFrame) -> list[str]:
    """The three lines that the report opens with.

    Args:
        table, images: `scores_table` of miou and image_miou.
    """
    judged = claim(table)
    if not np.isfinite(judged.effect):
        nothing_said = "These records cannot compare the two losses."
        return [nothing_said, f"{_said(judged)} {judged.explanation}"]
    by_loss = table.set_index("loss")
    own, other = by_loss.loc[LOVASZ_SOFTMAX], by_loss.loc[REFERENCE]
    first = (
        f"Fine-tuned under {NAME} per batch ({own['batch_size']} images a step) the network has an "
        f"mIoU of {percent(own['value'])}\u00a0% over the val images, under cross-entropy "
        f"{percent(other['value'])}\u00a0%: a difference of {_gain(table)}"
    )
    if UNTRAINED in by_loss.index:
        first += f"; before fine-tuning it has {percent(by_loss.loc[UNTRAINED, 'value'])}\u00a0%"
    found = [
        f"{prose.with_interval(row)} at {row['batch_size']}"
        for _, row in of_difference(_by_batch(table)).iterrows()
    ]
    return [
        f"{first}.",
        f"{_said(judged)} In mIoU per image the difference is {_gain(images)}.",
        "By images a step, on as many images in all, the gain over cross-entropy is "
        f"{listed(found)}.",
    ]


def _by_batch(table: pd.DataFrame) -> pd.DataFrame:
    """The gains of Lovász-Softmax at each batch size, the smallest first."""
    own = table[table["loss"].map(without_batch) == LOVASZ_SOFTMAX].dropna(subset="difference")
    return own.sort_values("batch_size")


def _answer(records: Records, table: pd.DataFrame, images: pd.DataFrame) -> Section:
    blocks = opening(records, verdict(table, images))
    shown = table.dropna(subset="difference").sort_values("difference", ascending=False)
    if len(shown):
        rows = shown.rename(columns={"loss": "row"}).assign(these_low=np.nan, these_high=np.nan)
        blocks.append(
            picture(
                "gain",
                f"mIoU minus cross-entropy’s for {prose.loss_names(shown['loss'])}, each with its "
                "95 % interval.",
                "Gain in mIoU over cross-entropy at the same number of images a step, with its "
                "95 % interval over images. An arrow with a number lies beyond the axis.",
                figures.gains(rows, {}),
            )
        )
    judged = claim(table)
    blocks.append(tables.claims_table([judged], {"losses"}))
    gain = f"{_gain(table)} of mIoU; " if np.isfinite(judged.effect) else ""
    title = f"{NAME} against cross-entropy: {gain}the claim is {judged.verdict}"
    return Section("answer", "The answer", title, blocks)


def _losses(scores: LabelScores, table: pd.DataFrame, images: pd.DataFrame, seeds: int) -> Section:
    """seeds: training runs of a cell."""
    both = table.merge(images.drop(columns=["batch_size", "cells", "reference"]), "left", "loss",
                       suffixes=("", "_image"))  # fmt: skip
    both = both.sort_values("value", ascending=False, kind="stable")
    best = {name: both[name].max() for name in ("value", "value_image")}
    rows = []
    for row in both.itertuples():
        value = level_field(row.value, percent, ends(row.low, row.high), row.value == best["value"])
        per_image = level_field(
            row.value_image, percent, ends(row.low_image, row.high_image),
            row.value_image == best["value_image"],
        )  # fmt: skip
        changes = [
            gain_field(row.difference, row.difference_low, row.difference_high),
            gain_field(row.difference_image, row.difference_low_image, row.difference_high_image),
        ]
        batch = Field(str(row.batch_size or "–"), float(row.batch_size))
        rows.append([loss_field(row.loss), batch, value, changes[0], per_image, changes[1]])
    caption = (
        "mIoU over all val images and the mean over images of each image’s own mIoU, in percent, "
        "and the gains over cross-entropy at the same number of images a step, in points, with "
        "95 % intervals. The highest of a column in bold."
    )
    columns = ("training loss", "images a step", "mIoU", "gain", "mIoU per image", "gain")
    trained = both[both["loss"] != UNTRAINED]
    title = "No cell is finished"
    if len(trained):
        top = trained.iloc[0]
        title = f"{style(top['loss']).label} has the highest mIoU, {percent(top['value'])}\u00a0%"
        if largest_move(table) < MOVED:
            title = f"No loss moves the mIoU by as much as {100 * MOVED:g} points"
    text = Paragraph(
        "The IoU of a label is taken over the pixels of all val images, which the folds between "
        "them score once, and averaged over the labels, background among them. Per image it is "
        "averaged over the labels that the image’s truth holds. In the intervals images (within "
        f"their fold) {prose.random_runs(seeds)}. Folds, labels and base networks are given."
    )
    shown = Table("losses", caption, columns, rows, both)
    parts = _parts([table, *(scores_table(scores, name) for name in ("missed", "false"))])
    return Section("losses-section", "The losses", title, [text, shown, parts])


def _parts(found: list[pd.DataFrame]) -> Table:
    """Where a gain comes from. found: `scores_table` of miou, missed and false."""
    names = ("mIoU", "missed share", "false share")
    columns = ["loss", "difference", "low", "high"]
    changes = [of_difference(one)[columns].dropna() for one in found]
    return tables.gains_table(
        "parts-table",
        "Differences to cross-entropy at the same number of images a step, in points with 95 % "
        "interval. Of the union of truth and prediction of a label, the mIoU is what is right, "
        "the missed share what is not found, the false share what is wrongly marked: a gain in "
        "mIoU is what the other two lose.",
        "mean over labels",
        list(zip(names, changes, strict=True)),
        pd.concat(changes, keys=names, names=["part"]).reset_index(level=0),
    )


def _batches(scores: LabelScores, table: pd.DataFrame) -> Section:
    gains = table[table["loss"] != UNTRAINED].dropna(subset="difference")
    own = _by_batch(gains)
    if own.empty:
        title = "No gain to set against the number of images a step"
        return Section("batches", "Gain against batch size", title, [nothing("comparisons")])
    steps = [
        f"{listed(scores.steps.get(n, []))} steps of {count(n, 'image')}" for n in own["batch_size"]
    ]
    blocks: list[Block] = [
        Paragraph(
            "Per batch, the loss is that of the batch as if it were the data set: a label counts "
            "as much as any other as soon as one pixel of the batch has it. The more images a "
            "batch holds, the nearer that is to the data set’s mIoU. Every number of images a step "
            "has its own cross-entropy, its own learning rates, and sees as many images in all: "
            f"{listed(steps)}."
        ),
        picture(
            "batch-size",
            "Gain in mIoU over cross-entropy with its 95 % interval, against the images a step.",
            "Gain in mIoU over cross-entropy at the same number of images a step, with its 95 % "
            "interval. The losses that were trained at one number alone stand beside it.",
            figures.by_batch(gains, LOVASZ_SOFTMAX),
        ),
    ]
    first, last = own.iloc[0], own.iloc[-1]
    title = (
        f"{NAME} gains {points(last['difference'])} points at {last['batch_size']} images a step"
    )
    if len(own) > 1:
        title += f", {points(first['difference'])} at {first['batch_size']}"
    return Section("batches", "Gain against batch size", title, blocks)


def _labels(table: pd.DataFrame) -> Section:
    pairs = table[table["loss"] == LOVASZ_SOFTMAX] if len(table) else table
    if pairs.empty:
        title = f"For no label can {NAME} be compared to cross-entropy"
        return Section("labels", "Per label", title, [nothing("comparisons")])
    pairs = pairs.sort_values("difference", ascending=False, kind="stable")
    gains = table.dropna(subset="difference")
    names = pairs["category"]
    blocks: list[Block] = [
        picture(
            "per-label",
            f"IoU by loss for {count(len(names), 'label')}, and the difference of {NAME} per batch "
            f"to cross-entropy, from {names.iloc[0]} to {names.iloc[-1]}.",
            f"IoU over all val images by label and training loss, and the difference of {NAME} per "
            "batch to cross-entropy on the same images with its 95 % interval; sorted by it.",
            figures.per_category(table, pairs, LOVASZ_SOFTMAX, "IoU", f"Gain of {NAME}, points"),
        ),
        tables.gains_table(
            "labels-table",
            "Difference in IoU over all val images to cross-entropy, in points with 95 % interval, "
            "beside cross-entropy’s own. The intervals are not corrected for being many.",
            "label",
            [(name, gains[gains["category"] == name]) for name in names],
            table,
            levels=True,
        ),
    ]
    up, down = int((pairs["low"] > 0).sum()), int((pairs["high"] < 0).sum())
    title = f"{NAME} is ahead of cross-entropy in {up} of {count(len(pairs), 'label')}, behind in "
    return Section("labels", "Per label", f"{title}{down}", blocks)
