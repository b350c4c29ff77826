"""The command line: every shipped experiment, and what it says of bad input."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from lovasz_repro.__main__ import main
from lovasz_repro.config import Network
from lovasz_repro.deeplab import build
from lovasz_repro.records import read_json

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
SHORT = [
    "--base.optim.steps=2", "--base.optim.validate_every=2", "--base.optim.batch_size=2",
    "--optim.steps=2", "--optim.validate_every=1", "--optim.batch_size=2",
    "--data.image_size=65", "--data.crop_size=65", "--runtime.device=cpu",
    "--runtime.precision=32-true", "--tuning.lrs=[]", "--data.train_list=fold{fold}_train",
    "--data.val_list=fold{fold}_val", "--cells.folds=[0]",
    "--optim.lr=1e-9",  # random weights in a network made for good ones explode at more
]  # fmt: skip


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files with random weights in place of those that are downloaded."""
    folder = tmp_path_factory.mktemp("weights")

    def make(experiment: str) -> Path:
        config = yaml.safe_load((ROOT / "experiments" / f"{experiment}.yaml").read_text())
        network = Network(**{**config["network"], "weights": None})
        path = folder / f"{network.kind}-{network.backbone}.pth"
        if not path.exists():
            model = build(network, pretrained=False)
            is_timm = network.kind == "deeplab_v2"
            module = model.backbone.get_submodule("model") if is_timm else model
            state = module.state_dict()
            if not is_timm:  # as torchvision's own file names them
                state = {
                    key.replace("backbone.model.", "backbone.").replace("head.", "classifier."): v
                    for key, v in state.items()
                    if key not in ("mean", "std")
                }
            torch.save(state, path)
        return path

    return make


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_runs_a_shortened_cell(
    path: Path, shapes_root: Path, tmp_path: Path, weights: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = [
        "fit", "--config", str(path), "--category", "bird", "--loss", "lovasz_hinge",
        "--data.root", str(shapes_root), "--data.cache", str(tmp_path / "cache"),
        "--runs", str(tmp_path / "runs é"), *SHORT,
    ]  # fmt: skip
    if path.stem != "demo":
        command += ["--network.weights", str(weights(path.stem))]
    assert main(command) == 0
    folder = tmp_path / "runs é" / path.stem / "cells" / "bird" / "lovasz_hinge" / "fold0-seed0"
    assert read_json(folder / "result.json")["steps"] == 2
    assert "image-IoU" in capsys.readouterr().out


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_opens_with_command_hardware_and_time(path: Path) -> None:
    head = path.read_text().split("name:")[0]
    assert f"./run_all.sh {path.stem}" in head
    assert any(word in head for word in ("minutes", "hours"))
    assert any(word in head for word in ("CPU", "GPU"))


DEMO = ["fit", "--config", str(ROOT / "experiments" / "demo.yaml")]
CELL = ["--category", "bird", "--loss", "hinge"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*DEMO, *CELL, "--data.rot", "x"], ["unknown key data.rot", "data.root", "data.cache"]),
        ([*DEMO, *CELL, "--stepz", "3"], ["unknown key stepz", "optim", "network"]),
        ([*DEMO, *CELL, "--optim.steps", "many"], ["optim.steps", "int", "many"]),
        ([*DEMO, *CELL, "--optim.steps", "50"], ["steps: 50 is not a positive multiple", "20"]),
        ([*DEMO, *CELL, "--data.image_size", "160"], ["data.image_size: 160", "8, plus 1"]),
        ([*DEMO, "--category", "dragon", "--loss", "hinge"], ["no 'dragon'", "aeroplane", "sheep"]),
        ([*DEMO, "--category", "cat", "--loss", "dice"], ["no 'dice'", "lovasz_hinge", "mixed"]),
        ([*DEMO, *CELL, "--fold", "7"], ["fold: there is no 7", "[0, 1]"]),
        ([*DEMO, *CELL, "--data.root", "nowhere"], ["nowhere", "data fetch --root nowhere"]),
        ([*DEMO, *CELL, "--data.val_list", "x"], ["x.txt", "fold0_val"]),
        ([*DEMO, *CELL, "--network.weights", "w.pth"], ["network.weights", "no file w.pth"]),
        (["fit", "--config", "experiments/x.yaml", *CELL], ["x.yaml", "does not exist", "demo"]),
        (["report", "--runs", "nowhere", "--out", "x"], ["nowhere", "study.json"]),
        (["data", "check", "--root", "nowhere"], ["nowhere", "data fetch"]),
    ],
)
def test_bad_input_is_explained(
    arguments: list[str], said: list[str], shapes_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)
    if arguments[0] == "fit":
        arguments = [*arguments, "--runs", str(tmp_path), "--data.cache", str(tmp_path / "cache")]
        if "--data.root" not in arguments:
            arguments += ["--data.root", str(shapes_root)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    for words in said:
        assert words in error
    assert "Traceback" not in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_asked_for_and_absent(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--data.root", str(shapes_root), "--runs", str(tmp_path)]
    assert main([*DEMO, *CELL, *root, "--runtime.device", "cuda"]) == 1
    assert "torch sees no CUDA GPU" in capsys.readouterr().err


def test_other_settings_are_never_mixed_into_a_folder(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        *DEMO, *CELL, *SHORT, "--data.root", str(shapes_root), "--runs", str(tmp_path),
        "--data.cache", str(tmp_path / "cache"),
    ]  # fmt: skip
    assert main(common) == 0
    assert main([*common, "--optim.lr", "0.3"]) == 1
    error = capsys.readouterr().err
    assert "optim.lr: 1e-09 there, 0.3 now" in error
    assert "--runs" in error


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda jpeg, mask: jpeg.write_bytes(jpeg.read_bytes()[:400]), "jpg"),
        (lambda jpeg, mask: shutil.copy(jpeg, mask), "png"),
        (lambda jpeg, mask: mask.unlink(), "png"),
    ],
)
def test_fit_names_a_damaged_file(
    damage: Callable[[Path, Path], object], named: str, shapes_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = tmp_path / "damaged"
    shutil.copytree(shapes_root, root)
    voc = root / "VOCdevkit" / "VOC2012"
    image = "train_000003"
    damage(voc / "JPEGImages" / f"{image}.jpg", voc / "SegmentationClass" / f"{image}.png")
    where = ["--data.root", str(root), "--runs", str(tmp_path), "--data.cache", str(tmp_path)]
    assert main([*DEMO, *CELL, *SHORT, *where]) == 1
    assert f"{image}.{named}" in capsys.readouterr().err


def test_data_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path / "s")]
    assert main(["data", "shapes", *root]) == 0
    assert main(["data", "check", *root]) == 0
    (tmp_path / "s/VOCdevkit/VOC2012/JPEGImages/val_000001.jpg").unlink()
    assert main(["data", "check", *root]) == 1
    assert "val_000001.jpg" in capsys.readouterr().out


def test_run_all_lists_the_experiments() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "run_all.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "usage:" in run("--help").stdout
    unknown = run("nothing")
    assert unknown.returncode == 1
    assert "there is demo finetune head paper" in unknown.stderr
