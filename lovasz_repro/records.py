"""What a study leaves behind, how it is written so that nothing is half there, and how it is read.

    runs/<experiment>/
        study.json              experiment, configuration, grid, data lists, hash
        machine.json            commit, versions, hardware, dates: true, but not reproducible
        learning_rates.json     per loss: the rates tried, what each gave, the one chosen
        base/fold<k>/           network.pt, result.json (mIoU), cost.json
        cells/<category>/<loss>/fold<k>-seed<s>/
            images.csv          one row per val image (`IMAGE_COLUMNS`)
            curve.csv           one row per validation during training (`CURVE_COLUMNS`)
            predictions.npz     small foreground masks of the val images, packed bits
            cost.json           seconds and memory: differs from run to run
            result.json         written last; a cell is done when, and only when, it is there
            failed.json         in its place when the cell could not be finished: the error
        gallery/                gallery.json and the small pictures that the report shows

Every file is written beside its place and renamed, so a reader sees the old bytes or the new ones.
`result.json` holds the SHA-256 of the tables beside it: a file truncated later is found out.
Everything but `machine.json` and `cost.json` has the same bytes when the same study is run again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lovasz_repro.errors import UserError

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
    "tuned_tp",  # the same with the threshold chosen on training images (result.json: threshold)
    "tuned_fp",
    "tuned_fn",
    "tuned_iou",
    "object_fraction",  # foreground pixels / valid pixels
    *MEASURES,
)
CURVE_COLUMNS = ("step", *MEASURES, "image_iou")

Json = dict[str, Any]
Folder = Path | zipfile.Path


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


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is flushed to disk and renamed to `path`.

    Raises: OSError naming `path` where it cannot be written.
    """
    # Machines that share the folder may have a process of this number each. The suffix is kept
    # because np.savez and PIL choose their format by it.
    own = f"{socket.gethostname()}-{os.getpid()}"
    temporary = path.with_name(f".{path.stem}.{own}.part{path.suffix}")
    with about(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Let the system's errors name `path` where they name no file: a failed write never does."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that nobody else writes to."""
    for path in folder.glob(".*.part*"):
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Sorted keys and no NaN: equal values give equal bytes, and any reader can parse them."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with seven significant digits: what float32 holds."""
    text = table.to_csv(index=False, float_format="%.7g", lineterminator="\n")
    write_bytes(path, text.encode())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_json(path: Folder) -> Json:
    """Raises: UserError naming the file where it is missing or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, KeyError) as error:  # zipfile.Path: KeyError
        raise UserError(f"{path}: cannot be read ({error})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it to make it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def write_cell(
    folder: Path, images: pd.DataFrame, curve: pd.DataFrame, result: Json, cost: Json
) -> None:
    """Leave a finished cell in `folder`: the tables, then `result.json` with their hashes."""
    write_table(folder / "images.csv", images[list(IMAGE_COLUMNS)])
    write_table(folder / "curve.csv", curve[list(CURVE_COLUMNS)])
    write_json(folder / "cost.json", cost)
    hashes = {name: sha256((folder / name).read_bytes()) for name in ("images.csv", "curve.csv")}
    write_json(folder / "result.json", {**result, "files": hashes})
    (folder / "failed.json").unlink(missing_ok=True)


def read_table(path: Folder, digest: str, columns: Sequence[str]) -> pd.DataFrame:
    """Raises: UserError naming the file where it is not what `result.json` says was written."""
    try:
        content = path.read_bytes()
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if sha256(content) != digest:
        raise UserError(
            f"{path}: truncated or edited, the result.json beside it has another SHA-256; "
            "delete that result.json and run the study again"
        )
    table = pd.read_csv(io.BytesIO(content), dtype={"id": str})
    if list(table.columns) != list(columns):
        raise UserError(f"{path}: columns {list(table.columns)}, expected {list(columns)}")
    numbers = table.drop(columns="id", errors="ignore")
    finite = np.isfinite(numbers.to_numpy(float)).all(0)
    if not finite.all():
        bad = ", ".join(numbers.columns[~finite])
        raise UserError(f"{path}: not a finite number in column {bad}")
    return table


@dataclass(frozen=True)
class Records:
    """A study as the report sees it.

    images: `IMAGE_COLUMNS` behind the columns category, loss, fold, seed; all finished cells.
    curves: `CURVE_COLUMNS` behind the same four.
    results, costs: by cell; missing: cells of the grid with neither result nor error;
    failed: error text by cell; stale: finished under another numerics hash, left out of the rest.
    """

    study: Json
    machine: Json
    learning_rates: Json
    bases: dict[int, Json]
    gallery: list[Json]
    images: pd.DataFrame
    curves: pd.DataFrame
    results: dict[Cell, Json]
    costs: dict[Cell, Json]
    missing: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    stale: list[Cell] = field(default_factory=list)

    @property
    def grid(self) -> Grid:
        return Grid(**self.study["grid"])


def load(runs: Path) -> Records:
    """Read a run's folder, or the `records.zip` that a report keeps of one.

    Raises: UserError naming the file for whatever is missing, truncated or malformed.
    """
    root: Folder = runs
    if runs.suffix == ".zip":
        if not zipfile.is_zipfile(runs):
            raise UserError(f"{runs}: not a zip archive")
        root = zipfile.Path(runs)
    if not (root / "study.json").is_file():
        raise UserError(f"{runs}: no study.json there; `lovasz-repro study` or `fit` makes it")
    study = read_json(root / "study.json")
    images: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    records = Records(
        study=study,
        machine=_optional(root / "machine.json"),
        learning_rates=_optional(root / "learning_rates.json"),
        bases={k: _optional(root / f"base/fold{k}/result.json") for k in study["grid"]["folds"]},
        gallery=_optional(root / "gallery/gallery.json").get("images", []),
        images=pd.DataFrame(),
        curves=pd.DataFrame(),
        results={},
        costs={},
    )
    for cell in records.grid.cells():
        folder = root / cell.path
        if not (folder / "result.json").is_file():
            failure = _optional(folder / "failed.json")
            if failure:
                records.failed[cell] = failure["error"]
            else:
                records.missing.append(cell)
            continue
        result = read_json(folder / "result.json")
        if result.get("hash") != study["hash"]:
            records.stale.append(cell)
            continue
        hashes = result["files"]
        records.results[cell] = result
        records.costs[cell] = _optional(folder / "cost.json")
        key = asdict(cell)
        for name, columns, tables in (
            ("images.csv", IMAGE_COLUMNS, images),
            ("curve.csv", CURVE_COLUMNS, curves),
        ):
            table = read_table(folder / name, hashes[name], columns)
            tables.append(table.assign(**key)[[*key, *columns]])
    keys = ("category", "loss", "fold", "seed")
    return Records(
        **{
            **vars(records),
            "images": _stack(images, [*keys, *IMAGE_COLUMNS]),
            "curves": _stack(curves, [*keys, *CURVE_COLUMNS]),
        }
    )


def _optional(path: Folder) -> Json:
    return read_json(path) if path.is_file() else {}


def _stack(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
