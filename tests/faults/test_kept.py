"""A run's folder that `predict` and `study` go on with, edited with every sum made right again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lovasz_repro.__main__ import main
from lovasz_repro.config import settings_digest
from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json, sha256, write_json
from lovasz_repro.models.deeplab import build, state_digest
from lovasz_repro.records import Cell
from lovasz_repro.study.identity import open_run
from lovasz_repro.study.kept import FILE
from lovasz_repro.study.machine import note_machine
from lovasz_repro.study.tuning import read
from lovasz_repro.study.workspace import Workspace
from tests.faults.harness import Fault, shows
from tests.helpers.edits import Edit, drop, put, rewrite
from tests.helpers.studies import kept_cell, tiny

CELL = "cells/bird/hinge/fold0-seed0"
RESULT = f"{CELL}/result.json"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def made(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept_cell(tiny(shapes_root, tmp_path_factory.mktemp("kept"))).parents[3]


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "runs" / "tiny")


def pipe(name: str) -> Damage:
    def damage(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return damage


def weights_of_nan(run: Path) -> None:
    state = load_file(run / CELL / FILE)
    state["head.bias"][0] = torch.nan
    save_file(state, run / CELL / FILE)
    rewrite(run / RESULT, put("weights", value=sha256((run / CELL / FILE).read_bytes())))


def base_of_nan(run: Path) -> None:
    folder = run / "base" / "fold0"
    network = build(tiny(run, run).network)
    network.load_state_dict(torch.load(folder / "network.pt", weights_only=True))
    network.std[0] = torch.nan
    torch.save(network.state_dict(), folder / "network.pt")
    rewrite(folder / "result.json", put("sha256", value=state_digest(network)))
    rewrite(run / RESULT, put("base", value=state_digest(network)))


def configured(*keys: str, value: object, signed: bool = False) -> Damage:
    """Edit the configuration in study.json. signed: and make the hash right, there and in the
    cell's result.json."""

    def damage(run: Path) -> None:
        rewrite(run / "study.json", put("config", *keys, value=value))
        if signed:
            study = read_json(run / "study.json")
            digest = settings_digest(study["config"], study["data"])
            rewrite(run / "study.json", put("hash", value=digest))
            rewrite(run / RESULT, put("hash", value=digest))

    return damage


def without(*keys: str) -> Damage:
    return lambda run: rewrite(run / "study.json", drop(*keys))


OTHERS = [f"class{number}" for number in range(20)]
NOT_ITS_HASH = "study.json: hash: not that of its config and data"
DAMAGES: list[tuple[str, Damage]] = [
    (f"{FILE}: cannot be read (not a file)", pipe(f"{CELL}/{FILE}")),
    ("network.pt: cannot be read (not a file)", pipe("base/fold0/network.pt")),
    (f"{FILE}: head.bias is not finite", weights_of_nan),
    ("network.pt: std is not finite", base_of_nan),
    ("study.json: there is no config", without("config")),
    ("study.json: there is no data", without("data")),
    ("study.json: config: there is no runtime", without("config", "runtime")),
    (NOT_ITS_HASH, without("config", "optim")),
    (NOT_ITS_HASH, configured("network", "train", value="head")),
    (NOT_ITS_HASH, configured("network", "rates", value=[6, 12, 18, 24])),
    (NOT_ITS_HASH, configured("data", "image_size", value=161)),
    ("study.json: config.network.train: invalid enum value 'some'",
     configured("network", "train", value="some", signed=True)),
    ("study.json: config.network.rates: expected array", 
     configured("network", "rates", value=[1], signed=True)),
    ("study.json: config.runtime.precision: invalid enum", 
     configured("runtime", "precision", value="8", signed=True)),
    ("study.json: config.data.image_size: expected int", 
     configured("data", "image_size", value="large", signed=True)),
    ("study.json: network.train: top", configured("network", "train", value="top", signed=True)),
    (f"{FILE}: does not fit the network", 
     configured("network", "train", value="head", signed=True)),
    (f"{FILE}: does not fit the network", 
     configured("network", "score", value="log_odds", signed=True)),
    ("network.pt: cannot be loaded", configured("data", "classes", value=["bird"], signed=True)),
    ("result.json: category: study.json has no bird", 
     configured("data", "classes", value=OTHERS, signed=True)),
]  # fmt: skip


@shows(
    Fault("kept weights or a base network that hold NaN", "one line that names it", "nothing",
          "get the run anew"),
    Fault("the configuration in `study.json` edited, or a part of it deleted",
          "`predict` says in one line that it has another hash, or which key is wrong", "nothing",
          "get the run anew"),
)  # fmt: skip
@pytest.mark.parametrize(("said", "damage"), DAMAGES)
def test_predict(
    run: Path, shapes_root: Path, capsys: pytest.CaptureFixture[str], said: str, damage: Damage
) -> None:
    damage(run)
    image = VOC(shapes_root).image_path("val_000001")
    predict = ["predict", "--cell", str(run / CELL), str(image), "--out", str(run / "out")]
    assert main(predict) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (run / "out").exists()


@shows(
    Fault("an image whose name is as long as the system allows", "nothing", "nothing",
          "nothing to do"),
)  # fmt: skip
def test_a_long_name(run: Path, shapes_root: Path) -> None:
    image = shutil.copy(VOC(shapes_root).image_path("val_000001"), run / f"{'n' * 251}.jpg")
    predict = ["predict", "--cell", str(run / CELL), str(image), "--out", str(run / "out")]
    assert main(predict) == 0
    assert (run / "out" / "masks" / f"{'n' * 251}.png").is_file()


@shows(
    Fault("`study.json`, `machine.json` or `tuning.json` that lacks what a study goes on with",
          "one line that names file and key", "nothing", "delete it, then the study"),
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("study.json", drop("config"), "there is no config"),
        ("study.json", drop("data"), "there is no data"),
        ("study.json", put("data", value=[]), "data: expected object, got array"),
        ("machine.json", put("started", value="yesterday"), "started: invalid RFC3339"),
        ("machine.json", put("started", value=5), "started: expected datetime, got int"),
        ("tuning.json", put("fold0", "hinge", "trials", 0, "image_iou", value="good"),
         r"fold0\.hinge\.trials\[0\]\.image_iou: expected float"),
        ("tuning.json", drop("fold0", "hinge", "trials", 0, "image_iou"),
         r"fold0\.hinge\.trials\[0\]: there is no image_iou"),
        ("tuning.json", drop("fold0", "hinge", "steps"), r"fold0\.hinge\.steps: missing beside lr"),
    ],
)  # fmt: skip
def test_study(run: Path, shapes_root: Path, name: str, edit: Edit, said: str) -> None:
    trial = {"lr": 0.1, "steps": 6, "category": "bird", "seed": 0, "image_iou": 0.5}
    chosen = {"lr": 0.1, "steps": 6, "image_iou": 0.5, "at_edge": True, "trials": [trial]}
    write_json(run / "tuning.json", {"fold0": {"hinge": chosen}})
    workspace = Workspace(tiny(shapes_root, run.parents[1]))
    rewrite(run / name, edit)

    def go_on() -> None:
        if name == "tuning.json":
            read(workspace)
        elif name == "machine.json":
            note_machine(workspace)
        else:
            open_run(workspace, [Cell("bird", "hinge", 0, 0)])

    with pytest.raises(UserError, match=f"{name}: {said}"):
        go_on()
