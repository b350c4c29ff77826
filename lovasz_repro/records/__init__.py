"""What a study leaves behind, how it is written so that nothing is half there, and how it is read.

    runs/<experiment>/
        study.json              experiment, configuration, grid, data lists, hash
        machine.json            commit, versions, hardware, dates: true, but not reproducible
        tuning.json             per fold and loss: the trials, the learning rate and steps chosen
        base/fold<k>/           network.pt, result.json (mIoU), cost.json
        cells/<category>/<loss>/fold<k>-seed<s>/
            images.csv          one row per val image (`IMAGE_COLUMNS`)
            curve.csv           one row per validation during training (`CURVE_COLUMNS`)
            thresholds.csv      image-IoU over the decision threshold (`THRESHOLD_COLUMNS`)
            predictions.npz     small foreground masks of the val images, packed bits
            cost.json           seconds: differs from run to run
            result.json         written last; a cell is done when, and only when, it is there
            failed.json         in its place when the cell could not be finished: the error
        gallery/                gallery.json and the small pictures that the report shows

A multi-class study has the category `all`, no gallery, and in place of a cell's images.csv,
thresholds.csv and predictions.npz

            classes.csv         one row per val image and label in its truth or prediction
                                (`CLASS_COLUMNS`)

`result.json` holds the SHA-256 of the tables beside it, and every JSON file that of its values
(`files.CHECKSUM`): what is truncated or changed later is found out. What a stranger may have made
up is held against `schema` and `agreement`.
Everything but `machine.json` and `cost.json` has the same bytes when the same study is run again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lovasz_repro import schema
from lovasz_repro.errors import UserError
from lovasz_repro.files import parse_json, sha256, write_json, write_table
from lovasz_repro.records import agreement
from lovasz_repro.records.stored import Stored
from lovasz_repro.records.tables import AGAIN, Ends, read_tables

MEASURES = ("cross_entropy", "hinge", "soft_jaccard", "lovasz_hinge")
"""The four losses that every run is measured by, under these column names. As a measure the soft
Jaccard loss is taken per image, whichever way a run trained with it."""

IMAGE_COLUMNS = (
    "id",
    "has_category",  # 1 where the truth holds the category, else 0
    "tp",  # pixels at the image's own size, void left out, foreground where logit > 0
    "fp",
    "fn",
    "iou",  # tp / (tp + fp + fn), 1 where that is 0 / 0
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

Json = dict[str, Any]


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the grid: a category trained with a loss on one fold from one seed."""

    category: str
    loss: str
    fold: int
    seed: int

    @property
    def path(self) -> str:
        """Where its records lie, relative to the run's folder."""
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
        """Losses innermost: a study that is stopped early leaves whole comparisons."""
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
"""By task the tables of a cell and their columns."""


def write_cell(
    folder: Path, tables: Mapping[str, pd.DataFrame], result: Json, cost: Json,
    task: str = "binary",
) -> None:  # fmt: skip
    """Leave a finished cell in `folder`: its `TABLES`, then `result.json` with their hashes."""
    for name, columns in TABLES[task].items():
        write_table(folder / name, tables[name][list(columns)])
    write_json(folder / "cost.json", cost)
    hashes = {name: sha256((folder / name).read_bytes()) for name in TABLES[task]}
    write_json(folder / "result.json", {**result, "files": hashes})
    (folder / "failed.json").unlink(missing_ok=True)


@dataclass(frozen=True)
class Records:
    """A study as the report sees it.

    images: `IMAGE_COLUMNS` behind the columns category, loss, fold, seed; all finished cells.
    curves: `CURVE_COLUMNS` behind the same four. thresholds: `THRESHOLD_COLUMNS`, likewise.
    classes: `CLASS_COLUMNS`, likewise: of a multi-class study, which has no images and thresholds,
    and whose curves are `MULTI_CURVE_COLUMNS`.
    tuning: by "fold<k>" and loss {lr, steps, image_iou, at_edge, trials: [{lr, steps, category,
    seed, image_iou}]}; image_iou (multi-class: miou) is on held-out images, null where a trial
    diverged.
    results, costs: by cell; missing: cells of the grid with neither result nor error;
    failed: error text by cell; stale: finished under another hash, or at another rate or number of
    steps than tuning.json has since chosen; left out of the rest.
    """

    study: Json
    machine: Json
    tuning: Json
    bases: dict[int, Json]
    gallery: list[Json]
    images: pd.DataFrame
    curves: pd.DataFrame
    thresholds: pd.DataFrame
    classes: pd.DataFrame
    results: dict[Cell, Json]
    costs: dict[Cell, Json]
    missing: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    stale: list[Cell] = field(default_factory=list)

    @property
    def grid(self) -> Grid:
        return Grid(**self.study["grid"])

    @property
    def multiclass(self) -> bool:
        return task_of(self.study) == "multiclass"


