"""Random single-bit flips and truncations over every kind of file that a study leaves.

Each is refused in one line that names the file, or provably changes nothing: what is read is equal.
"""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from lovasz_repro.config import Experiment
from lovasz_repro.data.cache import ImageCache, computed
from lovasz_repro.data.integrity import digests
from lovasz_repro.data.shapes import generate
from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.files import CHECKSUM, json_bytes, write_json
from lovasz_repro.records import Cell, Grid, load
from lovasz_repro.records.agreement import label_scores
from lovasz_repro.records.cells import write_cell
from lovasz_repro.report import gallery, write_report
from lovasz_repro.report.archive import pack, read_files
from lovasz_repro.report.examples import gallery as pictures
from lovasz_repro.schema import ALL_LABELS
from lovasz_repro.study.base import base_network
from lovasz_repro.study.kept import FILE, load_cell
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training import loop as training
from tests.faults.harness import Fault, shows
from tests.helpers import photographs, synthetic
from tests.helpers.studies import kept_cell, tiny

Read = Callable[[], Any]

LOSSES = ("cross_entropy", "lovasz_hinge", "hinge")
FAILED = Cell("bird", "hinge", 0, 0)


def study(root: Path) -> Path:
    """A small study with a failed cell, predictions and a gallery."""
    runs = root / "runs"
    synthetic.write_study(
        runs, categories=("bird",), losses=LOSSES, folds=(0,), seeds=(0,), images_per_cell=6,
        failed={FAILED: "out of memory"},
    )  # fmt: skip
    photographs.write_predictions(runs)
    gallery.write_gallery(runs, VOC(photographs.write_voc(runs, root / "voc")))
    return runs


def read_records(runs: Path) -> Any:
    """All that the report computes from: tables, numbers, texts, pictures."""
    records = load(runs)
    files = read_files(runs, records)
    shown = pictures(records.gallery, records.grid.losses, files)
    # The archive is packed from the files as they are: what JSON says counts, not how it is spaced.
    kept = {name: content for name, content in files.items() if not name.endswith(".json")}
    parts = [kept, shown]
    for name, value in sorted(vars(records).items()):
        parts.append((name, value.to_csv() if hasattr(value, "to_csv") else without_sum(value)))
    return parts


def without_sum(value: Any) -> Any:
    """A record without its checksum's key where that is what the flip hit: the sum is not checked
    then, and the flip has hit nothing else."""
    if not isinstance(value, dict):
        return value
    hit = [
        key
        for key in value
        if isinstance(key, str)
        and len(key) == len(CHECKSUM)
        and sum(a != b for a, b in zip(key, CHECKSUM, strict=True)) == 1
    ]
    return {key: without_sum(item) for key, item in value.items() if key not in hit}


class Target:
    """Files of one kind. read: what the program makes of them, comparable by its bytes."""

    def __init__(self, files: list[Path], read: Read) -> None:
        self.files, self.read = files, read
        self.whole = self.value()

    def value(self) -> bytes:
        return pickle.dumps(self.read())


def strike(target: Target, draw: np.random.Generator) -> str:
    """Damage one file, read, mend it. Returns: what came of it."""
    path = target.files[draw.integers(len(target.files))]
    content = path.read_bytes()
    place = int(draw.integers(len(content)))
    damaged = bytearray(content)
    if cut := draw.random() < 0.25:
        del damaged[place:]
    else:
        damaged[place] ^= 1 << int(draw.integers(8))
    path.write_bytes(damaged)
    what = f"{path}, {'cut at' if cut else 'a bit of'} byte {place} of {len(content)}"
    try:
        value = target.value()
    except UserError as error:
        said = str(error)
        assert "\n" not in said, (what, said)
        assert str(path) in said or path.name in said, (what, said)
        return "refused"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    finally:
        path.write_bytes(content)
    assert value == target.whole, f"{what}: read as something else, and nothing said"
    return "equal"


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    root = tmp_path_factory.mktemp("fuzz")
    runs = study(root)
    files = sorted(p for p in runs.rglob("*") if p.is_file())
    read = [p for p in files if p.name not in ("predictions.npz", "cost.json") or "cells" in str(p)]
    predictions = [p for p in files if p.name == "predictions.npz"]
    ids = load(runs).images["id"].unique()
    archive = root / "records.zip"
    archive.write_bytes(pack(read_files(runs, load(runs))))
    made = {
        "records": Target([p for p in read if p.suffix != ".npz"], lambda: read_records(runs)),
        "archive": Target([archive], lambda: read_records(archive)),
        "predictions": Target(
            predictions,
            lambda: [gallery._prediction(p, i).tobytes() for p in predictions for i in ids],
        ),
    }
    shapes = root / "shapes"
    generate(shapes, train=24, val=6, size=(60, 80))
    made |= {"cache": _cache(shapes), "checkpoint": _checkpoint(root), "labels": _labels(root)}
    return made | _networks(tiny(shapes, root))


