"""What `machine.json` says of the code that made a run, and of the time that it took."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lovasz_repro.files import read_json
from lovasz_repro.study import machine
from lovasz_repro.study.launch import held
from lovasz_repro.study.machine import FILE, Session, describe_machine, note_machine
from lovasz_repro.study.workspace import Workspace
from tests.helpers.studies import tiny


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


def test_a_study_that_goes_on_at_another_commit_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes_root: Path
) -> None:
    workspace = Workspace(tiny(shapes_root, tmp_path))
    for commit in ("a" * 40, "a" * 40, "b" * 40, "c" * 40):
        now = {
            "commit": commit,
            "processor": "x86",
            "device": "cpu",
            "started": f"2026-01-0{'abc'.index(commit[0]) + 1}T10:00:00Z",
        }
        monkeypatch.setattr(machine, "describe_machine", lambda device, now=now: dict(now))
        note_machine(workspace)
    there = read_json(workspace.folder / "machine.json")
    assert there["commit"] == "c" * 40
    assert [e["commit"][0] for e in there["earlier"]] == ["a", "b"]
    assert there["earlier"][0]["started"].startswith("2026-01-01")
    now["processor"] = "arm"
    note_machine(workspace)
    there = read_json(workspace.folder / "machine.json")
    assert [e["processor"] for e in there["earlier"]] == ["x86"] * 3
    assert there["processor"] == "arm"
    now["device"] = "a GPU"
    note_machine(workspace)
    there = read_json(workspace.folder / "machine.json")
    assert [e["device"] for e in there["earlier"]] == ["cpu"] * 4
    assert there["device"] == "a GPU"


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the clock, and the commit that is at work."""

    def at(time: str, commit: str = "a") -> None:
        now = datetime.datetime.fromisoformat(f"{time}:00Z")
        monkeypatch.setattr(machine, "_now", lambda: now)
        facts = {"commit": commit, "processor": "x86", "started": now.isoformat()}
        monkeypatch.setattr(machine, "describe_machine", lambda device: dict(facts))

    return at


def test_the_time_of_a_run_is_that_of_its_commands(
    tmp_path: Path, shapes_root: Path, clock: Callable[..., None]
) -> None:
    """Neither the pauses between them, nor what was not noted before a kill; two that work at the
    same time count once."""
    workspace = Workspace(tiny(shapes_root, tmp_path))
    folder = workspace.folder

    def begin(here: Session, time: str, commit: str = "a") -> None:
        clock(time, commit)
        with held(folder):
            note_machine(workspace)
            here.begin()

    def minutes() -> float:
        return float(read_json(folder / FILE)["seconds"]) / 60

    with Session(folder) as here:
        begin(here, "2026-01-01 10:00")
        clock("2026-01-01 10:30")
        here.note_if_free()
        assert minutes() == 30
        with held(folder):  # as by another process
            clock("2026-01-01 10:40")
            here.note_if_free()
            assert minutes() == 30
        clock("2026-01-01 11:00")
    assert minutes() == 60
    with suppress(KeyboardInterrupt), Session(folder) as here:
        begin(here, "2026-01-09 10:00")  # more than a week later
        clock("2026-01-09 10:10")
        raise KeyboardInterrupt
    assert minutes() == 70
    killed = Session(folder)
    begin(killed, "2026-01-09 11:00")
    clock("2026-01-09 11:20")
    killed.note_if_free()
    with Session(folder) as one:
        begin(one, "2026-01-09 12:00")
        with Session(folder) as other:
            begin(other, "2026-01-09 12:05")
            clock("2026-01-09 12:10")
            one.note_if_free()
            clock("2026-01-09 12:20")
            other.note_if_free()
            clock("2026-01-09 12:25")
        clock("2026-01-09 12:30")
    assert minutes() == 90 + 30
    there = read_json(folder / FILE)
    assert there["started"].startswith("2026-01-01T10:00")
    assert there["finished"].startswith("2026-01-09T12:30")
    with Session(folder) as here:
        begin(here, "2026-01-09 13:00", commit="b")
        clock("2026-01-09 13:05")
    there = read_json(folder / FILE)
    assert [part["seconds"] for part in (*there["earlier"], there)] == [120 * 60, 5 * 60]
    with Session(folder) as here:  # with a clock that was set back
        begin(here, "2026-01-08 13:00", commit="b")
        clock("2026-01-08 13:01")
    assert minutes() == 6


def test_a_command_without_work_notes_nothing(tmp_path: Path, clock: Callable[..., None]) -> None:
    with Session(tmp_path):
        pass
    with pytest.raises(KeyboardInterrupt), Session(tmp_path):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
