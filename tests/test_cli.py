"""The command line: every shipped experiment, and what it says of bad input."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lovasz_repro.__main__ import main
from lovasz_repro.config import Network
from lovasz_repro.data.shapes import generate
from lovasz_repro.files import read_json
from lovasz_repro.losses import LOSSES, hinge
from lovasz_repro.models.deeplab import build
from lovasz_repro.options import parser
from tests.helpers.places import ROOT

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
SHORT = [
    "--base.optim.steps=2", "--base.optim.validate_every=2", "--base.optim.batch_size=2",
    "--optim.steps=2", "--optim.validate_every=2", "--optim.batch_size=2",
    "--data.image_size=65", "--data.crop_size=65", "--runtime.device=cpu",
    "--runtime.precision=32-true", "--tuning.lrs=[]", "--tuning.steps=[]",
    "--data.train_list=fold{fold}_train", "--data.val_list=fold{fold}_val", "--cells.folds=[0]",
    "--optim.lr=1e-9",  # random weights in a network made for good ones explode at more
]  # fmt: skip


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files with random weights in place of those that are downloaded."""
    folder = tmp_path_factory.mktemp("weights")

    def make(experiment: str) -> Path:
        config = yaml.safe_load((ROOT / "experiments" / f"{experiment}.yaml").read_text())
        network = Network(**{**config["network"], "weights": "made here"})
        path = folder / f"{network.kind}-{network.backbone}.pth"
        if not path.exists():
            model = build(network, pretrained=False)
            is_timm = network.kind == "deeplab_v2"
            module = model.backbone.get_submodule("model") if is_timm else model
            state = module.state_dict()
            torch.save(state, path)
        return path

    return make


