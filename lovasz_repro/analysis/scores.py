"""The images of a study, laid out for comparison: which cells can be compared, and by what measure.

A `measure` is one of

* iou: mean over images;
* recall = tp / (tp + fn), missed = fn / union, false = fp / union: mean over images with the
  category;
* dataset_iou: Σ tp / Σ (tp + fp + fn);
* tuned_ and one of the above: at the threshold chosen on held-out images;
* oracle_iou: mean over images of the IoU at the best threshold of each image alone;
* background_iou, background_dataset_iou: the same of an empty mask, from the truth alone and so the
  same for every loss;
* part_ and an IoU: what images with the category contribute to the mean over all, Σ IoU of those
  images / all images. rest_ and an IoU: what images without it contribute;
* cross_entropy, hinge, soft_jaccard, lovasz_hinge: mean over images of that loss, lower is better.

A `subset` of the images is one of all, present, absent (with and without the category), and size1
to size4: quarters of the images with the category, by the part of the image that it covers, the
smallest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lovasz_repro.analysis.resample import Floats
from lovasz_repro.errors import UserError
from lovasz_repro.records import MEASURES, UNTRAINED, Cell, Records
from lovasz_repro.records.cells import COUNTS

SIZES = ("size1", "size2", "size3", "size4")

Columns = dict[str, Floats]
Folds = list[tuple[Floats, NDArray[np.int64]]]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what the networks were trained with, what they are measured by."""

    loss: str
    measure: str = "iou"


def image_terms(columns: Columns, measure: str) -> Floats:
    """Numerator and denominator of every image, (N, 2): the measure is the ratio of their sums."""
    if (prefix := measure[:5]) in ("part_", "rest_"):
        present = columns["has_category"] > 0
        terms = image_terms(columns, measure.removeprefix(prefix))
        counted = present if prefix == "part_" else ~present
        return np.stack([terms[:, 0] * counted, terms[:, 1]], axis=1)
    tuned = measure.startswith("tuned_")
    name = measure.removeprefix("tuned_")
    if name == "iou" or measure == "oracle_iou" or measure in MEASURES:
        value = columns[measure]
        return np.stack([value, np.ones_like(value)], axis=1)
    if measure == "background_iou":
        value = (columns["has_category"] == 0).astype(np.float64)
        return np.stack([value, np.ones_like(value)], axis=1)
    if measure == "background_dataset_iou":
        return np.stack([np.zeros_like(columns["tp"]), columns["tp"] + columns["fn"]], axis=1)
    tp, fp, fn = (columns[f"tuned_{count}" if tuned else count] for count in COUNTS)
    union = tp + fp + fn
    if name == "dataset_iou":
        return np.stack([tp, union], axis=1)
    parts = {"recall": (tp, tp + fn), "missed": (fn, union), "false": (fp, union)}
    if name not in parts:
        raise ValueError(f"measure {measure!r} is not known")
    part, whole = parts[name]
    counts = tp + fn > 0
    ratio = np.divide(part, whole, out=np.zeros_like(part), where=counts)
    return np.stack([ratio, counts.astype(np.float64)], axis=1)


