"""Stopped at exact places by SIGKILL, SIGTERM, a full disk or one that cannot be written to."""

from __future__ import annotations

import random
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lovasz_repro.files import sha256
from tests.faults.harness import (
    BALLAST,
    Armed,
    Commands,
    Fault,
    Published,
    Strike,
    Study,
    Undrawn,
    shows,
)
from tests.helpers import studies
from tests.helpers.archives import Server
from tests.helpers.studies import contents

ONE_CATEGORY = ["--cells.categories", "[bird]"]
"""What follows a strike is the same for each."""


@pytest.fixture(scope="module")
def options() -> list[str]:
    return ONE_CATEGORY


def command(shapes_root: Path, runs: Path) -> list[str]:
    return [*studies.command(shapes_root, runs), *ONE_CATEGORY]


@dataclass(frozen=True)
class Place:
    """Somewhere in a command. kill, fill: where exactly a kill, or a disk full from there on,
    strikes. lost: what the next run has to do again."""

    name: str
    lost: str
    kill: Strike
    fill: Strike

    def strike(self, kind: str, disk: Path) -> Strike:
        if kind == "kill":
            return self.kill
        return replace(self.fill, does="fill", path=str(disk))


def at(where: str, nth: int = 1, on: str = "") -> Strike:
    return Strike(where, nth, on)


DOWNLOAD = at("lovasz_repro.data.download:Progress.advance", 2)
UNPACK = at("tarfile:TarFile.makefile", 5)
MASKS = at("lovasz_repro.data.fetch:save_mask", 2)
DECODE = at("lovasz_repro.data.voc:VOC.pair", 10)
STEP = at("lovasz_repro.training.segmenter:Segmenter.training_step", 5)
FETCH = [
    Place("the download", "what had not been flushed; it goes on in the file", DOWNLOAD, DOWNLOAD),
    Place("unpacking VOC", "the unpacking", UNPACK, UNPACK),
    Place("converting SBD's masks", "the conversion", MASKS, MASKS),
]
STUDY = [
    Place("the cache's build", "the build", DECODE, at("lovasz_repro.data.cache:_array")),
    Place("a base network's training", "the steps since its last checkpoint", STEP, STEP),
    Place(
        "the write of a checkpoint", "the steps since the one before",
        at("pathlib:Path.replace", 2, r"cells/.*\.resume.*\.part\.ckpt"),
        at("lovasz_repro.files:write_bytes", 2, r"cells/.*/resume\.ckpt"),
    ),
    Place(
        "a cell's last write", "the evaluation of this cell",
        at("pathlib:Path.replace", 2, r"cells/.*\.result.*\.part\.json"),
        at("lovasz_repro.records.cells:write_json", 2, r"cells/.*/result\.json"),
    ),
    Place(
        "the write of the gallery", "the gallery",
        at("pathlib:Path.replace", 3, "gallery/"),
        at("lovasz_repro.report.gallery:write_bytes", 3, "gallery/"),
    ),
]  # fmt: skip
REPORT = Place(
    "the write of a report", "this report",
    at("pathlib:Path.replace", 3, "figures/"), at("lovasz_repro.report:write_bytes", 3, "figures/"),
)  # fmt: skip


def faults(*places: Place) -> list[Fault]:
    return [
        Fault(
            f"`kill -9`, or a full disk, in {place.name}",
            "nothing; or one line that names the file",
            place.lost,
            "the same command, with room on the disk",
        )
        for place in places
    ]


def stop_and_resume(
    run: Commands, arguments: list[str], place: Place, kind: str, folder: Path, *others: Armed
) -> None:
    """Strike a command, see what it says, remove the cause, run it again."""
    ended = run(arguments, place.strike(kind, folder), *others)
    if kind == "kill":
        assert ended.status == -9, ended.said
    else:
        ended.is_one_line(str(folder), "No space left on device")
        (folder / BALLAST).unlink()
    again = run(arguments, *others)
    assert again.status == 0, again.said
    assert not list(folder.rglob("*.part*"))  # nothing half-written stays


