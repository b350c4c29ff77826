"""A study on a CUDA GPU, on generated shapes. Without a GPU all of it is left out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
import torch

from lovasz_repro.__main__ import main
from lovasz_repro.config import Experiment
from lovasz_repro.files import read_json
from lovasz_repro.records import Cell
from tests.helpers.studies import Killed, command, contents, kill_at, run, tiny

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU: nothing is tested on one here", allow_module_level=True)
CELL = Cell("bird", "lovasz_hinge", 0, 0)
RECORDS = ("images.csv", "thresholds.csv", "curve.csv", "result.json", "predictions.npz")


def on_gpu(
    root: Path, where: Path, train: Literal["all", "head"] = "all",
    precision: Literal["32-true", "bf16-mixed"] = "32-true", steps: int = 6, every: int = 2,
) -> Experiment:  # fmt: skip
    config = tiny(root, where, train, steps=steps, validate_every=every)
    cache = replace(config.data, cache=str(where / "cache"))
    runtime = replace(config.runtime, device="cuda", precision=precision)
    return replace(config, data=cache, runtime=runtime)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("train", ["all", "head"])
def test_a_cell_gives_the_same_bytes_twice(
    shapes_root: Path, tmp_path: Path, train: Literal["all", "head"],
    precision: Literal["32-true", "bf16-mixed"],
) -> None:  # fmt: skip
    first, second = (
        run(on_gpu(shapes_root, tmp_path / name, train, precision), CELL) for name in "ab"
    )
    for name in RECORDS:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_stopped_cell_goes_on_to_the_same_bytes(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(on_gpu(shapes_root, tmp_path / "whole"), CELL)
    config = on_gpu(shapes_root, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        kill_at(3, patch, steps=config.optim.steps)
        with pytest.raises(Killed):
            run(config, CELL)
    stopped = run(config, CELL)
    for name in RECORDS:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name


def test_the_gpu_agrees_with_the_cpu(shapes_root: Path, tmp_path: Path) -> None:
    gpu = on_gpu(shapes_root, tmp_path / "gpu")
    cpu = replace(gpu, runs=str(tmp_path / "cpu"), runtime=replace(gpu.runtime, device="cpu"))
    images, curves = (
        [pd.read_csv(run(config, CELL) / name) for config in (gpu, cpu)]
        for name in ("images.csv", "curve.csv")
    )
    assert list(images[0]["id"]) == list(images[1]["id"])
    assert images[0]["iou"].mean() == pytest.approx(images[1]["iou"].mean(), abs=0.05)
    assert curves[0]["train_loss"].to_numpy() == pytest.approx(
        curves[1]["train_loss"].to_numpy(), rel=0.05
    )


def test_steps_do_not_wait_for_the_gpu(shapes_root: Path, tmp_path: Path) -> None:
    """What waits does so at a validation or where the loss is logged, at every tenth step."""
    waits = []
    for steps in (40, 80):
        config = on_gpu(shapes_root, tmp_path / str(steps), steps=steps, every=steps)
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")  # it warns itself
                run(config, CELL)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing" in str(warning.message) for warning in seen))
    assert waits[0] > 0
    assert waits[1] - waits[0] < 40 / 2  # for 40 more steps


def test_a_study_with_two_workers(shapes_root: Path, tmp_path: Path) -> None:
    def study(name: str, workers: str) -> Path:
        arguments = command(shapes_root, tmp_path / name)
        arguments[arguments.index("--runtime.device") + 1] = "cuda"
        arguments[arguments.index("--data.cache") + 1] = str(tmp_path / "cache")
        assert main([*arguments, "--runtime.workers", workers]) == 0
        return tmp_path / name

    one, two = study("one", "1"), study("two", "2")
    assert contents(one) == contents(two)
    assert torch.cuda.get_device_name() == read_json(one / "demo" / "machine.json")["device"]
