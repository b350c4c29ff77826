"""Read a study from its folder or archive, and check its records against each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lovasz_repro import schema
from lovasz_repro.errors import UserError
from lovasz_repro.files import parse_json
from lovasz_repro.records import agreement
from lovasz_repro.records.cells import TABLES, Cell, Grid
from lovasz_repro.records.stored import Stored
from lovasz_repro.records.tables import AGAIN, read_tables
from lovasz_repro.schema import Json

KEYS = ("category", "loss", "fold", "seed")
"""The columns that identify a cell, first in the tables of `Records`."""


@dataclass(frozen=True)
class Records:
    """A study as the report sees it.

    images: `IMAGE_COLUMNS` of all finished cells, after the columns `KEYS`.
    curves, thresholds: `CURVE_COLUMNS` and `THRESHOLD_COLUMNS`, likewise.
    classes: `CLASS_COLUMNS`, likewise, of a multi-class study; it has no images and thresholds, and
    its curves are `MULTI_CURVE_COLUMNS`.
    tuning: by "fold<k>" and loss {lr, steps, image_iou, at_edge, trials: [{lr, steps, category,
    seed, image_iou}]}; image_iou (multi-class: miou) is on held-out images, null if a trial
    diverged.
    results, costs: by cell. missing: cells with neither result nor error. failed: error text by
    cell. stale: cells finished under another hash, or at another rate or number of steps than
    tuning.json has now; they are in no other field.
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
    def whole(self) -> bool:
        """Whether every cell of the grid is finished under the study's configuration."""
        return not (self.missing or self.failed or self.stale)

    @property
    def folds_per_partition(self) -> int:
        """How many folds share out the images once; 0 if there is one partition, or if it is not
        recorded."""
        return int(self.study["config"].get("cells", {}).get("folds_per_partition", 0))

    @property
    def multiclass(self) -> bool:
        return task_of(self.study) == "multiclass"


def task_of(study: Json) -> str:
    """The task in study.json; "binary" if it names none, as studies did at first."""
    return str(study["config"].get("task", "binary"))


def load(runs: Path, gallery: bool = True) -> Records:
    """Read a run's folder, or the `records.zip` that a report keeps of one.

    Args:
        gallery: False does not read it, since it may be of an earlier state of the records.

    Raises: UserError naming the file, and the key, that is missing, malformed or contradicts
        another record.
    """
    return _Reader(Stored(runs)).records(gallery)