def task_of(study: Json) -> str:
    """What `study.json` says that was learned; the binary study was first, and does not say."""
    return str(study.get("config", {}).get("task", "binary"))


def load(runs: Path, gallery: bool = True) -> Records:
    """Read a run's folder, or the `records.zip` that a report keeps of one.

    Args:
        gallery: False leaves it out, unread: it may be of an earlier state of the records.

    Raises: UserError naming the file, and the key, for whatever is missing, malformed, or does not
        agree with another record.
    """
    stored = Stored(runs)
    if "study.json" not in stored:
        raise UserError(f"{runs}: no study.json there; `lovasz-repro study` or `fit` makes it")
    study = _json(stored, "study.json", schema.Study)
    grid = Grid(**study["grid"])
    task = task_of(study)
    tuning = _optional(stored, "tuning.json", schema.Tuning)
    bases = {k: _base(stored, k, study) for k in grid.folds}
    _check_tuning(stored, tuning, study)
    results: dict[Cell, Json] = {}
    costs: dict[Cell, Json] = {}
    missing: list[Cell] = []
    failed: dict[Cell, str] = {}
    stale: list[Cell] = []
    for cell in grid.cells():
        if f"{cell.path}/result.json" not in stored:
            failure = _optional(stored, f"{cell.path}/failed.json", schema.Failed)
            if failure:
                failed[cell] = failure["error"]
            else:
                missing.append(cell)
        elif (result := _result(stored, cell, study, tuning, bases)) is None:
            stale.append(cell)
        else:
            results[cell] = result
            costs[cell] = _optional(stored, f"{cell.path}/cost.json", schema.Cost)
    tables, ends = {}, {}
    for name, columns in {**TABLES["binary"], **TABLES["multiclass"], **TABLES[task]}.items():
        there = results if name in TABLES[task] else {}
        tables[name], ends[name] = _table(stored, there, name, columns)
    images, classes = tables["images.csv"], tables["classes.csv"]
    if task == "binary":
        _check_images(stored, results, images, ends["images.csv"])
        _check_thresholds(stored, results, tables, ends)
    else:
        _check_classes(stored, results, classes, ends["classes.csv"])
    entries: list[Json] = []
    if gallery:
        entries = _optional(stored, "gallery/gallery.json", schema.Gallery).get("images", [])
    if wrong := agreement.gallery_problem(entries, images):
        if not (missing or stale or failed):
            raise UserError(f"{stored.path('gallery/gallery.json')}: {wrong}; run the study again")
        entries = []  # of an earlier state: the study makes them again when it ends
    return Records(
        study=study,
        machine=_optional(stored, "machine.json", schema.Machine),
        tuning=tuning,
        bases=bases,
        gallery=entries,
        images=images,
        curves=tables["curve.csv"],
        thresholds=tables["thresholds.csv"],
        classes=classes,
        results=results,
        costs=costs,
        missing=missing,
        failed=failed,
        stale=stale,
    )


def _table(
    stored: Stored, results: Mapping[Cell, Json], name: str, columns: Sequence[str]
) -> tuple[pd.DataFrame, Ends]:
    """The table of that name of all cells, behind their category, loss, fold and seed; and how many
    rows there are up to the end of each cell."""
    hashes = {f"{cell.path}/{name}": result["files"][name] for cell, result in results.items()}
    table, ends = read_tables(stored, hashes, columns)
    rows = np.diff(ends, prepend=0)
    for place, key in enumerate(("category", "loss", "fold", "seed")):
        values = np.array([getattr(cell, key) for cell in results])
        table.insert(place, key, np.repeat(values, rows))
    return table, ends


def _json(stored: Stored, name: str, kind: Any) -> Json:
    return parse_json(stored.read(name), stored.path(name), kind)


def _optional(stored: Stored, name: str, kind: Any) -> Json:
    return _json(stored, name, kind) if name in stored else {}


def _base(stored: Stored, fold: int, study: Json) -> Json:
    name = f"base/fold{fold}/result.json"
    base = _optional(stored, name, schema.Base)
    if base and (wrong := agreement.base_problem(base, fold, study["hash"])):
        raise UserError(f"{stored.path(name)}: {wrong}; delete it and run the study again")
    return base


