"""A study on shapes: what is done is skipped, what is killed goes on, what fails is named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lovasz_repro.__main__ import main
from lovasz_repro.config import Tuning
from lovasz_repro.data.voc import VOC, save_mask
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json, write_json
from lovasz_repro.records import UNTRAINED, Cell, load
from lovasz_repro.report import gallery
from lovasz_repro.study import grid as module
from lovasz_repro.study import launch, machine
from lovasz_repro.study.tuning import rates_tried
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.segmenter import BinarySegmenter
from tests.helpers.forked import forking
from tests.helpers.studies import command, contents


@pytest.fixture(scope="module")
def finished(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("study")
    assert main(command(shapes_root, runs)) == 0
    return runs / "demo"


def test_every_cell_is_recorded_under_one_hash(finished: Path) -> None:
    records = load(finished)
    assert len(records.results) == 6  # the untrained network, too
    assert records.missing == records.stale == []
    assert records.failed == {}
    assert {result["hash"] for result in records.results.values()} == {records.study["hash"]}
    assert set(records.bases) == {0}
    assert records.bases[0]["miou"] > 0


def test_each_loss_has_a_rate_of_its_own_and_its_trials(finished: Path) -> None:
    tuning = read_json(finished / "tuning.json")
    assert set(tuning) == {"fold0"}
    assert set(tuning["fold0"]) == {"cross_entropy", "lovasz_hinge"}
    for entry in tuning["fold0"].values():
        scores = {(t["lr"], t["steps"]): t["image_iou"] for t in entry["trials"]}
        assert list(scores) == [(0.001, 6), (0.01, 6)]
        assert scores[entry["lr"], entry["steps"]] == entry["image_iou"] == max(scores.values())
    for cell, result in load(finished).results.items():
        if cell.loss != UNTRAINED:
            entry = tuning["fold0"][cell.loss]
            assert (result["lr"], result["steps"]) == (entry["lr"], entry["steps"])


def test_other_steps_are_tried_at_the_rate_of_the_first(
    finished: Path, shapes_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "demo")
    few = command(shapes_root, tmp_path)
    few[few.index("--tuning.steps") + 1] = "[6, 4]"
    few += ["--cells.categories", "[bird]", "--cells.losses", "[lovasz_hinge]"]
    assert main(few) == 0
    entry = read_json(tmp_path / "demo/tuning.json")["fold0"]["lovasz_hinge"]
    first = {t["lr"]: t["image_iou"] for t in entry["trials"] if t["steps"] == 6}
    others = [t["lr"] for t in entry["trials"] if t["steps"] == 4]
    assert others == [max(first, key=lambda lr: (first[lr], -lr))]


@pytest.mark.parametrize(
    ("scores", "rates"),
    [
        ({}, [1e-3, 1e-2]),
        ({1e-3: 0.5, 1e-2: 0.4}, [1e-4, 1e-3, 1e-2]),
        ({1e-3: 0.4, 1e-2: 0.5}, [1e-3, 1e-2, 1e-1]),
        # The last is without a score: not tried yet, or diverged.
        ({1e-3: 0.4, 1e-2: 0.5, 1e-1: 0.3}, [1e-3, 1e-2, 1e-1]),
        ({1e-3: 0.4, 1e-2: 0.5, 1e-1: 0.6}, [1e-3, 1e-2, 1e-1, 1.0]),
        ({1e-3: 0.4, 1e-2: 0.5, 1e-1: 0.6, 1.0: 0.7}, [1e-3, 1e-2, 1e-1, 1.0]),
        ({1e-3: 0.6, 1e-2: 0.5, 1e-4: 0.7, 1e-5: 0.1}, [1e-5, 1e-4, 1e-3, 1e-2]),
    ],
)
def test_rates_go_on_beyond_an_edge_that_is_best(
    scores: dict[float, float], rates: list[float]
) -> None:
    tuning = Tuning(lrs=[1e-2, 1e-3], extend=2)
    means = {(lr, 6): score for lr, score in scores.items()} | {(1e-9, 6): 1.0, (1e-2, 12): 1.0}
    assert rates_tried(tuning, means, 6) == rates
    assert rates_tried(replace(tuning, extend=0), means, 6) == [1e-3, 1e-2]


def test_a_step_between_rates_is_kept_beyond_the_edge() -> None:
    tuning = Tuning(lrs=[1e-3, 3e-3], extend=1)
    assert rates_tried(tuning, {(1e-3, 6): 0.2, (3e-3, 6): 0.1}, 6) == [3.3e-4, 1e-3, 3e-3]
    assert rates_tried(tuning, {(1e-3, 6): 0.1, (3e-3, 6): 0.2}, 6) == [1e-3, 3e-3, 9e-3]


@pytest.mark.parametrize(
    ("lrs", "extend", "message"),
    [([1e-3], 1, "needs two rates"), ([1e-3, 1e-3], 1, "two rates"), ([1e-3], -1, "-1 is neg")],
)
def test_an_extension_that_cannot_be_is_refused(
    lrs: list[float], extend: int, message: str
) -> None:
    with pytest.raises(UserError, match=rf"tuning\.extend: .*{message}"):
        Tuning(lrs=lrs, extend=extend)
    assert Tuning(lrs=[], extend=1).extend  # of no use where nothing is tuned, and no harm


def test_a_study_tries_the_rates_beyond_the_edge(
    finished: Path, shapes_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "demo")
    assert main([*command(shapes_root, tmp_path), "--tuning.extend", "2"]) == 0
    before = read_json(finished / "tuning.json")["fold0"]
    for loss, entry in read_json(tmp_path / "demo/tuning.json")["fold0"].items():
        means = {(t["lr"], t["steps"]): t["image_iou"] for t in entry["trials"]}
        tried = sorted(lr for lr, _ in means)
        assert tried == rates_tried(Tuning(lrs=[1e-3, 1e-2], extend=2), means, 6)
        assert len(tried) > len(before[loss]["trials"])
        assert means[entry["lr"], 6] == max(means.values()) == entry["image_iou"]
        assert entry["at_edge"] == (entry["lr"] in (tried[0], tried[-1]))
    records = load(tmp_path / "demo")
    assert records.missing == records.stale == []


def test_rates_are_chosen_without_val_images(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lovasz_repro.study.setup import BinarySetup

    seen: list[set[str]] = []
    original = BinarySetup.train

    def watch(self: BinarySetup, *arguments: Any, **rest: Any) -> Any:
        ids = self.workspace.images.ids
        seen.append({ids[i] for index in arguments[3:5] for i in index})
        assert not set(arguments[3]) & set(arguments[4])  # held out of the trial's training
        return original(self, *arguments, **rest)

    monkeypatch.setattr(BinarySetup, "train", watch)
    monkeypatch.setattr(module, "_run_cells", lambda *_: {})
    monkeypatch.setattr(gallery, "write_gallery", lambda *_: None)
    assert main(command(shapes_root, tmp_path)) == 0
    train = (shapes_root / "VOCdevkit/VOC2012/ImageSets/Segmentation/fold0_train.txt").read_text()
    assert len(seen) == 4
    assert set.union(*seen) <= set(train.split())


@pytest.fixture
def at_another_commit(monkeypatch: pytest.MonkeyPatch) -> str:
    describe = machine.describe_machine
    commit = "c" * 40
    monkeypatch.setattr(machine, "describe_machine", lambda device: describe(device) | {
        "commit": commit
    })  # fmt: skip
    return commit


@pytest.mark.usefixtures("at_another_commit")
@pytest.mark.parametrize("start", ["study", "fit"])
def test_a_second_run_does_nothing(
    start: str, finished: Path, shapes_root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It loads no network and no arrays, and `machine.json` goes on to name the commit that made
    the cells and the time that they took."""

    def unread(*_: Any) -> None:
        raise AssertionError

    for name in ("source", "features"):
        monkeypatch.setattr(Workspace, name, unread)
    run = shutil.copytree(finished, tmp_path / "demo")
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("images.csv")}
    cell = ["--category", "bird", "--loss", "lovasz_hinge"] if start == "fit" else []
    assert main([start, *command(shapes_root, tmp_path)[1:], *cell]) == 0
    said = "already done" if start == "fit" else "6 cells, 6 done, 0 to run"
    assert said in capsys.readouterr().out
    assert (run / "machine.json").read_bytes() == (finished / "machine.json").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("images.csv")} == stamps
    if start == "study":
        assert contents(run) == contents(finished)


