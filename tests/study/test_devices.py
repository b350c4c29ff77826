"""One training on several devices, here two processes of one CPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lovasz_repro.__main__ import main
from lovasz_repro.config import Experiment
from lovasz_repro.config.sections import Runtime
from lovasz_repro.files import read_json
from lovasz_repro.records import load
from lovasz_repro.study import devices
from lovasz_repro.study.devices import on_all
from lovasz_repro.training.segmenter import NonFiniteError
from tests.helpers.forked import forking
from tests.helpers.studies import command, contents

FEW = [
    "--tuning.lrs", "[0.1]", "--cells.categories", "[bird]", "--cells.losses", "[lovasz_hinge]",
    # A base depends on the devices: on their own pixels' mean loss, and on their BatchNorm.
    "--base.optim.lr", "1e-9", "--network.freeze_batchnorm", "true",
]  # fmt: skip
TWO = ["--runtime.devices", "2", "--runtime.strategy", "ddp"]


@pytest.fixture(scope="module", autouse=True)
def forked() -> Iterator[None]:
    with forking(devices):
        yield


@pytest.fixture(scope="module")
def shared(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study of which every training takes two devices."""
    runs = tmp_path_factory.mktemp("two")
    assert main([*command(shapes_root, runs), *FEW, *TWO]) == 0
    assert not torch.distributed.is_initialized()
    assert "LOCAL_RANK" not in os.environ
    return runs / "demo"


def test_two_devices_train_what_one_does(shared: Path, shapes_root: Path, tmp_path: Path) -> None:
    """The Lovász hinge is a mean over images, as the devices' mean is: only rounding differs."""
    assert main([*command(shapes_root, tmp_path), *FEW]) == 0
    alone = tmp_path / "demo"
    one, two = (next(iter(load(run).results.values())) for run in (alone, shared))
    assert one["hash"] != two["hash"]
    rates = [read_json(run / "tuning.json")["fold0"]["lovasz_hinge"] for run in (alone, shared)]
    assert rates[0]["image_iou"] == pytest.approx(rates[1]["image_iou"], abs=1e-3)
    cell = Path("cells/bird/lovasz_hinge/fold0-seed0")
    for table in ("curve.csv", "images.csv"):
        here, there = (pd.read_csv(run / cell / table) for run in (alone, shared))
        numbers = here.select_dtypes("number")
        np.testing.assert_allclose(numbers, there[numbers.columns], rtol=1e-3, atol=1e-3)
    # Of two processes only the first writes.
    events = "tensorboard/bird/**/events.*"
    assert len(list(shared.glob(events))) == len(list(alone.glob(events)))
    assert {str(file.relative_to(shared)) for file in (shared / "base").rglob("*")} == {
        str(file.relative_to(alone)) for file in (alone / "base").rglob("*")
    }


class Place:
    """A workspace with nothing but its configuration and rank."""

    def __init__(self, config: Experiment, rank: int = 0) -> None:
        self.config, self.rank = config, rank


def _diverge(place: Place) -> None:
    """The first device notices last, when the process of the second has ended."""
    while any(child.is_alive() for child in multiprocessing.active_children()):
        time.sleep(0.02)
    raise NonFiniteError("training loss nan between steps 0 and 2")


def test_a_training_that_diverges_is_said_of_itself_not_of_its_devices() -> None:
    config = Experiment(name="two", runtime=Runtime(devices=2, strategy="ddp"))
    with pytest.raises(NonFiniteError, match="training loss nan"):
        on_all(Place(config), _diverge)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_device_that_is_lost_is_said(shared: Path, shapes_root: Path, tmp_path: Path) -> None:
    """kill -9 of the second device's process: one line, and the same command goes on."""
    arguments = [*command(shapes_root, tmp_path), *FEW, *TWO]
    with subprocess.Popen(
        [sys.executable, "-m", "lovasz_repro", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        while not (tmp_path / "demo" / "base" / "fold0" / "resume.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (second,) = (
            int(pid) for pid in children
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
        )  # fmt: skip
        os.kill(second, signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 1
    assert "runtime.devices: the process of device 1 ended with -9" in said
    assert main(arguments) == 0
    assert contents(tmp_path / "demo") == contents(shared)
