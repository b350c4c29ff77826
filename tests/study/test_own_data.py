"""A data set that is not VOC: two classes of one's own, in VOC's layout, without folds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from lovasz_repro.__main__ import main
from lovasz_repro.config import Experiment, Network
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json
from lovasz_repro.models.deeplab import build
from lovasz_repro.records import load


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training and 8 val images with bright rows (1, lane) and a red square (2, cell.red)."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = {"train": [f"t{i:02}" for i in range(20)], "val": [f"v{i:02}" for i in range(8)]}
    for part, ids in names.items():
        (folder / f"ImageSets/Segmentation/{part}.txt").write_text("\n".join(ids) + "\n")
        for number, image_id in enumerate(ids):
            image = rng.integers(40, 90, (50, 70, 3), dtype=np.uint8)
            mask = np.zeros((50, 70), np.uint8)
            if number % 2 == 0:
                top = rng.integers(5, 30)
                image[top : top + 12] = 230
                mask[top : top + 12] = 1
            if number % 4 < 2:
                y, x = rng.integers(5, 25), rng.integers(5, 45)
                image[y : y + 18, x : x + 18] = (220, 20, 20)
                mask[y : y + 18, x : x + 18] = 2
            mask[:2] = 255
            Image.fromarray(image).save(folder / f"JPEGImages/{image_id}.jpg")
            Image.fromarray(mask).save(folder / f"SegmentationClass/{image_id}.png")
    return folder


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Path:
    settings = {
        "name": "mine",
        "runs": str(tmp_path / "runs"),
        "data": {
            "root": str(root), "classes": ["lane", "cell.red"], "train_list": "train",
            "val_list": "val", "cache": str(root / "cache"), "image_size": 73, "crop_size": 49,
        },
        "network": {
            "kind": "deeplab_v2", "backbone": "test_resnet", "train": "head",
            "freeze_batchnorm": False, "rates": [1, 2, 3, 4],
        },
        "base": {
            "train": "all",
            "optim": {"lr": 0.1, "backbone_lr_factor": 1.0, "steps": 60, "validate_every": 60},
        },
        "optim": {"lr": 0.03, "steps": 20, "validate_every": 10},
        "cells": {"losses": ["cross_entropy", "lovasz_hinge"]},
        "runtime": {"device": "cpu", "keep_weights": "best", "threads": 1},
    }  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_ones_own_classes(
    config: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "--root", str(root), "--classes", "[lane, cell.red]"]) == 0
    assert "cell.red" in capsys.readouterr().out
    fit = ["fit", "--config", str(config), "--category", "lane", "--loss", "lovasz_hinge"]
    assert main(fit) == 0
    assert main(["study", "--config", str(config)]) == 0
    run = tmp_path / "runs" / "mine"
    records = load(run)
    assert {cell.category for cell in records.results} == {"lane", "cell.red"}
    assert len(records.results) == 6
    assert set(records.bases[0]["iou"]) <= {"background", "lane", "cell.red"}
    assert records.bases[0]["miou"] > 0.5  # easy pictures
    table = pd.read_csv(run / "cells/cell.red/cross_entropy/fold0-seed0/images.csv")
    assert table["has_category"].tolist() == [1, 1, 0, 0] * 2
    assert read_json(run / "study.json")["config"]["data"]["classes"] == ["lane", "cell.red"]

    kept = {path.parents[2].name: path.parent for path in run.rglob("weights.safetensors")}
    assert set(kept) == {"lane", "cell.red"}
    command = ["predict", "--cell", str(kept["cell.red"]), str(root / "JPEGImages/v00.jpg")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out/masks/v00.png") as mask:
        assert set(np.unique(np.array(mask))) == {0, 2}
    report = ["report", "--runs", str(run), "--out", str(tmp_path / "report")]
    assert main(report) == 0
    assert "cell.red" in (tmp_path / "report/report.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.classes", "[lane]"], "label 2 in the mask; labels are 0 to 1 (lane)"),
        (["--data.classes", "[lane, lane]"], "data.classes: 'lane' is there twice"),
        (["--data.classes", "[background, x]"], "data.classes: 'background' cannot name"),
        (["--data.classes", "[../x]"], "data.classes: '../x' cannot name"),
        (["--data.classes", "[]"], "data.classes: 0 names"),
        (["--cells.categories", "[lame]"], "cells.categories: there is no 'lame'; did you mean"),
        (["--tuning.lrs", "[0.1]"], "tuning.categories: there is no 'aeroplane'"),
        (["--base.train", "none"], "base.train: none needs a network with weights"),
    ],
)  # fmt: skip
def test_a_wrong_class_list_is_refused_in_one_line(
    options: list[str], said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--config", str(config), "--category", "lane", "--loss", "hinge"]
    assert main([*command, *options]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len([line for line in error.splitlines() if not line.startswith("Base network")]) == 1


def test_published_weights_serve_other_labels_without_their_last_layer(tmp_path: Path) -> None:
    network = Network(kind="deeplabv3_mobilenetv2", output_stride=16, weights="unread")
    published = build(network, pretrained=False)
    path = tmp_path / "published.pth"
    torch.save(published.state_dict(), path)
    network = Network(kind="deeplabv3_mobilenetv2", output_stride=16, weights=str(path))
    mine = build(network, labels=3)
    last = [m for m in mine.head.modules() if isinstance(m, nn.Conv2d)][-1]
    assert last.out_channels == 3
    theirs = published.backbone.state_dict()
    for name, value in mine.backbone.state_dict().items():
        assert torch.equal(theirs[name], value)
    for name, value in build(network).head.state_dict().items():  # VOC's labels: all of it
        assert torch.equal(published.head.state_dict()[name], value)
    with pytest.raises(UserError, match=r"data\.classes; .* has VOC's 21"):
        build(network, labels=3, complete=True)


def test_the_hash_of_an_experiment_on_voc_is_what_it_was_before_there_were_classes() -> None:
    plain, named = Experiment("x"), Experiment("x")
    assert plain.cells.categories == plain.data.classes
    other = replace(named.data, classes=["lane"])
    changed = Experiment("x", data=other)
    assert changed.digest({}) != plain.digest({}) == named.digest({})
