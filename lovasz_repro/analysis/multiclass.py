"""The tables of a multi-class study, from the rows of classes.csv.

A `measure` is `miou`, the benchmark's: the mean over labels of Σ tp / Σ (tp + fp + fn) over all val
images; `image_miou`, the mean over images of the mean IoU of the labels in the image's truth;
`missed` or `false`, as miou with fn or fp as the numerator, so that the three add up to 1; or a
label's number, for its own Σ tp / Σ (tp + fp + fn). Background is label 0 and counts.

Counts are averaged over seeds and summed over folds, which together score every val image once. For
intervals, images and training runs are random: images are resampled whole (under both losses and
all seeds) within their fold, and the variance between seeds, pooled over the rows compared at one
batch size, is added. Folds, labels and base networks are fixed. A loss is compared with
cross-entropy at its own batch size, if both have the same finished cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lovasz_repro.analysis.claims import Claim, judged
from lovasz_repro.analysis.resample import Floats, Replicates, image_intervals
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.data.voc import CATEGORIES
from lovasz_repro.errors import UserError
from lovasz_repro.records import UNTRAINED, Cell, Records
from lovasz_repro.records.cells import COUNTS
from lovasz_repro.schema import batch_of

LOVASZ_SOFTMAX = "lovasz_softmax"
Measure = str | int


class LabelScores:
    """The counts of a multi-class study, laid out for comparison.

    losses: the grid's. names: of the labels, background first. batch_size: of the losses that name
    none. steps: numbers of steps of the finished cells, by batch size.
    Raises: UserError if cells of a fold do not hold the same images, or a label has no name.
    """

    def __init__(self, records: Records) -> None:
        config = records.study["config"]
        self.losses = list(records.grid.losses)
        self.names = ["background", *config.get("data", {}).get("classes", CATEGORIES)]
        if len(records.classes) and records.classes["label"].max() >= len(self.names):
            raise UserError(f"study.json: config.data.classes: {len(self.names) - 1} are too few")
        self.batch_size: int = config.get("optim", {}).get("batch_size", 10)
        self.steps: dict[int, list[int]] = {}
        for cell, result in records.results.items():
            if cell.loss != UNTRAINED:
                found = self.steps.setdefault(result["batch_size"], [])
                if result["steps"] not in found:
                    found.append(result["steps"])
        self.images: dict[int, list[str]] = {}
        self._cells: dict[str, dict[tuple[int, int], Floats]] = {x: {} for x in self.losses}
        for (loss, fold, seed), rows in records.classes.groupby(["loss", "fold", "seed"]):
            there = rows[rows["tp"] + rows["fn"] > 0]
            ids = self.images.setdefault(fold, sorted(set(there["id"])))
            if sorted(set(there["id"])) != ids or not set(rows["id"]) <= set(ids):
                path = Cell("all", loss, fold, seed).path
                raise UserError(
                    f"{path}/classes.csv holds other images than another cell of its fold; "
                    "delete both folders and run the study again"
                )
            dense = np.zeros((len(ids), len(self.names), 3))  # (N, K, 3)
            dense[np.searchsorted(ids, rows["id"]), rows["label"]] = rows[list(COUNTS)]
            self._cells[loss][fold, seed] = dense

    def batch(self, loss: str) -> int:
        return batch_of(loss) or self.batch_size

    def at(self, batch: int) -> list[str]:
        """The losses that trained at this batch size."""
        own = [loss for loss in self.losses if loss != UNTRAINED and self.cells(loss)]
        return [loss for loss in own if self.batch(loss) == batch]

    def cells(self, loss: str) -> int:
        return len(self._cells.get(loss, {}))

    def comparable(self, loss: str, reference: str) -> bool:
        """Whether two losses have the same finished cells."""
        own, other = (set(self._cells.get(x, {})) for x in (loss, reference))
        return loss != reference and bool(own) and own == other

    def terms(self, loss: str, measure: Measure) -> list[Floats]:
        """Numerator and denominator of every image by seed, (N, S, K, 2) per fold; (N, S, 2) for
        image_miou and for one label."""
        runs = self._cells[loss]
        folds = []
        for fold in sorted({fold for fold, _ in runs}):
            counts = np.stack([runs[run] for run in sorted(runs) if run[0] == fold], axis=1)
            hit, union = counts[..., 0], counts.sum(axis=-1)  # (N, S, K)
            if measure == "image_miou":
                there = hit + counts[..., 2] > 0
                iou = np.divide(hit, union, out=np.zeros_like(hit), where=there)
                own = iou.sum(axis=-1) / there.sum(axis=-1)  # (N, S)
                folds.append(np.stack([own, np.ones_like(own)], axis=-1))
            else:
                part = {"false": 1, "missed": 2}.get(str(measure), 0)
                terms = np.stack([counts[..., part], union], axis=-1)
                folds.append(terms[:, :, measure] if isinstance(measure, int) else terms)
        return folds

    @property
    def held(self) -> list[int]:
        """The labels in the truth of the val images."""
        runs = [counts for own in self._cells.values() for counts in own.values()]
        there = np.any([np.any(c[..., 0] + c[..., 2] > 0, axis=0) for c in runs], axis=0)
        return [int(k) for k in np.flatnonzero(there)]

    def bootstrap(self, losses: Sequence[str], measure: Measure) -> Replicates:
        """Replicates of a level (one loss) or of a difference (two losses)."""
        sides = zip(*(self.terms(loss, measure) for loss in losses), strict=True)
        folds = [np.stack(fold, axis=1) for fold in sides]  # (N, A, S, ..., 2)
        return Replicates([(terms, np.zeros(len(terms), np.int64)) for terms in folds])


def reference_of(loss: str) -> str:
    """Cross-entropy at the batch size of a loss."""
    batch = batch_of(loss)
    return f"{REFERENCE}.batch{batch}" if batch else REFERENCE


def scores_table(scores: LabelScores, measure: Measure) -> pd.DataFrame:
    """Per loss with a finished cell: loss, batch_size, value, low, high, cells, reference,
    difference, difference_low, difference_high (NaN for cross-entropy, and if it does not have the
    same cells)."""
    batches = sorted({scores.batch(x) for x in scores.losses}, key=lambda n: n != scores.batch_size)
    groups = [scores.at(batch) for batch in batches]
    if scores.cells(UNTRAINED):
        groups.append([UNTRAINED])
    rows: list[dict[str, object]] = []
    for losses in groups:
        levels = [scores.bootstrap([loss], measure) for loss in losses]
        own = {}
        for loss, level, (low, high) in zip(losses, levels, image_intervals(levels), strict=True):
            batch = 0 if loss == UNTRAINED else scores.batch(loss)
            own[loss] = {"loss": loss, "batch_size": batch, "value": level.value}
            own[loss] |= {"low": low, "high": high, "cells": scores.cells(loss)}
            own[loss] |= {"reference": reference_of(loss)}
        pairs = [loss for loss in losses if scores.comparable(loss, reference_of(loss))]
        gains = [scores.bootstrap([loss, reference_of(loss)], measure) for loss in pairs]
        for loss, gain, (low, high) in zip(pairs, gains, image_intervals(gains), strict=True):
            own[loss] |= {"difference": gain.value}
            own[loss] |= {"difference_low": low, "difference_high": high}
        rows += own.values()
    head = ["loss", "batch_size", "value", "low", "high", "cells", "reference"]
    return pd.DataFrame(
        rows, columns=[*head, "difference", "difference_low", "difference_high"]
    ).astype({"difference": float})


def label_table(scores: LabelScores) -> pd.DataFrame:
    """A row per label in the val images and loss at the configuration's batch size: category, loss,
    value; against cross-entropy reference_value, difference, low, high (NaN for itself)."""
    losses = scores.at(scores.batch_size)
    if REFERENCE not in losses:
        return pd.DataFrame()
    own = {k: scores.bootstrap([REFERENCE], k).value for k in scores.held}
    rows = [{"category": scores.names[k], "loss": REFERENCE, "value": own[k]} for k in own]
    for loss in losses:
        if scores.comparable(loss, REFERENCE):
            pairs = [scores.bootstrap([loss, REFERENCE], k) for k in own]
            for k, pair, (low, high) in zip(own, pairs, image_intervals(pairs), strict=True):
                row = {"category": scores.names[k], "loss": loss, "value": own[k] + pair.value}
                row |= {"reference_value": own[k], "difference": pair.value}
                rows.append({**row, "low": low, "high": high})
    return pd.DataFrame(rows)


MOVED = 0.001
"""A loss whose mIoU differs by less from the network before fine-tuning has not moved it."""


def largest_move(table: pd.DataFrame) -> float:
    """The largest difference in mIoU, either way, of a loss to the network before fine-tuning; NaN
    if that was not scored. table: `scores_table`."""
    values = table.set_index("loss")["value"]
    if UNTRAINED not in values:
        return np.nan
    return float((values.drop(UNTRAINED) - values[UNTRAINED]).abs().max())


def claim(table: pd.DataFrame) -> Claim:
    """The paper's claim on Lovász-Softmax, by the rules of `claims`, from the mIoU table.

    If the claim would be undecided and no loss has moved the network, it is not tested.
    """
    title = "Lovász-Softmax per batch raises the mIoU over cross-entropy fine-tuning"
    rows = table[table["loss"] == LOVASZ_SOFTMAX].dropna(subset="difference")
    if rows.empty:
        return Claim(
            key="lovasz_softmax", title=title, verdict="undecided", unit="mIoU",
            explanation="Needs the same finished cells of both losses.",
        )  # fmt: skip
    row = rows.iloc[0]
    low, high = row["difference_low"], row["difference_high"]
    text = f"Against cross-entropy, {row['batch_size']} images a step, {row['cells']} cells each."
    verdict = judged(low, high)
    if verdict == "undecided" and largest_move(table) < MOVED:
        verdict = "not tested"
        text += (
            " No loss, cross-entropy among them, moves the mIoU from that before fine-tuning by "
            f"as much as {100 * MOVED:g} points."
        )
    return Claim(
        key="lovasz_softmax", title=title, verdict=verdict, effect=row["difference"], low=low,
        high=high, unit="mIoU", explanation=text,
    )  # fmt: skip