def test_another_choice_from_the_trials_that_are_there_makes_cells_to_run(
    at_another_commit: str, finished: Path, shapes_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(finished, tmp_path / "demo")
    before = read_json(finished / "tuning.json")["fold0"]["lovasz_hinge"]
    (other,) = {trial["lr"] for trial in before["trials"]} - {before["lr"]}
    again = command(shapes_root, tmp_path)
    again[again.index("--tuning.lrs") + 1] = f"[{other}]"
    again[again.index("--cells.categories") + 1] = "[bird]"
    again[again.index("--cells.losses") + 1] = "[lovasz_hinge]"
    assert main(again) == 0
    assert "1 cell of them: done at another learning rate" in capsys.readouterr().out
    records = load(tmp_path / "demo")
    assert read_json(tmp_path / "demo/tuning.json")["fold0"]["lovasz_hinge"]["lr"] == other
    assert records.results[Cell("bird", "lovasz_hinge", 0, 0)]["lr"] == other
    # Of the cat, which this command did not run, the older rate's.
    assert records.stale == [Cell("cat", "lovasz_hinge", 0, 0)]
    first = read_json(finished / "machine.json")
    assert records.machine["commit"] == at_another_commit
    assert [(e["commit"], e["seconds"]) for e in records.machine["earlier"]] == [
        (first["commit"], first["seconds"])
    ]
    assert 0 < records.machine["seconds"] < first["seconds"] + 60


def test_dry_run_says_what_is_left(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = [*command(shapes_root, finished.parent), "--dry-run"]
    assert main(planned) == 0
    assert "6 cells, 6 done, 0 to run" in capsys.readouterr().out
    assert main([*planned, "--optim.momentum", "0.5"]) == 1  # as the study itself
    assert "holds records of other settings" in capsys.readouterr().err
    assert main([*command(shapes_root, tmp_path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith("to run")
    assert "bird ·" not in out
    assert main([*command(shapes_root, tmp_path), "--dry-run", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert "6 cells, 0 done, 6 to run" in out
    assert "to run  bird · cross_entropy · fold 0 · seed 0" in out
    assert not any(tmp_path.iterdir())


def test_dry_run_says_that_a_base_without_its_network_is_made(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after unpacking a report's records.zip, which holds no networks."""
    shutil.copytree(finished, tmp_path / "demo")
    planned = [*command(shapes_root, tmp_path), "--dry-run"]
    assert main(planned) == 0
    assert "base network of fold 0: there" in capsys.readouterr().out
    (tmp_path / "demo/base/fold0/network.pt").unlink()
    assert main(planned) == 0
    assert "base network of fold 0: to be made" in capsys.readouterr().out


def test_a_cell_s_error_is_printed_as_it_is(
    finished: Path, shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Brackets in it are no markup."""

    def broken(*_: object) -> None:
        raise ValueError("cannot read [/tmp/x] or [red]y")

    shutil.copytree(finished, tmp_path / "demo")
    monkeypatch.setattr(module, "run_cell", broken)
    assert main([*command(shapes_root, tmp_path), "--cells.seeds", "[0, 1]"]) == 1
    said = capsys.readouterr().out
    assert said.count("ValueError: cannot read [/tmp/x] or [red]y") == 12  # and again at the end


def test_fit_that_diverges_says_so_in_one_line(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    original = BinarySegmenter.loss
    monkeypatch.setattr(BinarySegmenter, "loss", lambda *given: original(*given) * float("nan"))
    fit = ["fit", *command(shapes_root, tmp_path)[1:], "--category", "bird", "--loss", "hinge"]
    assert main([*fit, "--tuning.lrs", "[]", "--optim.lr", "0.5"]) == 1
    lines = capsys.readouterr().err.splitlines()
    (said,) = [line for line in lines if line.startswith("lovasz-repro: ")]
    assert "training loss nan between steps 0 and 2, learning rate 0.5" in said


@contextmanager
def held_elsewhere(folder: Path, seconds: float = 600) -> Iterator[None]:
    """Another process holds `folder`."""
    hold = "import filelock, sys, time; l = filelock.FileLock(sys.argv[1]); l.acquire(); "
    hold += "print('held', flush=True); time.sleep(float(sys.argv[2]))"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "owner.json").write_text('{"pid": 4711, "host": "elsewhere"}')
    arguments = [sys.executable, "-c", hold, str(folder / ".lock"), str(seconds)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("start", ["study", "fit"])
def test_a_category_in_every_training_image_is_named_before_the_base_is_trained(
    start: str, shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    original = Workspace.train_index

    def those_with_it(self: Workspace, fold: int) -> Any:
        index = original(self, fold)
        return index[self.present("bird")[index]]

    monkeypatch.setattr(Workspace, "train_index", those_with_it)
    options = command(shapes_root, tmp_path)[1:]
    cell = ["--category", "bird", "--loss", "hinge"] if start == "fit" else []
    assert main([start, *options, *cell]) == 1
    said = capsys.readouterr().err
    assert "bird, fold 0: no training image without the category; add some, or leave" in said
    assert not (tmp_path / "demo/base").exists()


def test_fit_names_who_has_the_cell(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "demo")
    cell = ["--category", "bird", "--loss", "cross_entropy", "--fold", "0", "--seed", "0"]
    options = command(shapes_root, tmp_path)[1:]
    options = options[: options.index("--cells.categories")]
    arguments = ["fit", *options, "--runtime.device", "cpu", *cell]
    with held_elsewhere(tmp_path / "demo/cells/bird/cross_entropy/fold0-seed0"):
        assert main(arguments) == 1
    assert "fold0-seed0 is in use by process 4711 on elsewhere" in capsys.readouterr().err


def test_studies_of_one_folder_share_its_cells(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One waits for what both need, and passes over the cell that another has."""
    folder = tmp_path / "demo"
    with (
        held_elsewhere(folder / "cells/cat/lovasz_hinge/fold0-seed0"),
        held_elsewhere(folder, seconds=2),
    ):
        assert main(command(shapes_root, tmp_path)) == 0
    said = capsys.readouterr()
    assert "is in use by process 4711 on elsewhere; waiting for it" in " ".join(said.err.split())
    assert "left to other processes on this folder: 1 cell" in said.out
    assert len(load(folder).results) == 5
    assert main(command(shapes_root, tmp_path)) == 0
    assert contents(folder) == contents(finished)


def test_worker_processes_leave_the_same_bytes(
    finished: Path, shapes_root: Path, tmp_path: Path
) -> None:
    with forking(launch):
        assert main([*command(shapes_root, tmp_path), "--runtime.workers", "2"]) == 0
    assert contents(tmp_path / "demo") == contents(finished)
    # Both had cells: TensorBoard names its files by the process.
    events = (tmp_path / "demo/tensorboard").glob("*/*/*/events.*")  # category, loss, run
    assert len({path.name.split(".")[-2] for path in events}) == 2


def test_a_study_refuses_masks_that_were_edited(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal length, other labels; and records of a report, which know no content, go on."""
    shutil.copytree(finished, tmp_path / "demo")
    root = tmp_path / "shapes"
    shutil.copytree(shapes_root, root)
    voc = VOC(root)
    path = voc.mask_path(voc.ids("fold0_val")[0])
    mask = voc.mask(path.stem)
    mask[:4, :4] = 255 - mask[:4, :4] if (mask[:4, :4] == 255).any() else 255
    save_mask(path, mask)
    assert main(command(root, tmp_path)) == 1
    said = capsys.readouterr().err
    assert "holds records of other images or masks than those that fold0_val" in said
    study = read_json(tmp_path / "demo/study.json")
    for entry in study["data"]["lists"].values():
        del entry["content"]
    write_json(tmp_path / "demo/study.json", study)
    assert main(command(shapes_root, tmp_path)) == 0
    assert "6 cells, 6 done, 0 to run" in capsys.readouterr().out