class _Reader:
    """The records of one study while they are read."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        if "study.json" not in stored:
            archive = stored.runs / "records.zip"
            hint = (
                f"{archive} holds records"
                if archive.is_file()
                else "`lovasz-repro study` or `fit` makes it"
            )
            raise UserError(f"{stored.runs}: no study.json there; {hint}")
        self.study = self.json("study.json", schema.Study)
        self.task = task_of(self.study)
        self.tuning = self.optional("tuning.json", schema.Tuning)
        self.bases = {fold: self.base(fold) for fold in self.study["grid"]["folds"]}
        self.results: dict[Cell, Json] = {}

    def records(self, gallery: bool) -> Records:
        self.check_tuning()
        missing: list[Cell] = []
        failed: dict[Cell, str] = {}
        stale: list[Cell] = []
        for cell in Grid(**self.study["grid"]).cells():
            if f"{cell.path}/result.json" not in self.stored:
                failure = self.optional(f"{cell.path}/failed.json", schema.Failed)
                if failure:
                    failed[cell] = failure["error"]
                else:
                    missing.append(cell)
            elif (result := self.result(cell)) is None:
                stale.append(cell)
            else:
                self.results[cell] = result
        tables = self.tables()
        entries: list[Json] = []
        if gallery:
            entries = self.optional("gallery/gallery.json", schema.Gallery).get("images", [])
        if wrong := agreement.gallery_problem(entries, tables["images.csv"]):
            if not (missing or stale or failed):
                self.refuse("gallery/gallery.json", wrong, "run the study again")
            entries = []  # of an earlier state: the study makes them again when it ends
        return Records(
            study=self.study,
            machine=self.optional("machine.json", schema.Machine),
            tuning=self.tuning,
            bases=self.bases,
            gallery=entries,
            images=tables["images.csv"],
            curves=tables["curve.csv"],
            thresholds=tables["thresholds.csv"],
            classes=tables["classes.csv"],
            results=self.results,
            costs={c: self.optional(f"{c.path}/cost.json", schema.Cost) for c in self.results},
            missing=missing,
            failed=failed,
            stale=stale,
        )

    def json(self, name: str, kind: Any = None) -> Json:
        return parse_json(self.stored.read(name), self.stored.path(name), kind)

    def optional(self, name: str, kind: Any) -> Json:
        return self.json(name, kind) if name in self.stored else {}

    def refuse(
        self, name: str, wrong: str | None, remedy: str = "delete it and run the study again"
    ) -> None:
        """Raises: UserError naming the file if something is wrong with it."""
        if wrong:
            raise UserError(f"{self.stored.path(name)}: {wrong}; {remedy}")

    def base(self, fold: int) -> Json:
        name = f"base/fold{fold}/result.json"
        base = self.optional(name, schema.Base)
        if base:
            self.refuse(name, agreement.base_problem(base, fold, self.study["hash"]))
        return base

    def check_tuning(self) -> None:
        # A choice made for other categories has other means.
        categories = self.study["config"].get("tuning", {}).get("categories")
        measure = "image_iou" if self.task == "binary" else "miou"
        for fold, entries in self.tuning.items():
            if not re.fullmatch(r"fold\d{1,6}", fold, re.ASCII):
                raise UserError(f"{self.stored.path('tuning.json')}: {fold!r} is not a fold")
            for loss, entry in entries.items():
                if wrong := agreement.tuning_problem(entry, categories, measure):
                    self.refuse("tuning.json", f"{fold}.{loss}.{wrong}")

    def result(self, cell: Cell) -> Json | None:
        """The cell's result.json; None if it is stale."""
        name = f"{cell.path}/result.json"
        result = self.json(name)
        if result.get("hash") != self.study["hash"]:
            return None
        kind = schema.Result if self.task == "binary" else schema.MultiResult
        self.refuse(name, schema.problem(result, kind))
        self.refuse(name, agreement.place_problem(result, asdict(cell), self.bases[cell.fold]))
        # Without rates to choose from, a choice that is still in tuning.json is not used.
        used = self.study["config"].get("tuning", {}).get("lrs") != []
        chosen = self.tuning.get(f"fold{cell.fold}", {}).get(cell.loss, {}) if used else {}
        if chosen.get("lr") is None:
            return result
        made_with, now = ((one["lr"], one["steps"]) for one in (result, chosen))
        return result if made_with == now else None

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of all cells by file name, `KEYS` first; those of the other task are empty."""
        own = TABLES[self.task]
        tables: dict[str, pd.DataFrame] = {}
        parts: dict[Cell, dict[str, agreement.Columns]] = {cell: {} for cell in self.results}
        for name, columns in {**TABLES["binary"], **TABLES["multiclass"], **own}.items():
            cells = list(self.results) if name in own else []
            hashes = {f"{cell.path}/{name}": self.results[cell]["files"][name] for cell in cells}
            table, rows = read_tables(self.stored, hashes, columns)
            arrays = {column: table[column].to_numpy() for column in columns}
            ends = np.cumsum(rows)
            for cell, start, end in zip(cells, ends - rows, ends, strict=True):
                parts[cell][name] = {column: a[start:end] for column, a in arrays.items()}
            for place, key in enumerate(KEYS):
                values = np.array([getattr(cell, key) for cell in cells])
                table.insert(place, key, np.repeat(values, rows))
            tables[name] = table
        if self.task == "binary":
            self.check_images(parts)
            self.check_truth(tables["images.csv"], "images.csv")
            for cell, part in parts.items():
                wrong = agreement.curve_problem(part["thresholds.csv"], part["images.csv"])
                self.refuse(f"{cell.path}/thresholds.csv", wrong, AGAIN)
        else:
            for cell, part in parts.items():
                labels = pd.DataFrame(part["classes.csv"])
                self.refuse(cell.path, agreement.labels_problem(self.results[cell], labels))
            classes = tables["classes.csv"]
            self.check_truth(classes[classes["tp"] + classes["fn"] > 0], "classes.csv")
        return tables

    def check_images(self, parts: Mapping[Cell, Mapping[str, agreement.Columns]]) -> None:
        """parts: by cell its tables."""
        scored: dict[tuple[str, int], list[str]] = {}
        for cell, part in parts.items():
            images = part["images.csv"]
            wrong = agreement.table_problem(images)
            ids = sorted(images["id"])
            if not wrong and ids != scored.setdefault((cell.category, cell.fold), ids):
                wrong = "id: not the images of another cell of this category and fold"
            self.refuse(f"{cell.path}/images.csv", wrong, AGAIN)
            wrong = agreement.result_problem(self.results[cell], images)
            self.refuse(f"{cell.path}/result.json", wrong)

    def check_truth(self, rows: pd.DataFrame, name: str) -> None:
        if different := agreement.truth_problem(rows):
            *cell, image = different
            wrong = f"tp + fn of {image} is not that of another cell of this category and fold"
            self.refuse(f"{Cell(*cell).path}/{name}", wrong, AGAIN)
