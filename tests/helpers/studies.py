"""Studies of seconds on generated shapes, and what they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from lovasz_repro.config import Base, Cells, Data, Experiment, Network, Optim, Runtime
from lovasz_repro.files import sha256, write_json
from lovasz_repro.records import UNTRAINED, Cell
from lovasz_repro.records.cells import TABLES
from lovasz_repro.study.base import base_network
from lovasz_repro.study.cell import Choice, run_cell
from lovasz_repro.study.identity import open_run
from lovasz_repro.study.kept import keep
from lovasz_repro.study.launch import held
from lovasz_repro.study.machine import note_machine
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.segmenter import Segmenter
from tests.helpers.places import ROOT

UNREPRODUCIBLE = {"machine.json", "cost.json", "owner.json", ".lock"}


def command(shapes_root: Path, runs: Path) -> list[str]:
    """Two categories, two losses, one tuned learning rate of two, all within seconds."""
    return [
        "study", "--config", str(ROOT / "experiments" / "demo.yaml"),
        "--data.root", str(shapes_root), "--data.cache", str(shapes_root / "cache"),
        "--runs", str(runs), "--data.image_size", "81", "--data.crop_size", "65",
        "--base.optim.steps", "6", "--base.optim.validate_every", "3",
        "--base.optim.batch_size", "4", "--optim.batch_size", "4",
        "--optim.steps", "6", "--optim.validate_every", "2",
        "--tuning.lrs", "[0.001, 0.01]", "--tuning.extend", "0", "--tuning.categories", "[bird]",
        "--tuning.steps", "[6]",
        "--cells.categories", "[bird, cat]", "--cells.losses", "[cross_entropy, lovasz_hinge]",
        "--cells.seeds", "[0]", "--runtime.device", "cpu",
        # Sums, and so the last digits, depend on their number.
        "--runtime.threads", "1",
    ]  # fmt: skip


def contents(runs: Path) -> dict[str, str]:
    """The hash of every file of a run that should be the same whenever it is made."""
    return {
        str(path.relative_to(runs)): sha256(path.read_bytes())
        for path in sorted(runs.rglob("*"))
        if path.is_file() and path.name not in UNREPRODUCIBLE and "tensorboard" not in path.parts
    }


def tiny(
    root: Path, where: Path, train: Literal["all", "head"] = "all", **optim: Any
) -> Experiment:
    """An experiment of seconds on the shapes."""
    schedule = {"lr": 0.02, "steps": 6, "batch_size": 4, "validate_every": 2, **optim}
    return Experiment(
        name="tiny",
        runs=str(where / "runs"),
        data=Data(
            root=str(root), train_list="fold{fold}_train", val_list="fold{fold}_val",
            cache=str(root / "cache"), image_size=81, crop_size=65,
        ),
        network=Network(
            kind="deeplab_v2", backbone="test_resnet", rates=(1, 2, 3, 4), train=train,
            freeze_batchnorm=False,
        ),
        base=Base(train=train, optim=Optim(lr=0.02, steps=4, batch_size=4, validate_every=2)),
        optim=Optim(**schedule),
        cells=Cells(["bird", "cat"], ["cross_entropy", "lovasz_hinge"], [0], [0]),
        runtime=Runtime(device="cpu", overlays=2),
    )  # fmt: skip


def run(config: Experiment, cell: Cell) -> Path:
    """Run one cell at the configuration's own rate and steps. Returns its folder."""
    workspace = Workspace(config)
    steps = 0 if cell.loss == UNTRAINED else config.steps(cell.loss, config.optim.steps)
    with held(workspace.folder):
        open_run(workspace, [cell])
        run_cell(workspace, cell, Choice(config.optim.lr, steps))
    return workspace.folder / cell.path


class Killed(BaseException):
    """A training that is stopped as by kill -9: nothing runs after it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch, *, steps: int) -> None:
    """Let a training of so many steps in all, and no other, be `Killed` in one of them."""
    original = Segmenter.training_step

    def dying(self: Segmenter, batch: Any, batch_idx: int) -> Any:
        if self.optim.steps == steps and self.global_step == step:
            raise Killed
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Segmenter, "training_step", dying)


def kept_cell(config: Experiment) -> Path:
    """The folder of a cell with its weights: those of the base network, which is made here."""
    workspace = Workspace(config)
    cell = Cell("bird", "hinge", 0, 0)
    with held(workspace.folder):
        open_run(workspace, [cell])
        note_machine(workspace)
        base, digest = base_network(workspace, 0)
    _, top = base.split(config.network.train, config.network.split)
    folder = workspace.folder / cell.path
    weights = keep(folder, top.binary(config.data.label(cell.category), config.network.score))
    sums = dict.fromkeys(TABLES["binary"], "0" * 64)
    result = {**vars(cell), "hash": workspace.digest, "base": digest, "lr": 0.02, "steps": 6}
    result |= {"threshold": 0.0, "images": 1, "files": sums, "weights": weights}
    result |= dict.fromkeys(("image_iou", "tuned_image_iou", "dataset_iou"), 0.5)
    write_json(folder / "result.json", result)
    return folder
