"""run_all.sh: arguments are checked before anything is downloaded; the report's folder is that of
the run. The programs it calls are replaced by ones that note their arguments; only `lovasz-repro
study --check` is the real one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

STUB = """#!/bin/sh
[ "$1" = -c ] && case "$2" in *sys.prefix*) echo "$HOME"; exit;; *torch.cuda*) exit $NO_GPU;; esac
case " $* " in *" --check "*) exec $REAL -m lovasz_repro "$@";; esac
echo "$(basename "$0") $*" >> "$HOME/calls"
"""


class Machine:
    """A copy of the files that run_all.sh reads, and programs that note what they are asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "experiments", folder / "experiments")
        for name in ("run_all.sh", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "bin").mkdir()
        for name in ("python", "lovasz-repro", "conda"):
            (folder / "bin" / name).write_text(STUB)
            (folder / "bin" / name).chmod(0o755)

    def run(self, *arguments: str, gpu: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "NO_GPU": str(int(not gpu)),
            "VIRTUAL_ENV": str(self.folder),
            "REAL": sys.executable,
            "PYTHONPATH": str(ROOT),
        }
        command = ["bash", str(self.folder / "run_all.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["demo", "--data.rot", "x"], ["data.rot", "data.root"]),
        (["demo", "--runs"], ["--runs", "expected one argument"]),
        (["demo", "--test"], ["test"]),
        (["nothing"], ["no experiment 'nothing'", "demo", "finetune"]),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_downloaded(
    arguments: list[str], named: list[str], machine: Machine
) -> None:
    done = machine.run(*arguments)
    assert done.returncode == 1
    assert all(part in done.stderr for part in named), done.stderr
    assert all("pip install" in call for call in machine.calls)


@pytest.mark.parametrize(
    ("arguments", "runs", "report"),
    [
        ([], "runs/demo", "reports/demo"),
        (["--name=mine", "--runs", "x y"], "x y/mine", "reports/mine"),
        (["--runs=x", "--runs=z", "--cells.seeds+=3"], "z/demo", "reports/demo"),
    ],
)
def test_the_report_is_that_of_the_run(
    arguments: list[str], runs: str, report: str, machine: Machine
) -> None:
    done = machine.run("demo", *arguments)
    assert done.returncode == 0, done.stderr
    study = " ".join(["lovasz-repro study --config experiments/demo.yaml", *arguments])
    assert machine.calls == [
        "python -m pip install --quiet -e .[weights]",
        "lovasz-repro data shapes --root data/shapes",
        study,
        f"lovasz-repro report --runs {runs} --out {report}",
    ]


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_downloaded(machine: Machine) -> None:
    done = machine.run("paper", gpu=False)
    assert done.returncode == 1
    assert "paper needs a GPU, and torch sees none" in done.stderr
    assert not any("lovasz-repro" in call for call in machine.calls)
    assert machine.run("paper", "--runtime.device", "cpu", gpu=False).returncode == 0
    assert any("lovasz-repro data fetch" in call for call in machine.calls)


def test_own_data_is_looked_for_where_the_file_says(machine: Machine) -> None:
    """VOC is never downloaded for it."""
    path = machine.folder / "experiments/lanes.yaml"
    path.write_text("name: lanes\ndata: {root: mine, classes: [road]}\n")
    done = machine.run("lanes")
    assert done.returncode == 1
    assert "no data in mine" in done.stderr
    assert "how long it takes is not known" in done.stdout
    (machine.folder / "mine/JPEGImages").mkdir(parents=True)
    done = machine.run("lanes")
    assert done.returncode == 0, done.stderr
    assert not any("data fetch" in call for call in machine.calls)


def test_missing_weights_are_made_where_the_experiment_wants_them(machine: Machine) -> None:
    (machine.folder / "data/voc/VOCdevkit/VOC2012/JPEGImages").mkdir(parents=True)
    makes = "lovasz-repro data weights deeplabv3_mobilenetv2_voc --root data/weights"
    assert machine.run("finetune").returncode == 0
    assert machine.calls.count(makes) == 1
    assert machine.calls.index(makes) < len(machine.calls) - 2  # study and report follow
    machine.run("finetune", "--network.weights", "mine/own.pth")
    weights = machine.folder / "data/weights/deeplabv3_mobilenetv2_voc.pth"
    weights.parent.mkdir()
    weights.touch()
    machine.run("finetune")
    assert machine.calls.count(makes) == 1


def test_a_dry_run_installs_nothing(machine: Machine) -> None:
    for arguments in (["--dry-run", "demo"], ["demo", "--dry-run", "--data.root=nowhere"]):
        done = machine.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "would run: lovasz-repro study" in done.stdout
        assert "would make the data in" in done.stdout
    assert machine.calls == []


def test_a_dry_run_without_an_installation_says_so(machine: Machine) -> None:
    (machine.folder / "bin/lovasz-repro").unlink()
    done = machine.run("demo", "--dry-run", "--runs=elsewhere")
    assert done.returncode == 0, done.stderr
    assert "would install lovasz_repro first" in done.stdout
    assert done.stdout.endswith("study --config experiments/demo.yaml --runs=elsewhere\n")


def test_help(machine: Machine) -> None:
    for arguments in (["--help"], ["demo", "-h"]):
        assert "usage:" in machine.run(*arguments).stdout
    assert machine.calls == []