@pytest.mark.parametrize(
    "path",
    # ResNet-101 writes gigabytes of checkpoints.
    [pytest.param(p, marks=pytest.mark.slow) if p.stem == "paper" else p for p in EXPERIMENTS],
    ids=lambda path: path.stem,
)
def test_every_experiment_runs_a_shortened_cell(
    path: Path, shapes_root: Path, tmp_path: Path, weights: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    multiclass = yaml.safe_load(path.read_text()).get("task") == "multiclass"
    category, loss = ("all", "lovasz_softmax") if multiclass else ("bird", "lovasz_hinge")
    command = [
        "fit", "--config", str(path), "--category", category, "--loss", loss,
        "--data.root", str(shapes_root), "--data.cache", str(tmp_path / "cache"),
        "--runs", str(tmp_path / "runs é"), *SHORT,
    ]  # fmt: skip
    if path.stem != "demo":
        command += ["--network.weights", str(weights(path.stem))]
    if multiclass:  # 2 images a step are not seen in whole steps of 40
        command += ["--cells.losses", f"[{loss}]"]
    assert main(command) == 0
    folder = tmp_path / "runs é" / path.stem / "cells" / category / loss / "fold0-seed0"
    assert read_json(folder / "result.json")["steps"] == 2
    assert ("mIoU" if multiclass else "image-IoU") in capsys.readouterr().out


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
        (["study", *DEMO[1:], "--dry-rn"], ["unknown key dry-rn: did you mean dry-run"]),
        (
            [*DEMO, *CELL, "--network.kind", "deeplabv3_resnet101"],
            ["network.freeze_batchnorm: deeplabv3_resnet101 always freezes it"],
        ),
        ([*DEMO, *CELL, "--data.cropsize", "9"], ["did you mean data.crop_size"]),
        (
            [*DEMO, *CELL, "--batch_size", "9"],
            ["did you mean base.optim.batch_size or optim.batch"],
        ),
        ([*DEMO, *CELL, "--optim.steps", "many"], ["optim.steps: 'many' is not a whole number"]),
        ([*DEMO, *CELL, "--optim.lr", "many"], ["optim.lr: 'many' is not a number"]),
        (
            [*DEMO, *CELL, "--network.train", "hed"],
            ["network.train: there is no 'hed'; did you mean"],
        ),
        ([*DEMO, *CELL, "--data.scale", "[1, 2, 3]"], ["data.scale", "is not a list of 2 values"]),
        (
            [*DEMO, *CELL, "--cells.losses", "hinge"],
            ["cells.losses: 'hinge' is not a list such as"],
        ),
        (
            [*DEMO, *CELL, "--runtime.threads", "x"],
            ["runtime.threads: 'x' is not a whole number or"],
        ),
        ([*DEMO, *CELL, "--optim", "x.yaml"], ["optim: 'x.yaml' is neither a YAML file nor"]),
        (DEMO, ["missing: --category, --loss"]),
        (["fit", *CELL], ["missing: --name; --config with a file"]),
        (["data"], ["missing: a command; there is fetch, check, shapes, weights"]),
        (["stud"], ["no 'stud'; did you mean study?"]),
        (["data", "chek"], ["no 'chek'; did you mean check?"]),
        (
            ["report", "--runz", "x"],
            ["unknown key runz: did you mean runs? There is runs, compare"],
        ),
        (
            ["study", *DEMO[1:], "--launcher", "rai"],
            ["launcher: there is no 'rai'; did you mean ray?"],
        ),
        ([*DEMO, *CELL, "--optim.steps", "50"], ["steps: 50 is not a positive multiple", "20"]),
        ([*DEMO, *CELL, "--base.optim.lr", "-1"], ["base.optim.lr: -1.0 is not a positive"]),
        ([*DEMO, *CELL, "--optim.drop_at", "0"], ["optim.drop_at: 0.0 is not in"]),
        (
            ["fit", DEMO[-1], *CELL],
            ["experiments/demo.yaml: not expected here", "is given by --config"],
        ),
        (["fit", "--conf", DEMO[-1], *CELL], ["unknown key conf: did you mean config"]),
        (
            ["predict", "x", "--cell", "x", "--out", "x", "--threshold", "best"],
            ["threshold: 'best' is not a number or tuned"],
        ),
        (
            [*DEMO, "--category", "cat", "--loss", "lovasz_softmax"],
            ["no 'lovasz_softmax'", "A study with task: multiclass has it"],
        ),
        ([*DEMO, *CELL, "--data.image_size", "160"], ["data.image_size: 160", "8, plus 1"]),
        ([*DEMO, "--category", "areoplane", "--loss", "hinge"], ["did you mean aeroplane?"]),
        ([*DEMO, "--category", "cat", "--loss", "lovasz"], ["did you mean lovasz_hinge"]),
        ([*DEMO, "--category", "dragon", "--loss", "hinge"], ["no 'dragon'", "aeroplane", "sheep"]),
        ([*DEMO, "--category", "cat", "--loss", "dice"], ["no 'dice'", "lovasz_hinge", "mixed"]),
        ([*DEMO, *CELL, "--fold", "7"], ["fold: there is no 7", "there is 0, 1"]),
        ([*DEMO, *CELL, "--seed", "-1"], ["seed: -1 is not from 0 to 2^53"]),
        ([*DEMO, *CELL, "--data.root", "nowhere"], ["nowhere", "data fetch --root nowhere"]),
        ([*DEMO, *CELL, "--data.val_list", "x"], ["x.txt", "fold0_val"]),
        ([*DEMO, *CELL, "--network.weights", "w.pth"], ["network.weights", "no file w.pth"]),
        (["fit", "--config", "experiments/x.yaml", *CELL], ["x.yaml", "does not exist", "demo"]),
        (["report", "--runs", "nowhere", "--out", "x"], ["nowhere", "study.json"]),
        (["report", "--runs", "reports/head", "--out", "x"], ["reports/head/records.zip holds"]),
        (["data", "check", "--root", "nowhere"], ["nowhere", "data fetch"]),
        (["data", "check", "--cache", "lovasz_repro"], ["lovasz_repro: no cache in it"]),
        (["study", *DEMO[1:], "--verbose"], ["--verbose: belongs to --dry-run"]),
        (["bench", "loss", "--rounds", "0"], ["--rounds: 0 is not positive"]),
        (["bench", "train", *DEMO[1:], "--steps", "0"], ["--steps: 0 is not positive"]),
        (
            ["predict", "--cell", "x", "--out", "x", "y", "--threshold", ".nan"],
            ["--threshold: nan is not finite"],
        ),
    ],
)
def test_bad_input_is_explained(
    arguments: list[str], said: list[str], shapes_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)
    if arguments[:1] == ["fit"]:
        arguments = [*arguments, "--runs", str(tmp_path), "--data.cache", str(tmp_path / "cache")]
        if "--data.root" not in arguments:
            arguments += ["--data.root", str(shapes_root)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    for words in said:
        assert words in error
    assert "Traceback" not in error
    assert not re.search(r"typing\.|Literal|<class|Parser key|fit\.", error)
    assert error.count("\n") == 1


def test_a_registered_loss_that_cannot_name_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is written: its cells would lie elsewhere, and no report could read them."""
    monkeypatch.setitem(LOSSES, "own/loss", hinge)
    arguments = ["--category", "bird", "--loss", "own/loss", "--runs", str(tmp_path)]
    assert main([*DEMO, *arguments]) == 1
    assert "loss: 'own/loss' is to be the name of a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: [x\n", ": not YAML: "),
        (b"\x89PNG\x00\xff", ": not a text file in UTF-8"),
        (b"", ": holds no keys of an experiment"),
        (b"- name\n", ": holds no keys of an experiment"),
        (b"name: x\ndata: 5\n", ", line 2: data is a section; under it belong root, classes"),
        (b"name: x\nbase:\n  optim:\n", ", line 3: base.optim is a section; under it belong lr"),
        (b"name: x\noptim: {lr: 1, lr: 2}\n", ", line 2: optim.lr is there twice"),
        (b"name: x\nname: y\n", ", line 2: name is there twice"),
    ],
)
def test_what_is_wrong_with_a_configuration_file(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    assert main(["study", f"--config={tmp_path / 'mine.yaml'}"]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'mine.yaml'}{said}" in error
    assert error.count("\n") == 1


def test_the_command_line_needs_no_torch_to_describe_itself() -> None:
    code = """
import sys
from lovasz_repro.options import parser
parser().format_help()
print({"torch", "pytorch_lightning", "pandas", "matplotlib"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_help_describes_every_command_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    """An option whose help is its type and default alone has no description in a docstring."""
    top = parser()
    undescribed: list[str] = []

    def look(command: Any, path: str) -> None:
        if command._subcommands_action is not None:
            choices = command._subcommands_action._choices_actions
            undescribed.extend(f"{path} {c.dest}" for c in choices if not c.help)
            for name, one in command._subcommands_action.choices.items():
                look(one, f"{path} {name}")
            return
        assert command.description
        undescribed.extend(
            f"{path} {action.dest}" for action in command._actions if not action.help
        )

    look(top, "lovasz-repro")
    assert undescribed == []
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    out = capsys.readouterr().out
    assert "longest side in the cache in pixels" in " ".join(out.split())


def test_help_writes_types_as_a_person_does(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fit", "predict", "report", "data shapes", "bench gpu"):
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        out = capsys.readouterr().out
        assert not re.search("Literal|<class", out), command
        assert command == "fit" or "type: Path" in " ".join(out.split())


def test_all_commands_are_named_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command as with --help: each on a line of its own with words beside it."""
    with pytest.raises(SystemExit):
        main(["--help"])
    asked = capsys.readouterr().out
    assert main([]) == 1
    error = capsys.readouterr().err
    assert asked in error
    names = ["fit", "study", "predict", "report", "data", "bench"]
    assert re.findall(r"^    (\w+) +\w.* \w+", asked, re.MULTILINE) == names
    assert error.splitlines()[-1].endswith(f"missing: a command; there is {', '.join(names)}")


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
    assert main([*common, "--optim.momentum", "0.5"]) == 1
    error = capsys.readouterr().err
    assert "optim.momentum: 0.9 there, 0.5 now" in error
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


def test_data_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = {**(generate.__kwdefaults__ or {}), "train": 8, "val": 6}
    monkeypatch.setattr(generate, "__kwdefaults__", fewer)
    root = ["--root", str(tmp_path / "s")]
    assert main(["data", "shapes", *root]) == 0
    assert main(["data", "check", *root]) == 0
    (tmp_path / "s/VOCdevkit/VOC2012/JPEGImages/val_000001.jpg").unlink()
    assert main(["data", "check", *root]) == 1
    assert "val_000001.jpg" in capsys.readouterr().out
