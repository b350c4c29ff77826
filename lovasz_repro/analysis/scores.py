"""The images of a study, laid out for comparison: which cells can be compared, and by what measure.

A `measure` is one of

* iou: mean over images;
* recall = tp / (tp + fn), missed = fn / union, false = fp / union: mean over images with the
  category;
* dataset_iou: Σ tp / Σ (tp + fp + fn);
* tuned_ and one of the above: at the threshold chosen on held-out images;
* oracle_iou: mean over images of the IoU at the best threshold of each image alone;
* background_iou, background_dataset_iou: the same of a mask without any foreground, from the truth
  alone, whichever loss's cells it is asked of;
* part_ and an IoU: what images with the category contribute to the mean over all, Σ IoU of those
  images / all images. rest_ and an IoU: what images without it contribute;
* cross_entropy, hinge, soft_jaccard, lovasz_hinge: mean over images of that loss, lower is better.

A `subset` of the images is one of all, present, absent (with and without the category), and size1
to size4: quarters of the images with the category, from the smallest part of the image covered to
the largest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lovasz_repro.analysis.resample import Floats
from lovasz_repro.errors import UserError
from lovasz_repro.records import MEASURES, UNTRAINED, Cell, Records

SIZES = ("size1", "size2", "size3", "size4")
COUNTS = ("tp", "fp", "fn")

Columns = dict[str, Floats]


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
    Raises: UserError where cells of one category and fold do not hold the same images.

    Where the records hold several partitions of the images (`config.Cells.folds_per_partition`),
    an image counts once in each partition that scores it, and a partition stands where otherwise
    a seed does: its base networks and its training runs are one draw.

    Args:
        folds: only the cells of these.
    """

    def __init__(self, records: Records, folds: Sequence[int] | None = None) -> None:
        grid = records.grid
        self._records = records
        self.losses, self.categories = list(grid.losses), list(grid.categories)
        self.trained = [loss for loss in self.losses if loss != UNTRAINED]
        self.tuned = bool(records.tuning)
        self.expected_cells = len(grid.folds) * len(grid.seeds)
        self._cells: dict[Cell, Columns] = {}
        ids: dict[tuple[str, int], tuple[Cell, Any]] = {}
        keys = ["category", "loss", "fold", "seed"]
        images = records.images.sort_values("id", kind="stable")
        if folds is not None:
            images = images[images["fold"].isin(folds)]
        self._folds = sorted(set(images["fold"].tolist()))
        self._ids: dict[tuple[str, int], NDArray[np.object_]] = {}
        for key, rows in images.groupby(keys):
            cell = Cell(*key)
            own = rows["id"].to_numpy()
            first, expected = ids.setdefault((cell.category, cell.fold), (cell, own))
            if not np.array_equal(own, expected):
                raise UserError(
                    f"{cell.path}/images.csv and {first.path}/images.csv hold different images; "
                    "they cannot be compared: delete both folders and run the study again"
                )
            self._ids[cell.category, cell.fold] = own
            numbers = rows.drop(columns=[*keys, "id"])
            columns = numbers.to_numpy(np.float64).T
            self._cells[cell] = dict(zip(numbers.columns, columns, strict=True))
        self.present = [loss for loss in self.losses if any(c.loss == loss for c in self._cells)]
        self._runs: dict[tuple[str, str], dict[int, list[Cell]]] = {}
        for cell in sorted(self._cells):
            own_folds = self._runs.setdefault((cell.category, cell.loss), {})
            own_folds.setdefault(cell.fold, []).append(cell)
        self.borders = self._size_borders([cell for cell, _ in ids.values()])

    def _size_borders(self, one_per_fold: Iterable[Cell]) -> dict[str, Floats]:
        fractions: dict[str, list[Floats]] = {}
        for cell in one_per_fold:
            columns = self._cells[cell]
            found = columns["object_fraction"][columns["has_category"] > 0]
            fractions.setdefault(cell.category, []).append(found)
        stacked = {name: np.concatenate(parts) for name, parts in fractions.items()}
        return {n: np.quantile(f, [0.25, 0.5, 0.75]) for n, f in stacked.items() if len(f)}

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

    @cached_property
    def partitions(self) -> list[Scores]:
        """The same of each partition alone; empty where there is one."""
        folds = self._by_partition
        return [Scores(self._records, own) for own in folds] if len(folds) > 1 else []

    @cached_property
    def _by_partition(self) -> list[list[int]]:
        """The folds of each partition."""
        config = self._records.study.get("config", {})
        size = config.get("cells", {}).get("folds_per_partition", 0) or 1 + max(
            self._folds, default=0
        )
        numbers = sorted({fold // size for fold in self._folds})
        return [[fold for fold in self._folds if fold // size == n] for n in numbers]

    def terms(self, category: str, arm: Arm, subset: str = "all") -> list[Floats]:
        """Numerator and denominator of every image of the subset.

        Returns:
            Per fold (N, S, 2), by seed. With several partitions one (N, P, 2), by partition, over
            all images, zeros where a partition does not score the image.
        """
        folds = []
        for cells in self._runs[category, arm.loss].values():
            mask = self._mask(cells[0], subset)  # of the truth: the same for all seeds
            seeds = [image_terms(self._cells[cell], arm.measure)[mask] for cell in cells]
            folds.append(np.stack(seeds, axis=1))
        if len(self._by_partition) < 2:
            return folds
        rows, place = self._rows(category, arm.loss, subset)
        terms = np.zeros((len(rows), len(self._by_partition), 2))
        for fold, values in zip(self._runs[category, arm.loss], folds, strict=True):
            number = next(n for n, own in enumerate(self._by_partition) if fold in own)
            terms[place[fold], number] = values.mean(axis=1)
        return [terms]

    def presence(self, category: str, loss: str, subset: str = "all") -> list[NDArray[np.int64]]:
        """(N,) for each array of `terms`: 1 where the truth holds the category."""
        firsts = {fold: cells[0] for fold, cells in self._runs[category, loss].items()}
        found = {
            fold: self._cells[c]["has_category"][self._mask(c, subset)].astype(np.int64)
            for fold, c in firsts.items()
        }
        if len(self._by_partition) < 2:
            return list(found.values())
        rows, place = self._rows(category, loss, subset)
        present = np.zeros(len(rows), np.int64)
        for fold, own in found.items():
            present[place[fold]] = own
        return [present]

    def _rows(
        self, category: str, loss: str, subset: str
    ) -> tuple[NDArray[np.object_], dict[int, NDArray[np.int64]]]:
        """The images of the subset over all folds, each once, and where those of a fold are."""
        ids = {
            fold: self._ids[category, fold][self._mask(cells[0], subset)]
            for fold, cells in self._runs[category, loss].items()
        }
        every = np.unique(np.concatenate(list(ids.values())))
        return every, {fold: np.searchsorted(every, own) for fold, own in ids.items()}

    def values(self, categories: Iterable[str], arm: Arm, subset: str = "all") -> Floats:
        """The measure in each category: seeds and partitions averaged, folds pooled. NaN for
        0 / 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            sums = [
                sum(fold.mean(axis=1).sum(axis=0) for fold in self.terms(category, arm, subset))
                for category in categories
            ]
            totals = np.reshape(np.array(sums, dtype=np.float64), (-1, 2))
            return np.asarray(totals[:, 0] / totals[:, 1])

    def _mask(self, cell: Cell, subset: str) -> NDArray[np.bool_]:
        columns = self._cells[cell]
        present = columns["has_category"] > 0
        if subset == "all":
            return np.ones_like(present)
        if subset in ("present", "absent"):
            return present if subset == "present" else ~present
        if subset not in SIZES:
            raise ValueError(f"subset {subset!r} is not known")
        if cell.category not in self.borders:
            return np.zeros_like(present)
        size = np.searchsorted(self.borders[cell.category], columns["object_fraction"])
        return np.asarray(present & (size == SIZES.index(subset)))
