"""The report of a multi-class study: its sections, from the records and their tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

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
from lovasz_repro.words import count

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
            _labels(label_table(scores)),
            curves.multiclass(scores, records.curves),
            practice.section(records),
        ],
    )


def answer(records: Records) -> str:
    """The levels of Lovász-Softmax and cross-entropy, the gain, and the verdict."""
    return _answered(scores_table(LabelScores(records), "miou"))


def _answered(table: pd.DataFrame) -> str:
    judged = claim(table)
    said = f"The claim that {judged.title}: {judged.verdict}"
    if not np.isfinite(judged.effect):
        return f"These records cannot compare the two losses. {said}. {judged.explanation}"
    if judged.verdict == "not tested":
        said += f", since every loss changes the mIoU by less than {100 * MOVED:g} points"
    level = table.set_index("loss")["value"].map(percent)
    before = f", before fine-tuning {level[UNTRAINED]}\u00a0%" if UNTRAINED in level else ""
    return (
        f"{NAME} per batch gives an mIoU of {level[LOVASZ_SOFTMAX]}\u00a0%, cross-entropy "
        f"{level[REFERENCE]}\u00a0%{before}: a gain of {_gain(table)} for exactly these labels "
        f"and folds. {said}."
    )


def _gain(table: pd.DataFrame) -> str:
    """What the Lovász-Softmax gains over cross-entropy. table: `scores_table`."""
    return prose.with_interval(of_difference(table).set_index("loss").loc[LOVASZ_SOFTMAX])


def verdict(table: pd.DataFrame, images: pd.DataFrame) -> list[str]:
    """The lines that the report opens with.

    Args:
        table, images: `scores_table` of miou and image_miou.
    """
    if not np.isfinite(claim(table).effect):
        return [_answered(table)]
    found = [
        f"{prose.with_interval(row)} with {row['batch_size']}"
        for _, row in of_difference(_by_batch(table)).iterrows()
    ]
    return [
        _answered(table),
        f"In mIoU per image the gain is {_gain(images)}. By the number of images a step, at the "
        f"same number of images in all, the gain in mIoU is {listed(found)}.",
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
    steps = [
        f"{listed(scores.steps.get(n, []))} steps of {count(n, 'image')}"
        for n in _by_batch(trained)["batch_size"]
    ]
    text = Paragraph(
        "The IoU of a label is taken over the pixels of all val images, which the folds between "
        "them score once, and averaged over the labels, background among them. Per image it is "
        "averaged over the labels that the image’s truth holds. In the intervals images (within "
        f"their fold) {prose.random_runs(seeds)}. Folds, labels and base networks are given."
    )
    batches = Paragraph(
        "Per batch, the loss is that of the batch as if it were the data set: a label counts as "
        "much as any other as soon as one pixel of the batch has it. The more images a batch "
        "holds, the nearer that is to the data set’s mIoU. Every number of images a step has its "
        "own cross-entropy and learning rates, and sees as many images in all"
        f"{': ' if steps else ''}{listed(steps)}."
    )
    shown = Table("losses", caption, columns, rows, both)
    parts = _parts([table, *(scores_table(scores, name) for name in ("missed", "false"))])
    return Section("losses-section", "The losses", title, [text, batches, shown, parts])


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
            "beside cross-entropy’s own. The intervals are not corrected for the number of labels.",
            "label",
            [(name, gains[gains["category"] == name]) for name in names],
            table,
            levels=True,
        ),
    ]
    up, down = int((pairs["low"] > 0).sum()), int((pairs["high"] < 0).sum())
    title = f"{NAME} is ahead of cross-entropy in {up} of {count(len(pairs), 'label')}, behind in "
    return Section("labels", "Per label", f"{title}{down}", blocks)
