"""Damaged or hostile files, numbers that are none, clocks, odd paths, two at once, many files."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets.voc import DATASET_YEAR_DICT

from lovasz_repro.data.voc import VOC
from lovasz_repro.files import read_json
from lovasz_repro.records import load
from lovasz_repro.training.loop import read_checkpoint, write_checkpoint
from tests.faults.harness import Clock, Commands, Fault, Published, Strike, Study, Undrawn, shows
from tests.helpers.archives import VOC_TAR, Server, add, publish
from tests.helpers.studies import command, contents

CELL_STEP = Strike("lovasz_repro.training.segmenter:BinarySegmenter.training_step", 28)
"""A step of the first cell, after its first checkpoint."""


class Bomb:
    """What a stranger's file may hold: unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


@shows(
    Fault("an archive truncated between its check and its unpacking", "one line that names it",
          "nothing", "delete it, then the same command"),
)  # fmt: skip
def test_archive_truncated(run: Commands, published: Published, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    fetch = ["data", "fetch", "--root", str(root)]
    archive = root / VOC_TAR
    cut = Strike("lovasz_repro.data.fetch:_unpack_voc", does="truncate", path=str(archive))
    run(fetch, published, cut).is_one_line(str(archive), "refused", "delete it")
    archive.unlink()
    assert run(fetch, published).status == 0


@shows(
    Fault("an image truncated after `data check`", "one line that names it", "nothing",
          "fix the image, then the same command"),
)  # fmt: skip
def test_image_truncated(run: Commands, shapes_root: Path, finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root, ignore=shutil.ignore_patterns("cache"))
    image = VOC(root).image_path("train_000003")
    whole = image.read_bytes()
    study = command(root, tmp_path)
    cut = Strike("lovasz_repro.data.cache:_decode", does="truncate", path=str(image))
    run(study, cut).is_one_line(str(image))
    assert not list((root / "cache").glob("images-*[!k]"))  # nothing but the lock
    image.write_bytes(whole)
    assert run(study).status == 0
    assert contents(tmp_path / "demo") == contents(finished)


@shows(
    Fault("a cached array truncated while a study reads it",
          "the system ends the process (SIGBUS); the next run names the file",
          "the steps since the last checkpoint",
          "delete the cache's folder, then the same command"),
)  # fmt: skip
def test_cache_truncated(run: Commands, shapes_root: Path, finished: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    study = [*command(shapes_root, tmp_path), "--data.cache", str(cache)]
    cut = Strike(CELL_STEP.where, 3, does="truncate", path=f"{cache}/features-*/features.npy")
    assert run(study, cut).status == -signal.SIGBUS
    (features,) = cache.glob("features-*/features.npy")
    failed = run(study)
    assert failed.status == 1
    assert f"{features}: cannot be read" in failed.said
    assert f"delete {features.parent}" in failed.said
    shutil.rmtree(features.parent)
    assert run(study).status == 0
    assert contents(tmp_path / "demo") == contents(finished)


@pytest.fixture(scope="module")
def killed(run: Commands, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was killed in its first cell."""
    runs = tmp_path_factory.mktemp("killed")
    assert run(command(shapes_root, runs), CELL_STEP).status == -9
    return runs / "demo"


@shows(
    Fault("a checkpoint that is truncated, garbage, of another learning rate, or hostile",
          "“training starts over”; nothing in it is executed", "that training's steps so far"),
)  # fmt: skip
@pytest.mark.parametrize("damage", ["garbage", "bomb", "rate"])
def test_checkpoint(study: Study, killed: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(killed, study.folder)
    (checkpoint,) = (study.folder / "cells").rglob("resume.ckpt")
    exploded = tmp_path / "exploded"
    if damage == "garbage":
        checkpoint.write_bytes(b"not a checkpoint")
    elif damage == "bomb":
        torch.save(Bomb(exploded), checkpoint)
    else:
        content = read_checkpoint(checkpoint)
        content["identity"] = content["identity"].replace("learning rate", "learning rate 1")
        write_checkpoint(checkpoint, content)
    reason = "is of learning rate 1" if damage == "rate" else "cannot be read"
    assert f"{checkpoint} {reason}" in study.goes_on().said
    assert not exploded.exists()


@shows(
    Fault("a base network from a stranger, hostile or not the one recorded",
          "one line that names it; nothing in it is executed", "nothing",
          "delete its folder, then the same command"),
)  # fmt: skip
@pytest.mark.parametrize("damage", ["bomb", "other"])
def test_base_network(study: Study, killed: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(killed, study.folder)
    base = study.folder / "base" / "fold0"
    exploded = tmp_path / "exploded"
    if damage == "bomb":
        torch.save(Bomb(exploded), base / "network.pt")
    else:
        state = torch.load(base / "network.pt", weights_only=True)
        torch.save({key: value + 1 for key, value in state.items()}, base / "network.pt")
    study.struck().is_one_line(str(base / "network.pt"), f"delete {base}")
    assert not exploded.exists()
    shutil.rmtree(base)
    study.goes_on()


@shows(
    Fault("a cell's `result.json` that is empty or no JSON", "one line that names it",
          "that cell", "delete it, then the same command"),
    Fault("a cell's `result.json` with other content", "nothing: the cell is made again",
          "that cell"),
    Fault("a cell's `images.csv` truncated after it was written",
          "the report ends with one line that names it", "that cell",
          "delete the `result.json` beside it, then the study"),
)  # fmt: skip
@pytest.mark.parametrize("content", ['{"hash": "01', '{"hash": "0"}'])
def test_result(study: Study, content: str) -> None:
    shutil.copytree(study.undisturbed, study.folder)
    path = next((study.folder / "cells").rglob("result.json"))
    path.write_text(content)
    if not content.endswith("}"):
        study.struck().is_one_line(str(path))
        path.unlink()
    assert "6 cells, 5 done, 1 to run" in study.goes_on().said


def test_table_truncated(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.undisturbed, study.folder)
    table = next((study.folder / "cells").rglob("images.csv"))
    os.truncate(table, table.stat().st_size // 2)
    report = ["report", "--runs", str(study.folder), "--out", str(tmp_path / "report")]
    study.run(report).is_one_line(str(table), "delete that result.json")
    (table.parent / "result.json").unlink()
    study.goes_on()


@shows(
    Fault("an archive with a member that would land outside its folder", "one line that names both",
          "nothing", "delete the archive"),
)  # fmt: skip
def test_escaping_archive(
    run: Commands, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = io.BytesIO(server.files[VOC_TAR])
    with tarfile.open(fileobj=content, mode="a") as tar:
        add(tar, "../../escaped", b"escaped")
    publish(server, monkeypatch, VOC_TAR, content.getvalue())
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    (root / VOC_TAR).write_bytes(server.files[VOC_TAR])
    fetch = ["data", "fetch", "--root", str(root)]
    here = Published(DATASET_YEAR_DICT["2012"], "", "")
    run(fetch, here).is_one_line(VOC_TAR, "refused", "escaped")
    assert not list(tmp_path.rglob("escaped"))


@shows(
    Fault("text in records that is HTML", "the text, as text", "nothing", "nothing to do"),
)  # fmt: skip
def test_html_in_records(run: Commands, finished: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(finished, tmp_path / "demo")
    shutil.rmtree(runs / "gallery")  # it shows what the cell said
    cell = next((runs / "cells").rglob("result.json"))
    cell.unlink()
    hostile = "<script>alert(1)</script>"
    (cell.parent / "failed.json").write_text(f'{{"error": "{hostile}"}}')
    out = tmp_path / "report"
    assert run(["report", "--runs", str(runs), "--out", str(out)], Undrawn()).status == 0
    page = (out / "index.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert hostile not in page


@shows(
    Fault("a training loss that is not finite",
          "the cell is recorded as failed, with the steps; the others go on; status 1",
          "that cell", "the same command tries it again"),
)  # fmt: skip
def test_non_finite_loss(study: Study) -> None:
    # 24 steps of trials, six of the first cell; from then on there is no loss.
    loss = "lovasz_repro.training.segmenter:BinarySegmenter.loss"
    ended = study.struck(Strike(loss, 31, does="nan"))
    assert ended.status == 1
    failed = " · fold 0 · seed 0: NonFiniteError: training loss nan between steps 0 and 2"
    assert any(line.startswith("failed ") and failed in line for line in ended.said.splitlines())
    records = load(study.folder)
    assert len(records.results) == 3  # the first, and the untrained network
    assert len(records.failed) == 3
    study.goes_on()


@shows(
    Fault("two processes on one folder", "each says what it leaves to the other", "nothing",
          "nothing to do"),
)  # fmt: skip
def test_two_at_once(study: Study) -> None:
    both = [study.run.start(study.command) for _ in range(2)]
    ended = [running.wait() for running in both]
    assert [one.status for one in ended] == [0, 0], ended
    assert sum(one.said.count(": image-IoU 0.") for one in ended) == 6  # no cell twice
    assert contents(study.folder) == contents(study.undisturbed)


@shows(
    Fault("a clock that is set back", "nothing; the time that a study took is never negative",
          "nothing", "nothing to do"),
)  # fmt: skip
def test_clock_set_back(study: Study) -> None:
    assert study.struck(CELL_STEP, Clock(days=1)).status == -9
    study.goes_on()
    machine = read_json(study.folder / "machine.json")
    assert machine["started"] > machine["finished"]
    assert 0 < machine["seconds"] < 3600


@shows(
    Fault("paths with spaces and letters beyond ASCII", "nothing", "nothing", "nothing to do"),
)  # fmt: skip
def test_odd_path(run: Commands, shapes_root: Path, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my data ä é 数据 'q'"
    root = shutil.copytree(shapes_root, folder / "shapes", ignore=shutil.ignore_patterns("cache"))
    assert run(command(root, folder / "runs")).status == 0
    runs = folder / "runs" / "demo"
    assert contents(runs) == contents(finished)
    ended = run(["report", "--runs", str(runs), "--out", str(folder / "report")], Undrawn())
    assert ended.status == 0, ended.said
    assert (folder / "report" / "index.html").stat().st_size > 0


@shows(
    Fault("10,000 listed images, 1 % of them broken",
          "`data check` names each, and no other; a study ends with one line that names one",
          "nothing", "fix them or take them off the lists, then the same command"),
)  # fmt: skip
def test_many_broken_images(run: Commands, shapes_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "many"
    voc = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "image.jpg")
    Image.new("L", (8, 8), 1).save(tmp_path / "mask.png")
    image, mask = (tmp_path / "image.jpg").read_bytes(), (tmp_path / "mask.png").read_bytes()
    ids = [f"2008_{number:06d}" for number in range(10_000)]
    broken = ids[50::100]
    for number, name in enumerate(ids):
        bad = name in broken
        content = image[: len(image) // 2] if bad and number % 200 == 50 else image
        (voc / "JPEGImages" / f"{name}.jpg").write_bytes(content)
        if not (bad and number % 200 == 150):
            (voc / "SegmentationClass" / f"{name}.png").write_bytes(mask)
    lists = voc / "ImageSets" / "Segmentation"
    (lists / "fold0_train.txt").write_text("\n".join(ids[:8000]))
    (lists / "fold0_val.txt").write_text("\n".join(ids[8000:]))
    check = run(["data", "check", "--root", str(root)])
    assert check.status == 1
    assert "10000 images, 100 problems" in check.said
    assert [name for name in ids if f"{name}." in check.said] == broken
    run(command(root, tmp_path / "runs")).is_one_line(broken[1])  # the first that is missing
    assert not list((root / "cache").glob("images-*[!k]"))
    whole = [name for name in ids if name not in broken]
    (lists / "fold0_train.txt").write_text("\n".join(whole[:80]))
    (lists / "fold0_val.txt").write_text("\n".join(whole[-20:]))
    assert run(["data", "check", "--root", str(root)]).status == 0