@pytest.fixture(params=["kill", "fill"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a command writes to: a disk that can be filled, if it is to be."""
    disk: Path = request.getfixturevalue("disk") if kind == "fill" else tmp_path / "a folder ä 数据"
    return disk


@shows(*faults(*FETCH))
@pytest.mark.parametrize("place", FETCH, ids=lambda place: place.name)
def test_fetch(run: Commands, published: Published, folder: Path, place: Place, kind: str) -> None:
    root = folder / "voc"
    fetch = ["data", "fetch", "--root", str(root)]
    stop_and_resume(run, fetch, place, kind, folder, published)
    assert run(["data", "check", "--root", str(root)]).status == 0
    assert not list(root.rglob(".*"))


@shows(*faults(*STUDY))
@pytest.mark.parametrize("place", STUDY, ids=lambda place: place.name)
def test_study(
    run: Commands, shapes_root: Path, finished: Path, folder: Path, place: Place, kind: str
) -> None:
    study = [*command(shapes_root, folder), "--data.cache", str(folder / "cache")]
    stop_and_resume(run, study, place, kind, folder)
    assert contents(folder / "demo") == contents(finished)


@shows(*faults(REPORT))
def test_report(run: Commands, finished: Path, folder: Path, kind: str, report: Path) -> None:
    out = folder / "report"
    stop_and_resume(run, report_of(finished, out), REPORT, kind, folder, Undrawn())
    assert files(out) == files(report)


def report_of(runs: Path, out: Path) -> list[str]:
    return ["report", "--runs", str(runs), "--out", str(out)]


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def report(run: Commands, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the undisturbed study."""
    out = tmp_path_factory.mktemp("report")
    ended = run(report_of(finished, out), Undrawn())
    assert ended.status == 0, ended.said
    return out


@pytest.mark.parametrize(
    "place",
    [
        at("lovasz_repro.records.cells:write_json", 1, r"cost\.json"),
        at("numpy:savez_compressed", 1),
    ],
    ids=["tables", "pictures"],
)
def test_a_cell_that_is_replaced_is_not_taken_for_done(study: Study, place: Strike) -> None:
    """Killed between its new files and the new result, with another rate than the old one."""
    assert study.struck().status == 0
    folder = study.folder / "cells/bird/lovasz_hinge/fold0-seed0"
    cell = ["--category", "bird", "--loss", "lovasz_hinge", "--again", "--optim.lr", "3e-4"]
    fit = ["fit", *study.command[1:], "--tuning.lrs", "[]", *cell]
    assert study.run(fit, place).status == -9
    assert not (folder / "result.json").exists()
    study.goes_on()


def test_killed_at_random_moments(study: Study) -> None:
    """kill -9, restart, six times: the records are those of the undisturbed run."""
    moments = random.Random(0)
    owner = study.folder / "owner.json"
    kills = 0
    while kills < 6:
        owner.unlink(missing_ok=True)
        process = study.run.start(study.command).process
        while not owner.exists() and process.is_alive():
            time.sleep(0.01)
        process.join(moments.uniform(0.02, 0.5))
        if not process.is_alive():
            break  # done before its time: fewer kills are possible on a fast machine
        process.kill()
        process.join()
        kills += 1
    if not kills:
        pytest.skip("the study ended before it could be killed")
    study.goes_on()


@shows(
    Fault(
        "SIGTERM, as SLURM sends before it kills",
        "“stopped; the same command goes on from here”, status 143",
        "the steps since the last checkpoint",
    )
)
@pytest.mark.parametrize(
    "where",
    [
        DECODE,
        STEP,
        at("lovasz_repro.training.segmenter:BinarySegmenter.test_step", 3),
    ],
    ids=["cache", "base", "evaluation"],
)
def test_sigterm(
    run: Commands, shapes_root: Path, finished: Path, tmp_path: Path, where: Strike
) -> None:
    study = [*command(shapes_root, tmp_path), "--data.cache", str(tmp_path / "cache")]
    ended = run(study, replace(where, does="terminate"))
    assert ended.status == 143, ended.said
    assert "lovasz-repro: stopped; the same command goes on from here" in ended.said
    assert "Traceback" not in ended.said
    assert not list((tmp_path / "demo").rglob("failed.json"))
    assert run(study).status == 0
    assert contents(tmp_path / "demo") == contents(finished)


@pytest.mark.parametrize("where", [STEP, at("lovasz_repro.study.grid:run_cell", 2)])
def test_ctrl_c(
    run: Commands, shapes_root: Path, finished: Path, tmp_path: Path, where: Strike
) -> None:
    study = command(shapes_root, tmp_path)
    ended = run(study, replace(where, does="interrupt"))
    assert ended.status == 130, ended.said
    assert "lovasz-repro: stopped; the same command goes on from here" in ended.said
    assert "Traceback" not in ended.said
    assert run(study).status == 0
    assert contents(tmp_path / "demo") == contents(finished)


@shows(
    Fault(
        "an output folder that is read-only",
        "one line that names it",
        "nothing",
        "the same command, once it can be written to",
    )
)
def test_read_only(
    run: Commands, server: Server, published: Published, shapes_root: Path, finished: Path,
    disk: Path,
) -> None:  # fmt: skip
    commands: list[tuple[list[str], Path]] = [
        (command(shapes_root, disk / "runs"), disk / "runs"),
        (report_of(finished, disk / "report"), disk / "report"),
        (["data", "fetch", "--root", str(disk / "voc")], disk / "voc"),
        (["data", "shapes", "--root", str(disk / "shapes")], disk / "shapes"),
    ]
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for arguments, folder in commands:
        run(arguments, published, Undrawn()).is_one_line(str(folder), "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    study, _ = commands[0]
    assert run(study).status == 0
    assert contents(disk / "runs" / "demo") == contents(finished)
