"""What TensorBoard, the CSV file and W&B get of one `fit`."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import loggers as lightning
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lovasz_repro.__main__ import main
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json
from lovasz_repro.training.logs import make_loggers
from tests.helpers.places import ROOT

FINALS = {"final/image_iou", "final/tuned_image_iou", "final/dataset_iou"}


@pytest.fixture(scope="module")
def run(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder after one `fit`."""
    runs = tmp_path_factory.mktemp("logs")
    command = [
        "fit", "--config", str(ROOT / "experiments" / "demo.yaml"), "--runs", str(runs),
        "--data.root", str(shapes_root), "--data.cache", str(shapes_root / "cache"),
        "--data.image_size=81", "--data.crop_size=65", "--base.optim.steps=4",
        "--base.optim.validate_every=2", "--optim.steps=4", "--optim.validate_every=2",
        "--tuning.lrs=[]", "--tuning.steps=[]", "--runtime.device=cpu", "--runtime.threads=1",
        "--category=bird", "--loss=hinge",
    ]  # fmt: skip
    assert main(command) == 0
    return runs / "demo"


def events(folder: Path) -> Any:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_custom_scalars_have_a_chart_after_one_fit(run: Path) -> None:
    found = events(run / "tensorboard/overview/hinge")
    layout = layout_pb2.Layout()
    summary = found.Tensors("custom_scalars__config__")[0].tensor_proto
    layout.ParseFromString(summary.string_val[0])
    (chart,) = layout.category[0].chart
    assert chart.title == "bird"
    assert found.Scalars(chart.multiline.tag[0])


def test_hparams_name_the_metrics_that_the_run_has(run: Path) -> None:
    """TensorBoard takes the names from the first run that has some: no run may have others."""
    named = []
    for folder in {path.parent for path in (run / "tensorboard").rglob("events.*")}:
        found = events(folder)
        hparams = found.summary_metadata
        if "_hparams_/experiment" in hparams:
            data = HParamsPluginData.FromString(hparams["_hparams_/experiment"].plugin_data.content)
            metrics = {info.name.tag for info in data.experiment.metric_infos}
            assert metrics == FINALS
            assert metrics <= set(found.Tags()["scalars"])
            assert "hp_metric" not in found.Tags()["scalars"]
            named.append(folder)
    assert named == [run / "tensorboard/bird/hinge/fold0-seed0"]


def test_the_base_is_there_and_no_chart_of_the_epoch(run: Path) -> None:
    base = set(events(run / "tensorboard/base/fold0").Tags()["scalars"])
    assert {"train/loss", "val/miou", "final/miou"} <= base
    for path in (run / "tensorboard").rglob("events.*"):
        assert "epoch" not in events(path.parent).Tags()["scalars"]


def test_validation_is_drawn_at_the_number_of_steps_done(run: Path) -> None:
    found = events(run / "tensorboard/bird/hinge/fold0-seed0")
    for tag in ("val/image_iou", "val/lovasz_hinge", "train/images_per_second"):
        assert [point.step for point in found.Scalars(tag)] == [2, 4], tag
    assert "step" not in found.Tags()["scalars"]
    with (run / "cells/bird/hinge/fold0-seed0/curve.csv").open() as file:
        curve = [float(row["image_iou"]) for row in csv.DictReader(file)]
    assert [point.value for point in found.Scalars("val/image_iou")] == pytest.approx(curve)


def test_the_csv_file_has_the_final_measures(run: Path) -> None:
    folder = "bird/hinge/fold0-seed0"
    with (run / "tensorboard" / folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    result = read_json(run / "cells" / folder / "result.json")
    assert float(rows[-1]["final/image_iou"]) == pytest.approx(result["image_iou"])
    assert sum(row["val/image_iou"] != "" for row in rows) == 2


def test_no_logger_is_an_answer_too(tmp_path: Path) -> None:
    assert make_loggers([], tmp_path, "bird", "hinge") == []
    assert list(tmp_path.iterdir()) == []


def test_wandb_by_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="wandb is not installed: pip install wandb"):
            make_loggers(["wandb"], tmp_path, "bird", "hinge/fold0-seed0")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(lightning, "WandbLogger", lambda **rest: asked.update(rest))
    make_loggers(["wandb"], tmp_path / "demo", "bird", "hinge/fold0-seed0")
    assert asked["project"] == "demo"
    assert asked["name"] == "bird/hinge/fold0-seed0"