def _cache(shapes: Path) -> Target:
    voc = VOC(shapes)
    ids = voc.ids("fold0_val")
    root = shapes / "other"

    def read() -> Any:
        cache = ImageCache.open(voc, digests(voc, ids, root), 33, root)
        arrays = {name: np.asarray(v) for name, v in vars(cache).items() if name != "folder"}
        features = computed(cache, ["a network"], len(ids), _features, 2)
        return arrays, {name: np.asarray(value) for name, value in features.items()}

    read()
    return Target(sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"), read)


def _features(index: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
    return {"features": np.arange(500) * index[:, None], "labels": index.astype(np.uint8)}


def _networks(config: Experiment) -> dict[str, Target]:
    """A base network's weights, a cell's, and what is said of them."""
    cell = kept_cell(config)
    base = cell.parents[3] / "base" / "fold0"

    def read_base() -> Any:
        network, digest = base_network(Workspace(config), 0)
        return digest, {name: value.numpy() for name, value in network.state_dict().items()}

    def read_cell() -> Any:
        trained = load_cell(cell)
        state = trained.network.state_dict()
        return trained.label, {name: value.numpy() for name, value in state.items()}

    said = [cell / "result.json", cell.parents[3] / "study.json"]
    return {
        "base": Target([base / "network.pt", base / "result.json"], read_base),
        "weights": Target([*3 * [cell / FILE], *said], read_cell),
    }


def _labels(root: Path) -> Target:
    """The records of a small multi-class study."""
    runs = root / "labels"
    grid = Grid(["bird"], ["cross_entropy", "soft_jaccard"], [0], [0])
    made = synthetic.study(grid, "labels", False, 6)
    made["grid"]["categories"] = [ALL_LABELS]
    made["config"]["task"] = "multiclass"
    write_json(runs / "study.json", made)
    draw = np.random.default_rng(0)
    truth = draw.integers(50, 99, 24)
    for loss in grid.losses:
        tp = draw.integers(0, 50, 24)
        rows = pd.DataFrame({"id": np.repeat(list("abcdef"), 4), "label": [0, 1, 2, 3] * 6})
        rows = rows.assign(tp=tp, fp=draw.integers(0, 50, 24), fn=truth - tp)
        curve = pd.DataFrame({"step": [0, 6], "train_loss": [np.nan, 0.5], "miou": [0.25, 0.5]})
        cell = Cell(ALL_LABELS, loss, 0, 0)
        result = {**vars(cell), "hash": made["hash"], "base": "ab", "lr": 0.1, "steps": 6}
        result |= {"batch_size": 4, **label_scores(rows)}
        tables = {"classes.csv": rows, "curve.csv": curve}
        write_cell(runs / cell.path, tables, result, synthetic.cost(cell), "multiclass")
    return Target(sorted(p for p in runs.rglob("*") if p.is_file()), lambda: read_records(runs))


def _checkpoint(root: Path) -> Target:
    path = root / "resume.ckpt"
    training.write_checkpoint(path, {"identity": "base", "w": torch.arange(500)})
    content = path.read_bytes()

    def read() -> Any:
        if training._resumable(path, "base") is None:
            path.write_bytes(content)  # it was removed
            raise UserError(f"{path}: training starts over")
        return training.read_checkpoint(path)["w"].numpy()

    return Target([path], read)


STRIKES = {
    "records": 350, "archive": 250, "predictions": 100, "cache": 200, "base": 50,
    "checkpoint": 100, "labels": 100, "weights": 30,
}  # fmt: skip


@shows(
    Fault("any bit of a record, archive, cached array, checkpoint, base network or of kept weights "
          "flipped, or the file cut anywhere",
          "one line that names the file; nothing where no number changes", "nothing",
          "what the line says"),
)  # fmt: skip
@pytest.mark.slow
@pytest.mark.parametrize("kind", STRIKES)
def test_flips_and_cuts(targets: dict[str, Target], kind: str) -> None:
    draw = np.random.default_rng([7, *kind.encode()])
    came_of = Counter(strike(targets[kind], draw) for _ in range(STRIKES[kind]))
    print(kind, dict(came_of))
    assert came_of["refused"] > STRIKES[kind] / 2
    assert targets[kind].value() == targets[kind].whole


ESCAPES = (
    "../../../escaped", "/../../../../escaped", "/tmp/escaped", "..", "a/../../../escaped", "C:\\x",
    "..\\..\\escaped", "~/escaped", "escaped\n", "x\x00y", "%2e%2e%2fescaped", "<script>", "",
    "file:///etc/passwd", "." * 5000,
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (-1, 1e308, 2**63, 2**200, 1e-320, True, None, [], {}, "1", "NaN")


class Leaf(NamedTuple):
    """A place in a JSON record."""

    name: str
    keys: tuple[Any, ...]
    value: Any


def leaves(name: str, value: Any, keys: tuple[Any, ...] = ()) -> list[Leaf]:
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return [Leaf(name, keys, value)]
    return [leaf for key, item in items for leaf in leaves(name, item, (*keys, key))]


def hostile(files: dict[str, bytes], draw: np.random.Generator) -> dict[str, bytes]:
    """The files of an archive with two to five places changed by somebody who knows the format:
    values, keys, and names of files, with every sum made right again."""
    files = dict(files)
    names = sorted(name for name in files if name.endswith(".json"))
    for _ in range(int(draw.integers(2, 6))):
        name = names[draw.integers(len(names))]
        value = json.loads(files[name])
        places = leaves(name, value)
        leaf = places[draw.integers(len(places))]
        owner = value
        for key in leaf.keys[:-1]:
            owner = owner[key]
        escape = ESCAPES[draw.integers(len(ESCAPES))]
        what = draw.integers(4)
        if what == 0 and isinstance(owner, dict):
            owner[escape] = owner.pop(leaf.keys[-1])
        elif what == 1:
            other = f"gallery/{escape}" if draw.random() < 0.5 else escape
            files[other.replace("\0", "") or "none"] = b"escaped"
        elif isinstance(leaf.value, str) or what == 2:
            owner[leaf.keys[-1]] = escape
        else:
            owner[leaf.keys[-1]] = NUMBERS[draw.integers(len(NUMBERS))]
        files[name] = json_bytes(value)
    return files


@shows(
    Fault("a `records.zip` made up to make the report write or read elsewhere",
          "one line that names file and key, or a report that holds it as text", "nothing",
          "get the records anew"),
)  # fmt: skip
@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_hostile_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = study(tmp_path / "made")
    files = read_files(runs, load(runs))
    sandbox = tmp_path / "a" / "b" / "c" / "d"
    out = sandbox / "report"
    sandbox.mkdir(parents=True)
    archive = sandbox / "records.zip"
    written: list[Path] = []
    original = Path.replace  # what every write of ours ends with

    def recording(self: Path, target: Path) -> Path:
        written.append(Path(target).resolve())
        return original(self, target)

    monkeypatch.setattr(Path, "replace", recording)
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    draw = np.random.default_rng(11)
    came_of: Counter[str] = Counter()
    refusals: list[str] = []
    for number in range(200):
        archive.write_bytes(pack(hostile(files, draw)))
        try:
            write_report(archive, out)
            came_of["reported"] += 1
        except UserError as error:
            refusals.append(str(error))
            came_of["refused"] += 1
        except Exception as error:
            archive.rename(tmp_path / f"traceback-{number}.zip")
            raise AssertionError(f"archive {number}: {type(error).__name__}: {error}") from error
    print(dict(came_of))
    assert came_of["refused"] > 60
    assert not [said for said in refusals if "\n" in said]
    assert all("records.zip" in said or "gallery/" in said for said in refusals)
    assert written
    assert all(path.is_relative_to(out.resolve()) for path in written)
    after = {path for path in tmp_path.rglob("*") if out not in path.parents}
    assert after - before <= {archive, out}
