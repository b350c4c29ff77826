"""Data, caches and checkpoints that are not what they were when they were read or written."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lovasz_repro.__main__ import main
from lovasz_repro.config import Network
from lovasz_repro.data import integrity
from lovasz_repro.data.cache import ImageCache
from lovasz_repro.data.integrity import check_cache, content_digest, digests
from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import DISK, UserError
from lovasz_repro.files import read_json, write_json
from lovasz_repro.records import load
from lovasz_repro.report.gallery import _prediction
from lovasz_repro.study import grid as study
from lovasz_repro.study import setup
from lovasz_repro.study.kept import stored_base
from lovasz_repro.study.predict import read as read_image
from lovasz_repro.training import loop as training
from lovasz_repro.training import segmenter
from lovasz_repro.training.loop import read_checkpoint, write_checkpoint
from tests.faults.harness import Fault, shows
from tests.helpers.places import ROOT
from tests.helpers.studies import tiny


@pytest.fixture
def voc(shapes_root: Path, tmp_path: Path) -> VOC:
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root, ignore=shutil.ignore_patterns("cache"))
    return VOC(root)


def opened(voc: VOC) -> ImageCache:
    root = voc.folder / "cache"
    return ImageCache.open(voc, digests(voc, voc.ids("fold0_val"), root), 81, root)


def content(voc: VOC) -> str:
    ids = voc.ids("fold0_val")
    return content_digest(voc, ids, digests(voc, ids, voc.folder / "cache"))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def replace_mask(voc: VOC) -> Path:
    """A mask becomes another one of equal length, with the times that the old one had."""
    path = voc.mask_path(voc.ids("fold0_val")[0])
    before = path.stat()
    content = path.read_bytes()
    labels = voc.mask(voc.ids("fold0_val")[0])
    image = Image.fromarray(np.where(labels > 0, 5, 0).astype(np.uint8))
    with Image.open(path) as old:
        image.putpalette(old.getpalette() or [])
    image.save(path)
    changed = path.read_bytes()
    assert changed != content
    assert len(changed) <= len(content)
    path.write_bytes(changed.ljust(len(content), b"\0"))  # PNG ignores what follows
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return path


@shows(
    Fault("masks edited, to equal length and with the old date, after they were cached",
          "nothing in a new study: the cache is made again", "the cache"),
)  # fmt: skip
def test_masks_of_equal_length(voc: VOC) -> None:
    ids = voc.ids("fold0_val")
    before, digest = opened(voc), content(voc)
    replace_mask(voc)
    after = opened(voc)
    assert after.folder != before.folder
    assert content(voc) != digest
    index = int(after.indices(ids[:1])[0])
    assert set(np.unique(after.native_mask(index))) == {0, 5}
    assert set(np.unique(before.native_mask(index))) != {0, 5}


def test_contents_are_read_again_only_where_a_file_changed(
    voc: VOC, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, cache = voc.ids("fold0_val"), voc.folder / "cache"
    first = content(voc)
    read: list[Path] = []
    original = Path.read_bytes

    def counting(self: Path) -> bytes:
        read.extend([self] if self.suffix != ".json" else [])
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", counting)
    assert content(voc) == first
    assert not read
    os.utime(voc.image_path(ids[3]))
    assert content(voc) == first  # the same bytes, written again
    assert read == [voc.image_path(ids[3])]
    (index,) = cache.glob("contents-*.json")
    index.write_text("{}")  # an index that was lost only costs reading
    assert content(voc) == first
    assert len(read) == 1 + 2 * len(ids)


@shows(
    Fault("bits flipped in a cached array",
          "one line that names it: at opening, as far as a sample shows; `data check --cache` "
          "reads every byte", "nothing", "delete the cache's folder, then the same command"),
)  # fmt: skip
@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "native_masks.npy", "small.npz"])
def test_cached_array(voc: VOC, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = opened(voc).folder
    cache = folder.parent
    assert main(["data", "check", "--cache", str(cache)]) == 0
    flip(folder / name, (folder / name).stat().st_size // 2)
    with pytest.raises(UserError, match=f"{name}: damaged .* delete {folder}"):
        opened(voc)
    capsys.readouterr()
    assert main(["data", "check", "--cache", str(cache)]) == 1
    assert f"{folder / name}: damaged" in capsys.readouterr().out
    shutil.rmtree(folder)
    folder.with_name(f"{folder.name}.part").mkdir()  # another process builds it, or was killed
    with pytest.raises(UserError, match="no cache in it"):
        check_cache(cache)
    opened(voc)
    assert check_cache(cache) == []


def test_a_sample_is_of_fixed_blocks_and_the_check_is_of_all(
    voc: VOC, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "BLOCK", 64)
    cache = opened(voc)
    path = cache.folder / "images.npy"
    blocks = -(-path.stat().st_size // 64)
    found = 0
    for number in range(0, blocks, blocks // 50):
        flip(path, number * 64)
        assert len(check_cache(cache.folder.parent)) == 1
        try:
            opened(voc)
        except UserError:
            found += 1
        flip(path, number * 64)
    assert 1 <= found < 5  # the first block, and a share of the others
    opened(voc)


@pytest.mark.parametrize("name", ["images.npy", integrity.SUMS])
def test_a_file_of_a_cache_that_is_gone(voc: VOC, name: str) -> None:
    folder = opened(voc).folder
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        opened(voc)


@shows(
    Fault("a pipe in place of an image", "`data check`, and a study, name it; nothing waits for it",
          "nothing", "fix the image, then the same command"),
    Fault("a mask of 144 megapixels", "one line that names it, by its header", "nothing",
          "fix the mask, then the same command"),
)  # fmt: skip
@pytest.mark.parametrize("what", ["pipe", "mask", "small"])
def test_odd_image(
    voc: VOC, what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = voc.ids("fold0_val")[0]
    path = voc.image_path(name) if what == "pipe" else voc.mask_path(name)
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    else:
        side = 12_000 if what == "mask" else 900
        with path.open("wb") as file:
            Image.new("L", (1, 1)).save(file, "PNG")
        content = bytearray(path.read_bytes())
        content[16:24] = side.to_bytes(4, "big") * 2  # the header says so, and has the right sum
        crc = zlib.crc32(content[12:29])
        content[29:33] = crc.to_bytes(4, "big")
        path.write_bytes(content)
    said = {"pipe": "not a regular file", "mask": "exceeds limit", "small": "the mask is 900x900"}
    assert main(["data", "check", "--root", str(voc.folder)]) == 1
    assert f"{path}: " in (output := capsys.readouterr().out)
    assert said[what] in output
    decoded: list[str] = []
    original = Image.Image.load

    def load(self: Image.Image) -> object:
        decoded.append(str(getattr(self, "filename", "")))
        return original(self)

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(UserError, match=f"{path}: .*{said[what]}"):
        opened(voc)
    assert str(path) not in decoded


IDENTITY = "base network ab; bird, fold 0; loss hinge; seed 0; learning rate 0.5; 300 steps"


@shows(
    Fault("bits flipped in `resume.ckpt`, or one that is of another base network, rate or schedule",
          "“training starts over”, with the file's name", "that training's steps so far"),
)  # fmt: skip
@pytest.mark.parametrize(
    ("wanted", "found", "said"),
    [
        ("rate 0.5", "rate 0.4", "is of learning rate 0.4"),
        ("300 steps", "200 steps", "is of 200 steps"),
        ("network ab", "network cd", "is of base network cd"),
        ("; loss hinge; seed 0", "; loss hinge; seed 1", "is of seed 1"),
        (
            "bird, fold 0; loss hinge",
            "cat, fold 1; loss mine {}",
            "is of cat, fold 1, loss mine {}",
        ),
        ("", "", "cannot be read"),
    ],
)
def test_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str, found: str, said: str
) -> None:
    path = tmp_path / "resume.ckpt"
    identity = IDENTITY.replace(wanted, found)
    write_checkpoint(path, {"identity": identity, "weights": torch.ones(1000)})
    assert training._resumable(path, identity) == path
    assert torch.equal(read_checkpoint(path)["weights"], torch.ones(1000))
    if said == "cannot be read":
        flip(path, path.stat().st_size // 2)
    assert training._resumable(path, IDENTITY) is None
    assert f"{path} {said}; training starts over" in capsys.readouterr().err
    assert not path.exists()


@shows(
    Fault("a `resume.ckpt` of another cell, fold or mixture", "“training starts over”, with the "
          "file's name", "that training's steps so far"),
)  # fmt: skip
def test_a_checkpoint_is_bound_to_its_training(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    original = training.make_trainer

    def noted(*arguments: Any, **options: Any) -> Any:
        started.append(options["identity"])
        return original(*arguments, **options)

    monkeypatch.setattr(setup, "make_trainer", noted)
    for weights in ({"cross_entropy": 0.9, "hinge": 0.1}, {"cross_entropy": 0.1, "hinge": 0.9}):
        config = tiny(shapes_root, tmp_path)
        losses = ["cross_entropy", "mine"]
        cells = replace(config.cells, losses=losses, seeds=[0], categories=["bird", "cat"])
        config = replace(config, mixtures={"mine": weights}, cells=cells)
        assert study.study(config) == 0
    cells_of = [start for start in started if "untrained" not in start]
    # Four cells; then those of the other mixture, and no other, are made again.
    assert len(cells_of) == len(set(cells_of)) == 6


@shows(
    Fault("`checksums.json` of a cache emptied, or two caches that changed names",
          "one line that names the folder", "nothing", "delete the folder"),
)  # fmt: skip
def test_sums_of_a_cache_are_whole_and_its_own(voc: VOC, tmp_path: Path) -> None:
    opened(voc)
    folder = next((voc.folder / "cache").glob("images-*[0-9a-f]"))
    sums = read_json(folder / integrity.SUMS)
    emptied = {**sums["files"]["images.npy"], "crc32": []}
    changes: list[dict[str, Any]] = [
        {"files": {}},
        {"folder": "images-81-0123456789abcdef"},
        {"files": {**sums["files"], "images.npy": emptied}},
    ]
    for change in changes:
        write_json(folder / integrity.SUMS, {**sums, **change})
        with pytest.raises(UserError, match=str(folder)):
            opened(voc)
    (folder / integrity.SUMS).write_text("{}")
    with pytest.raises(UserError, match="there is no folder"):
        opened(voc)
    write_json(folder / integrity.SUMS, sums)
    opened(voc)
    folder.rename(folder.with_name("images-81-0123456789abcdef"))
    assert check_cache(voc.folder / "cache")


@shows(
    Fault("an image of 16 bits or of floats, which would be clipped to white",
          "one line that names the file", "nothing", "convert it to 8 bits"),
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_images(voc: VOC, tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / ("deep.png" if dtype == np.uint16 else "deep.tiff")
    Image.fromarray(np.full((20, 30), 900, dtype)).save(path)
    with pytest.raises(UserError, match=rf"{path}: the image is stored as .*8 bits"):
        read_image(path)
    name = voc.ids("fold0_val")[0]
    shutil.copy(path, voc.image_path(name))
    with pytest.raises(UserError, match=rf"{name}\.jpg: the image is stored as"):
        voc.image(name)


@shows(
    Fault("a named pipe or a folder in place of a record, of `records.zip`, of a base network, of "
          "kept weights or of an image to predict", "one line that names it", "nothing"),
    Fault("a named pipe or a folder in place of `resume.ckpt`",
          "“training starts over”, with the pipe's name; one line that names the folder",
          "that training's steps so far", "delete the folder, then the same command"),
)  # fmt: skip
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipes_are_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    readers: dict[str, Callable[[Path], Any]] = {
        "study.json": read_json,
        "image.jpg": read_image,
        "records.zip": load,
        "resume.ckpt": read_checkpoint,
        "network.pt": lambda path: stored_base(path.parent, Network(), 21),
        "predictions.npz": lambda path: _prediction(path, "an image"),
    }
    for name, read in readers.items():
        make(path := tmp_path / name)
        with pytest.raises(UserError, match=rf"{path}: .*not a file"):
            read(path)
    path = tmp_path / "resume.ckpt"
    if path.is_dir():
        with pytest.raises(OSError, match=str(path)) as error:
            training._resumable(path, "base")
        assert error.value.errno in DISK
    else:
        assert training._resumable(path, "base") is None
        assert not path.exists()


@shows(
    Fault("a name of an experiment or of a loss that leads out of its folder, a rate that is "
          "infinite, NaN or not positive", "one line that names the key", "nothing",
          "fix the configuration"),
)  # fmt: skip
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("name", "../../escape", "name: '../../escape'"),
        ("name", "/tmp/escape", "name: '/tmp/escape'"),
        ("mixtures", '{"../x": {"hinge": 1}}', "mixtures: '../x'"),
        ("tuning.lrs", "[0.1, .inf]", "tuning.lrs: inf"),
        ("tuning.lrs", "[.nan]", "tuning.lrs: nan"),
        ("tuning.lrs", "[-1]", "tuning.lrs: -1"),
        ("optim.lr", ".inf", "lr: inf"),
        ("base.optim.lr", ".nan", "lr: nan"),
        ("mixtures", '{"lovasz_hinge": {"cross_entropy": 1}}', "mixtures: 'lovasz_hinge' is taken"),
        ("mixtures", '{"untrained": {"hinge": 1}}', "mixtures: 'untrained' is taken"),
        ("cells.seeds", "[1152921504606846976]", "cells.seeds: 1152921504606846976"),
        ("cells.seeds", "[-1]", "cells.seeds: -1"),
        ("cells.losses", "[]", "cells.losses: empty"),
        ("cells.folds", "[0, 0]", "cells.folds: 0 is named twice"),
        ("cells.losses", "[hinge, cross_entropy, hinge]", "cells.losses: hinge is named twice"),
        ("tuning.categories", "[bird, bird]", "tuning.categories: bird is named twice"),
        ("base.seed", "-1", "base.seed: -1"),
        ("data.scale", "[0.5, .inf]", "data.scale: (0.5, inf)"),
        ("tuning.seeds", "[-5]", "tuning.seeds: -5"),
        ("data.negatives", "0", "data.negatives: 0"),
        ("data.image_size", "-7", "data.image_size: -7"),
        ("data.classes", f"[{'x' * 129}]", f"data.classes: '{'x' * 129}' cannot name"),
        ("optim.validate_every", "0", "validate_every: 0"),
        ("optim.validate_every", "-20", "validate_every: -20"),
        ("optim.momentum", "-0.1", "momentum: -0.1"),
        ("base.optim.weight_decay", "-1", "weight_decay: -1"),
        ("optim.backbone_lr_factor", "-1", "backbone_lr_factor: -1"),
        ("optim.drop_factor", ".nan", "drop_factor: nan"),
        ("optim.drop_at", "0", "drop_at: 0"),
        ("optim.drop_at", "1.5", "drop_at: 1.5"),
        ("runtime.eval_batch", "0", "runtime.eval_batch: 0"),
        ("runtime.overlays", "-1", "runtime.overlays: -1"),
    ],
)
def test_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    demo = ROOT / "experiments" / "demo.yaml"
    runs = tmp_path / "a" / "b" / "runs"
    study = ["study", "--config", str(demo), "--dry_run", "--runs", str(runs)]
    assert main([*study, f"--{option}", value]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not list(tmp_path.rglob("*"))


@shows(
    Fault("a base network that diverges", "one line that names its rate", "nothing",
          "a lower `base.optim.lr`"),
    Fault("scores that are not finite at the images' own sizes", "the cell is recorded as failed",
          "that cell", "the same command tries it again"),
    Fault("a category that no val image holds, or each holds",
          "its cells are recorded as failed, with this reason", "nothing",
          "take it off `cells.categories`"),
    Fault("a kill between a cell's last write and the removal of its checkpoint",
          "nothing: the next run removes it", "nothing"),
)  # fmt: skip
def test_cells(
    shapes_root: Path, voc: VOC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging = tiny(shapes_root, tmp_path / "diverging")
    wild = replace(diverging.base, optim=replace(diverging.base.optim, lr=1e30))
    with pytest.raises(UserError, match=r"base\.optim\.lr: the base network of fold 0 diverged"):
        study.study(replace(diverging, base=wild))

    config = tiny(shapes_root, tmp_path)
    config = replace(config, cells=replace(config.cells, losses=["lovasz_hinge"]))
    rows = segmenter.image_rows

    def infinite(*arguments: Any, **options: Any) -> Any:
        return [{**row, "hinge": float("inf")} for row in rows(*arguments, **options)]

    monkeypatch.setattr(segmenter, "image_rows", infinite)
    assert study.study(config) == 1
    failed = load(config.folder).failed
    assert all("hinge not finite" in said for said in failed.values())
    assert len(failed) == 4  # of two categories: the trained and the untrained
    monkeypatch.setattr(segmenter, "image_rows", rows)
    assert study.study(config) == 0
    assert not load(config.folder).failed

    left = config.folder / "cells" / "bird" / "lovasz_hinge" / "fold0-seed0" / "resume.ckpt"
    base = config.folder / "base" / "fold0" / "resume.ckpt"
    for path in (left, base):
        path.write_bytes(b"left by a kill")
    with_bird = [one for one in voc.ids("fold0_val") if 3 in np.unique(voc.mask(one))]
    (voc.lists_folder / "birds.txt").write_text("\n".join(with_bird))
    everywhere = tiny(tmp_path / "data", tmp_path / "everywhere")
    everywhere = replace(everywhere, data=replace(everywhere.data, val_list="birds"))
    everywhere = replace(everywhere, cells=replace(config.cells, categories=["bird"]))
    assert study.study(everywhere) == 1
    failed = load(everywhere.folder).failed
    assert all(f"bird: each of the {len(with_bird)}" in said for said in failed.values())
    absent = replace(config, cells=replace(config.cells, categories=["bird", "sofa"]))
    assert study.study(absent) == 1
    assert not left.exists()
    assert not base.exists()
    failed = load(config.folder).failed
    assert {one.category for one in failed} == {"sofa"}
    assert all("sofa: none of the" in said for said in failed.values())