class Scores:
    """The images of a study, prepared for comparison.

    losses, categories: the grid's, in its order; `losses` may hold `UNTRAINED`, the base network
    as it is; trained: those that train; present: the losses with a finished cell;
    tuned: whether rates were chosen by image-IoU;
    borders: per category the three borders between the quarters of object fraction.

    If the records hold several partitions of the images (`config.Cells.folds_per_partition`), each
    partition replaces a seed: its base networks and training runs are one draw. An image counts
    once in each partition that scores it.

    Raises: UserError if cells of one category and fold do not hold the same images.
    """

    def __init__(self, records: Records) -> None:
        grid = records.grid
        self.losses, self.categories = list(grid.losses), list(grid.categories)
        self.trained = [loss for loss in self.losses if loss != UNTRAINED]
        self.tuned = bool(records.tuning)
        self.expected_cells = len(grid.folds) * len(grid.seeds)
        self._folds_per_partition = records.folds_per_partition
        images = records.images.sort_values("id", kind="stable")
        keys = ["category", "loss", "fold", "seed"]
        every_id, numbers = images["id"].to_numpy(), images.drop(columns=[*keys, "id"])
        columns = numbers.to_numpy(np.float64).T
        self._ids: dict[tuple[str, int], NDArray[np.object_]] = {}
        cells: dict[Cell, Columns] = {}
        first: dict[tuple[str, int], Cell] = {}
        for key, rows in sorted(images.groupby(keys).indices.items()):
            cell = Cell(*key)
            fold = cell.category, cell.fold
            ids = every_id[rows]
            if not np.array_equal(ids, self._ids.setdefault(fold, ids)):
                raise UserError(
                    f"{cell.path}/images.csv and {first[fold].path}/images.csv hold different "
                    "images; they cannot be compared: delete both folders and run the study again"
                )
            first.setdefault(fold, cell)
            cells[cell] = dict(zip(numbers.columns, columns[:, rows], strict=True))
        self._hold(cells)
        once = images.drop_duplicates(["category", "fold", "id"])
        sizes = once[once["has_category"] > 0].groupby("category")["object_fraction"]
        self.borders: dict[str, Floats] = {
            name: np.quantile(own, [0.25, 0.5, 0.75]) for name, own in sizes
        }

    def _hold(self, cells: dict[Cell, Columns]) -> None:
        """Use these cells, and no table made of others."""
        self._cells = cells
        folds = sorted({cell.fold for cell in cells})
        size = self._folds_per_partition or 1 + max(folds, default=0)
        numbers = sorted({fold // size for fold in folds})
        # The number of each fold's partition, from 0 on.
        self._partition_of = {fold: numbers.index(fold // size) for fold in folds}
        self.present = [loss for loss in self.losses if any(c.loss == loss for c in cells)]
        self._runs: dict[tuple[str, str], dict[int, list[Cell]]] = {}
        for cell in sorted(cells):
            own_folds = self._runs.setdefault((cell.category, cell.loss), {})
            own_folds.setdefault(cell.fold, []).append(cell)
        self._folds: dict[tuple[str, tuple[Arm, ...], str], Folds] = {}
        self._sums: dict[tuple[str, Arm, str], NDArray[np.float64]] = {}

    def runs(self, category: str, loss: str) -> list[tuple[int, int]]:
        """The finished (fold, seed) of a category and loss."""
        folds = self._runs.get((category, loss), {})
        return [(cell.fold, cell.seed) for cells in folds.values() for cell in cells]

    def common(self, losses: Iterable[str]) -> list[str]:
        """The categories in which all of `losses` have the same cells, and at least one."""
        names = list(losses)
        return [
            category
            for category in self.categories
            if names
            and self.runs(category, names[0])
            and len({tuple(self.runs(category, loss)) for loss in names}) == 1
        ]

    def cells(self, categories: Iterable[str], loss: str) -> int:
        return sum(len(self.runs(category, loss)) for category in categories)

    @property
    def each(self) -> list[Scores]:
        """This study as a whole, then its folds if they are random."""
        return [self, *self.random_folds.values()]

    @cached_property
    def random_folds(self) -> dict[int, Scores]:
        """The scores of each fold alone; empty if there is only one partition, whose folds are too
        few to be drawn from a population."""
        found: dict[int, Scores] = {}
        if self.partitions > 1:
            for fold in self._partition_of:
                found[fold] = copy(self)
                found[fold]._hold({cell: x for cell, x in self._cells.items() if cell.fold == fold})
        return found

    @property
    def partitions(self) -> int:
        """How many times the images were divided into folds."""
        return len(set(self._partition_of.values()))

    def folds(self, category: str, arms: Sequence[Arm], subset: str = "all") -> Folds:
        """The images of the subset, fold by fold, under every arm.

        Returns:
            Per fold (N, A, S, 2), numerator and denominator of every image by arm and seed, and
            (N,), 1 where the truth holds the category. With several partitions one such pair over
            all images: (N, A, P, 2), zeros where a partition does not score the image. The arrays
            are kept for the next call: do not change them.
        """
        key = category, tuple(arms), subset
        if key not in self._folds:
            self._folds[key] = self._laid_out(*key)
        return self._folds[key]

    def _laid_out(self, category: str, arms: Sequence[Arm], subset: str) -> Folds:
        found, ids = [], []
        for fold in self._runs[category, arms[0].loss]:
            runs = [self._runs[category, arm.loss][fold] for arm in arms]
            truth = self._cells[runs[0][0]]  # the same for all losses and seeds
            mask = self._mask(category, truth, subset)
            sides = [
                np.stack([image_terms(self._cells[cell], arm.measure)[mask] for cell in cells], 1)
                for arm, cells in zip(arms, runs, strict=True)
            ]
            present = truth["has_category"][mask].astype(np.int64)
            found.append((fold, np.stack(sides, axis=1), present))
            ids.append(self._ids[category, fold][mask])
        partitions = self.partitions
        if partitions < 2:
            return [(terms, present) for _, terms, present in found]
        every = np.unique(np.concatenate(ids))
        all_terms = np.zeros((len(every), len(arms), partitions, 2))
        all_present = np.zeros(len(every), np.int64)
        for own, (fold, terms, present) in zip(ids, found, strict=True):
            rows = np.searchsorted(every, own)
            all_terms[rows, :, self._partition_of[fold]] = terms.mean(axis=2)
            all_present[rows] = present
        return [(all_terms, all_present)]

    def values(self, categories: Iterable[str], arm: Arm, subset: str = "all") -> pd.Series:
        """The measure by category: seeds and partitions averaged, folds pooled. NaN for 0 / 0."""
        names = list(categories)
        totals = np.reshape([self._totals(name, arm, subset) for name in names], (-1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            return pd.Series(totals[:, 0] / totals[:, 1], index=names, dtype=float)

    def _totals(self, category: str, arm: Arm, subset: str) -> NDArray[np.float64]:
        """Numerator and denominator over the images of a category: (2,)."""
        if (key := (category, arm, subset)) not in self._sums:
            folds = self.folds(category, [arm], subset)
            each = [terms[:, 0].mean(axis=1).sum(axis=0) for terms, _ in folds]
            self._sums[key] = np.sum(each, axis=0, dtype=np.float64)
        return self._sums[key]

    def _mask(self, category: str, truth: Columns, subset: str) -> NDArray[np.bool_]:
        present = truth["has_category"] > 0
        if subset == "all":
            return np.ones_like(present)
        if subset in ("present", "absent"):
            return present if subset == "present" else ~present
        if subset not in SIZES:
            raise ValueError(f"subset {subset!r} is not known")
        if category not in self.borders:
            return np.zeros_like(present)
        size = np.searchsorted(self.borders[category], truth["object_fraction"])
        return np.asarray(present & (size == SIZES.index(subset)))