def _result(
    stored: Stored, cell: Cell, study: Json, tuning: Json, bases: Mapping[int, Json]
) -> Json | None:
    """The cell's result.json; None where it is stale."""
    name = f"{cell.path}/result.json"
    result = _json(stored, name, None)
    if result.get("hash") != study["hash"]:
        return None
    kind = schema.Result if task_of(study) == "binary" else schema.MultiResult
    wrong = schema.problem(result, kind)
    for key, value in asdict(cell).items():
        if not wrong and result[key] != value:
            wrong = f"{key}: {result[key]}, but it lies in the folder of {value}"
    base = bases[cell.fold].get("sha256", result.get("base"))
    if not wrong and result["base"] != base:
        wrong = f"base: {result['base']}, but the base network of fold {cell.fold} is {base}"
    if wrong:
        raise UserError(f"{stored.path(name)}: {wrong}; delete it and run the study again")
    # Without rates to choose from, a choice that is still there is not what cells are made with.
    used = study["config"].get("tuning", {}).get("lrs") != []
    chosen = tuning.get(f"fold{cell.fold}", {}).get(cell.loss, {}) if used else {}
    if chosen.get("lr") is None:
        return result
    made_with, now = ((one["lr"], one["steps"]) for one in (result, chosen))
    return result if made_with == now else None


def _check_tuning(stored: Stored, tuning: Json, study: Json) -> None:
    # A choice made for other categories has other means.
    categories = study.get("config", {}).get("tuning", {}).get("categories")
    measure = "image_iou" if task_of(study) == "binary" else "miou"
    for fold, entries in tuning.items():
        if not re.fullmatch(r"fold\d{1,6}", fold, re.ASCII):
            raise UserError(f"{stored.path('tuning.json')}: {fold!r} is not a fold")
        for loss, entry in entries.items():
            if wrong := agreement.tuning_problem(entry, categories, measure):
                raise UserError(
                    f"{stored.path('tuning.json')}: {fold}.{loss}.{wrong}; delete it and run the "
                    "study again"
                )


def _check_images(
    stored: Stored, results: Mapping[Cell, Json], images: pd.DataFrame, ends: Ends
) -> None:
    """Raises: UserError where results and tables do not agree."""
    columns = {name: images[name].to_numpy() for name in IMAGE_COLUMNS if name != "id"}
    cells = list(results)
    if wrong := agreement.table_problem(columns):
        row, said = wrong
        cell = cells[int(np.searchsorted(ends, row, side="right"))]
        raise UserError(f"{stored.path(cell.path)}/images.csv: {said}; {AGAIN}")
    starts = ends - np.diff(ends, prepend=0)
    for cell, start, end in zip(cells, starts, ends, strict=True):
        own = {name: values[start:end] for name, values in columns.items()}
        if found := agreement.result_problem(results[cell], own):
            raise UserError(
                f"{stored.path(cell.path)}/result.json: {found}; delete it and run the study again"
            )
    ids = images["id"].tolist()
    scored: dict[tuple[str, int], list[str]] = {}
    for cell, start, end in zip(cells, starts, ends, strict=True):
        mine = sorted(ids[start:end])
        if twice := [a for a, b in itertools.pairwise(mine) if a == b]:
            found = f"id: {twice[0]} is there twice"
        elif mine != scored.setdefault((cell.category, cell.fold), mine):
            found = "id: not the images of another cell of this category and fold"
        if found:
            raise UserError(f"{stored.path(cell.path)}/images.csv: {found}; {AGAIN}")
    _check_truth(stored, images, "images.csv")


def _check_thresholds(
    stored: Stored, results: Mapping[Cell, Json], tables: Mapping[str, pd.DataFrame],
    ends: Mapping[str, Ends],
) -> None:  # fmt: skip
    """Raises: UserError where thresholds.csv and images.csv of a cell do not agree."""
    names = {
        "thresholds.csv": THRESHOLD_COLUMNS,
        "images.csv": ("has_category", "iou", "oracle_iou"),
    }
    parts = [
        {column: np.split(tables[name][column].to_numpy(), ends[name][:-1]) for column in columns}
        for name, columns in names.items()
    ]
    for place, cell in enumerate(results):
        curve, table = ({key: own[place] for key, own in part.items()} for part in parts)
        if found := agreement.curve_problem(curve, table):
            raise UserError(f"{stored.path(cell.path)}/thresholds.csv: {found}; {AGAIN}")


def _check_classes(
    stored: Stored, results: Mapping[Cell, Json], classes: pd.DataFrame, ends: Ends
) -> None:
    """Raises: UserError where results and tables do not agree."""
    starts = ends - np.diff(ends, prepend=0)
    for cell, start, end in zip(results, starts, ends, strict=True):
        if found := agreement.labels_problem(results[cell], classes.iloc[start:end]):
            raise UserError(f"{stored.path(cell.path)}: {found}; delete it and run the study again")
    _check_truth(stored, classes[classes["tp"] + classes["fn"] > 0], "classes.csv")


def _check_truth(stored: Stored, rows: pd.DataFrame, name: str) -> None:
    if different := agreement.truth_problem(rows):
        category, loss, fold, seed, image = different
        path = Cell(category, loss, fold, seed).path
        raise UserError(
            f"{stored.path(path)}/{name}: tp + fn of {image} is not that of another cell of "
            f"this category and fold; {AGAIN}"
        )
