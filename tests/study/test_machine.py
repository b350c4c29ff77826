"""What `machine.json` says of the code that made a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from lovasz_repro.study import machine
from lovasz_repro.study.machine import describe_machine


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=n", "-c", "user.email=e"]
    command = ["git", "-C", str(folder), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def of_the_code() -> tuple[object, object]:
    said = describe_machine(torch.device("cpu"))
    return said["commit"], said["dirty"]


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert of_the_code() == (None, None)


def test_a_commit_is_that_of_the_packages_own_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of another project, in whose folder the package may be installed."""
    package = tmp_path / "environment" / "lovasz_repro"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(machine, "PACKAGE", package)
    assert of_the_code() == (None, None)
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "another project")
    assert of_the_code() == (None, None)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "the package")
    assert of_the_code() == (git(tmp_path, "rev-parse", "HEAD"), False)
    (package / "__init__.py").write_text("changed = True\n")
    assert of_the_code() == (git(tmp_path, "rev-parse", "HEAD"), True)
