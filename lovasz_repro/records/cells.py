"""The cells of a study, the columns of their tables, and how a finished one is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lovasz_repro.files import sha256, write_json, write_table
from lovasz_repro.schema import Json

COUNTS = ("tp", "fp", "fn")
MEASURES = ("cross_entropy", "hinge", "soft_jaccard", "lovasz_hinge")
"""The columns of the four losses that every cell is measured by. The soft Jaccard loss is per image
here, even if a cell trained with it per batch."""

IMAGE_COLUMNS = (
    "id",
    "has_category",  # 1 if the truth holds the category, else 0
    "tp",  # pixels at the image's own size, void left out, foreground where logit > 0
    "fp",
    "fn",
    "iou",  # tp / (tp + fp + fn), 1 if that is 0 / 0
    "tuned_tp",  # the same with the threshold chosen on held-out images (result.json: threshold)
    "tuned_fp",
    "tuned_fn",
    "tuned_iou",
    "oracle_iou",  # the highest IoU of any threshold chosen for this image alone
    "object_fraction",  # foreground pixels / valid pixels
    *MEASURES,
)
CURVE_COLUMNS = (
    "step",
    "train_loss",  # mean training objective since the row before; empty at step 0
    *MEASURES,
    "image_iou",
)
THRESHOLD_COLUMNS = (
    "threshold",  # on the logits
    "present",  # mean IoU of the val images with the category
    "absent",  # and of those without: the share of them that stays empty
)

CLASS_COLUMNS = (
    "id",
    "label",  # 0 is background
    "tp",  # pixels at the image's own size, void left out, by the label with the highest score
    "fp",
    "fn",
)
MULTI_CURVE_COLUMNS = (
    "step",
    "train_loss",  # as in CURVE_COLUMNS
    "miou",  # over all pixels of every fifth val image, on the network's grid
)

UNTRAINED = "untrained"
"""In place of a loss: the base network's own score of the category, before any training."""


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the grid: a category trained with a loss on one fold from one seed."""

    category: str
    loss: str
    fold: int
    seed: int

    @property
    def path(self) -> str:
        """The folder of its records, relative to the run's folder."""
        return f"cells/{self.category}/{self.loss}/fold{self.fold}-seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.category} · {self.loss} · fold {self.fold} · seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """The cells of a study, in the order in which they run."""

    categories: Sequence[str]
    losses: Sequence[str]
    folds: Sequence[int]
    seeds: Sequence[int]

    def cells(self) -> list[Cell]:
        """All cells, losses innermost, so that a study stopped early has complete comparisons."""
        return [
            Cell(category, loss, fold, seed)
            for fold in self.folds
            for seed in self.seeds
            for category in self.categories
            for loss in self.losses
        ]


TABLES: dict[str, dict[str, Sequence[str]]] = {
    "binary": {
        "images.csv": IMAGE_COLUMNS, "curve.csv": CURVE_COLUMNS, "thresholds.csv": THRESHOLD_COLUMNS
    },
    "multiclass": {"classes.csv": CLASS_COLUMNS, "curve.csv": MULTI_CURVE_COLUMNS},
}  # fmt: skip
"""The tables of a cell and their columns, by task."""


def write_cell(
    folder: Path, tables: Mapping[str, pd.DataFrame], result: Json, cost: Json,
    task: str = "binary",
) -> None:  # fmt: skip
    """Write a finished cell to `folder`: its `TABLES`, then `result.json` with their hashes."""
    for name, columns in TABLES[task].items():
        write_table(folder / name, tables[name][list(columns)])
    write_json(folder / "cost.json", cost)
    hashes = {name: sha256((folder / name).read_bytes()) for name in TABLES[task]}
    write_json(folder / "result.json", {**result, "files": hashes})
    (folder / "failed.json").unlink(missing_ok=True)
