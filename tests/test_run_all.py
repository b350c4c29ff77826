"""run_all.sh: arguments are checked before anything is installed; the report's folder is
that of the run. The programs it calls are replaced by ones that note their arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lovasz_repro.config import Experiment
from tests.helpers.places import ROOT

STUB = """#!/bin/sh
[ "$1" = -c ] && case "$2" in *sys.prefix*) echo "$HOME"; exit;; esac
echo "$(basename "$0") $*" >> "$HOME/calls"
case " $* " in *" --data.image_size=160 "*) echo "data.image_size" >&2; exit 1;; esac
"""


class Machine:
    """A copy of the files that run_all.sh reads, and programs that note what they are asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "lovasz_repro").mkdir()
        shutil.copytree(ROOT / "experiments", folder / "experiments")
        for name in ("run_all.sh", "pyproject.toml", "lovasz_repro/config.py"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "bin").mkdir()
        for name in ("python", "lovasz-repro", "conda"):
            (folder / "bin" / name).write_text(STUB)
            (folder / "bin" / name).chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "VIRTUAL_ENV": str(self.folder),
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
        (["--dryrun"], ["--dryrun", "--dry-run"]),
        (["demo", "--data.rot", "x"], ["--data.rot", "data.root"]),
        (["demo", "--optim.stepz=3"], ["--optim.stepz", "optim.steps"]),
        (["demo", "--runs"], ["--runs needs a value"]),
        (["demo", "--runs", "--name", "x"], ["--runs needs a value"]),
        (["demo", "elsewhere"], ["'elsewhere'"]),
        (["demo", "-n"], ["'-n'"]),
        (["demo", "--config", "other.yaml"], ["--config"]),
        (["demo", "--test"], ["--test goes first"]),
        (["nothing"], ["no experiment 'nothing'", "demo", "finetune"]),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_done(
    arguments: list[str], named: list[str], machine: Machine
) -> None:
    done = machine.run(*arguments)
    assert done.returncode == 1
    assert all(part in done.stderr for part in named), done.stderr
    assert machine.calls == []


@pytest.mark.parametrize(
    ("arguments", "runs", "report"),
    [
        ([], "runs/demo", "reports/demo"),
        (["--runs=x"], "x/demo", "reports/demo"),
        (["--runs", "x y"], "x y/demo", "reports/demo"),
        (["--name", "mine"], "runs/mine", "reports/mine"),
        (["--name=mine", "--runs", "x"], "x/mine", "reports/mine"),
        (["--runs=x", "--runs=z", "--optim.steps+=3"], "z/demo", "reports/demo"),
    ],
)
def test_the_report_is_that_of_the_run(
    arguments: list[str], runs: str, report: str, machine: Machine
) -> None:
    done = machine.run("demo", *arguments)
    assert done.returncode == 0, done.stderr
    study = " ".join(["lovasz-repro study --config experiments/demo.yaml", *arguments])
    assert machine.calls == [
        "python -m pip install --quiet -e .",
        f"{study} --check",
        "lovasz-repro data shapes --root data/shapes",
        study,
        f"lovasz-repro report --runs {runs} --out {report}",
    ]


@pytest.mark.parametrize(
    "data",
    ["{root: mine, classes: [road]}", "{classes: [road], root: mine}",
     "\n  classes: [road]\n  root: mine"],
)  # fmt: skip
def test_own_data_is_looked_for_where_the_file_says(data: str, machine: Machine) -> None:
    """In either style of YAML; and VOC is never downloaded for it."""
    path = machine.folder / "experiments/lanes.yaml"
    path.write_text(f"name: lanes\ndata: {data}\n".replace(": \n", ":\n"))
    done = machine.run("lanes")
    assert done.returncode == 1
    assert "no data in mine" in done.stderr
    assert "how long it takes is not known" in done.stdout
    (machine.folder / "mine/JPEGImages").mkdir(parents=True)
    done = machine.run("lanes")
    assert done.returncode == 0, done.stderr
    assert not any("data fetch" in call for call in machine.calls)


def test_a_wrong_value_is_found_before_data_is_made(machine: Machine) -> None:
    done = machine.run("demo", "--data.image_size=160")
    assert done.returncode == 1
    assert "data.image_size" in done.stderr
    assert not any("data shapes" in call for call in machine.calls)


def test_every_key_of_the_configuration_is_known(machine: Machine) -> None:
    """The shell reads the keys from config.py's text; dataclasses know them from its types."""
    from dataclasses import fields, is_dataclass
    from typing import Any, get_type_hints

    def keys(group: Any, prefix: str = "") -> list[str]:
        types = get_type_hints(group)
        found = []
        for field in fields(group):
            found.append(prefix + field.name)
            if is_dataclass(types[field.name]):
                found += keys(types[field.name], f"{prefix}{field.name}.")
        return found

    flags = [f"--{key}=1" for key in keys(Experiment)]
    assert len(flags) > 50
    done = machine.run("demo", "--dry-run", *flags)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_installs_nothing(machine: Machine) -> None:
    for arguments in (["--dry-run", "demo"], ["demo", "--dry-run", "--data.root=nowhere"]):
        done = machine.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "would run: lovasz-repro study" in done.stdout
    assert machine.calls == []


def test_help(machine: Machine) -> None:
    for arguments in (["--help"], ["demo", "-h"]):
        assert "usage:" in machine.run(*arguments).stdout
    assert machine.calls == []
