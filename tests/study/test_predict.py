"""Weights that cells keep, and what `lovasz-repro predict` makes of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file

from lovasz_repro.__main__ import main
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json, sha256
from lovasz_repro.records import Cell
from lovasz_repro.study import kept, predict
from lovasz_repro.study.kept import FILE, best_cells, load_cell
from tests.helpers.places import ROOT
from tests.helpers.synthetic import write_study

SHORT = [
    "--config", str(ROOT / "experiments" / "demo.yaml"), "--data.image_size=81",
    "--data.crop_size=65", "--base.optim.steps=30", "--base.optim.validate_every=30",
    "--optim.steps=8", "--optim.validate_every=4", "--optim.lr=3e-3",
    "--tuning.lrs=[]", "--tuning.steps=[]",
    "--runtime.device=cpu", "--runtime.threads=1", "--cells.categories=[bird]",
    "--cells.losses=[cross_entropy, lovasz_hinge]", "--cells.seeds=[0]",
]  # fmt: skip


def options(shapes_root: Path, runs: Path) -> list[str]:
    cache = str(shapes_root / "cache")
    return [*SHORT, "--data.root", str(shapes_root), "--data.cache", cache, "--runs", str(runs)]


@pytest.fixture(scope="module")
def finished(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one category and two losses that kept all weights."""
    runs = tmp_path_factory.mktemp("kept")
    command = ["study", *options(shapes_root, runs), "--runtime.keep_weights=all"]
    assert main(command) == 0
    return runs / "demo"


CELL = "cells/bird/lovasz_hinge/fold0-seed0"


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.array(image)


def images(root: Path) -> Path:
    return root / "VOCdevkit/VOC2012/JPEGImages"


def test_a_done_cell_gets_the_weights_that_are_asked_for(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "demo")
    kept = (tmp_path / "demo" / CELL / FILE).read_bytes()
    (tmp_path / "demo" / CELL / FILE).unlink()
    wanted = [*options(shapes_root, tmp_path), "--runtime.keep_weights=all"]
    assert main(["study", *wanted, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "3 cells, 3 done, 0 to run" in said
    assert "weights of 1 done cell: to be made" in said
    assert "tuning: done" in said
    cell = ["--category", "bird", "--loss", "lovasz_hinge"]
    assert main(["fit", *wanted, *cell]) == 0
    assert "already done" not in capsys.readouterr().out
    assert (tmp_path / "demo" / CELL / FILE).read_bytes() == kept
    assert main(["fit", *wanted, *cell]) == 0
    assert "already done" in capsys.readouterr().out


def test_masks_are_those_that_the_cell_was_scored_by(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(finished / CELL / "images.csv")
    folder = tmp_path / "val"
    folder.mkdir()
    for name in table["id"]:
        shutil.copy(images(shapes_root) / f"{name}.jpg", folder)
    command = ["predict", "--cell", str(finished / CELL), str(folder), "--out", str(tmp_path / "o")]
    assert main([*command, "--probabilities", "--batch", "3"]) == 0
    assert f"{len(table)} images" in capsys.readouterr().out
    masks = shapes_root / "VOCdevkit/VOC2012/SegmentationClass"
    for row in table.itertuples():
        mask = pixels(tmp_path / "o/masks" / f"{row.id}.png")
        labels = pixels(masks / f"{row.id}.png")
        assert mask.shape == labels.shape
        assert set(np.unique(mask)) <= {0, 3}  # bird's label in VOC
        known = (labels != 255) | (row.has_category == 0)  # void is background without the category
        found = (mask == 3) & known
        counts = [(found & (labels == 3)).sum(), (found & (labels != 3)).sum()]
        # A pixel whose logit is 0 but for rounding may differ.
        assert np.abs(np.array(counts) - [row.tp, row.fp]).max() <= 2
        probability = np.load(tmp_path / "o/probabilities" / f"{row.id}.npy")
        assert probability.shape == mask.shape
        assert ((probability > 0.5) != (mask == 3)).mean() < 0.01
        overlay = pixels(tmp_path / "o/overlays" / f"{row.id}.png").astype(int)
        image = pixels(folder / f"{row.id}.jpg").astype(int)
        assert (overlay[mask == 0] == image[mask == 0]).all()
        assert (overlay[mask == 3] != image[mask == 3]).any(-1).all() or not (mask == 3).any()
    assert table["tp"].sum() + table["fp"].sum() > 0


def test_one_image_larger_than_the_canvas_upright_at_the_tuned_threshold(
    finished: Path, shapes_root: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    picture = Image.fromarray(pixels(images(shapes_root) / "val_000001.jpg")).resize((400, 300))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(photo, exif=exif)
    command = ["predict", str(photo), "--cell", str(finished / CELL), "--out", str(tmp_path / "o")]
    assert main([*command, "--threshold", "tuned"]) == 0
    assert pixels(tmp_path / "o/masks/photo.png").shape == (400, 300)
    assert pixels(tmp_path / "o/overlays/photo.png").shape == (400, 300, 3)
    assert not (tmp_path / "o/probabilities").exists()
    assert main([*command, "--threshold", "1e9"]) == 0
    assert not pixels(tmp_path / "o/masks/photo.png").any()


def test_weights_are_what_result_json_says(finished: Path) -> None:
    for cell in finished.glob("cells/bird/*/*"):
        result = read_json(cell / "result.json")
        if result["loss"] == "untrained":
            assert "weights" not in result
            assert not (cell / FILE).exists()
            continue
        assert result["weights"] == sha256((cell / FILE).read_bytes())
        tensors = load_file(cell / FILE)
        assert {name.split(".")[0] for name in tensors} <= {"head", "mean", "std"}  # what it trains
    # The untrained network can predict as well: it is the base's.
    assert load_cell(finished / "cells/bird/untrained/fold0-seed0").label == 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda run: (run / CELL / FILE).unlink(),
            "kept no weights; make them with lovasz-repro fit",
        ),
        (lambda run: (run / CELL / FILE).write_bytes(b"x"), "not the file that result.json"),
        (lambda run: (run / CELL / "result.json").unlink(), "not the folder of a finished cell"),
        (lambda run: (run / "base/fold0/network.pt").unlink(), "network.pt: missing"),
    ],
)
def test_what_is_wrong_with_a_cell_is_said_in_one_line(
    damage: object, said: str, finished: Path, shapes_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "demo"
    shutil.copytree(finished, run)
    assert callable(damage)
    damage(run)
    image = str(images(shapes_root) / "val_000001.jpg")
    assert main(["predict", "--cell", str(run / CELL), image, "--out", str(tmp_path / "o")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_folder_near_the_root_is_not_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    with pytest.raises(UserError, match="/x is not the folder of a finished cell"):
        load_cell("/x")


def test_what_is_wrong_with_images_is_said_in_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(images: Path) -> str:
        command = ["predict", "--cell", str(finished / CELL), str(images), "--out", str(tmp_path)]
        assert main(command) == 1
        return capsys.readouterr().err

    assert "no such image or folder" in error(tmp_path / "nowhere")
    folder = tmp_path / "in"
    folder.mkdir()
    assert "no image in this folder" in error(folder)
    (folder / "a.jpg").write_bytes(b"no image")
    assert "a.jpg: cannot be decoded" in error(folder)
    (folder / "a.png").write_bytes(b"no image")
    assert "a.jpg and a.png would both be a.png" in error(folder)


def test_a_broken_image_does_not_stop_the_others(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor where all of a batch is broken, as the last one is here, which holds e alone."""
    folder, out = tmp_path / "in", tmp_path / "o"
    folder.mkdir()
    for name, image in (("a", "val_000001"), ("d", "val_000002")):
        shutil.copy(images(shapes_root) / f"{image}.jpg", folder / f"{name}.jpg")
    for name in "bce":
        (folder / f"{name}.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    command = ["predict", "--cell", str(finished / CELL), "--out", str(out), "--batch", "2"]
    decoded = []
    original = predict.read

    def counting(path: Path) -> Any:
        decoded.append(path.stem)
        return original(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "read", counting)
        assert main([*command, str(folder)]) == 1
    assert decoded == list("abcde")  # each once
    said = capsys.readouterr()
    assert said.out == f"2 images: masks and overlays in {out}\n"
    named = [f"lovasz-repro: {folder / name}.jpg: cannot be decoded" for name in "bce"]
    assert [line.split(" (")[0] for line in said.err.splitlines()] == named
    assert sorted(path.name for path in out.rglob("*.png")) == ["a.png"] * 2 + ["d.png"] * 2
    beside_broken = pixels(out / "masks/a.png")
    assert main([*command, str(folder / "a.jpg")]) == 0
    assert (pixels(out / "masks/a.png") == beside_broken).all()
    capsys.readouterr()
    assert main([*command, str(folder / "b.jpg")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_the_best_of_a_category_is_kept_and_made_again(
    finished: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`best` leaves one file a category; from records alone the best is trained again."""
    run = tmp_path / "demo"
    shutil.copytree(finished, run)
    for path in run.rglob(FILE):
        path.unlink()
    (run / "base/fold0/network.pt").unlink()
    command = ["study", *options(shapes_root, tmp_path), "--runtime.keep_weights=best"]
    assert main(command) == 0
    kept = [path.parent.relative_to(run) for path in run.rglob(FILE)]
    best = best_cells(run, read_json(run / "study.json")["hash"])
    assert kept == [Path(cell.path) for cell in best]
    scores = {p.parent: read_json(p)["image_iou"] for p in run.glob("cells/*/[cl]*/*/result.json")}
    assert scores[run / kept[0]] == max(scores.values())
    load_cell(run / kept[0])
    stamp = (run / kept[0] / FILE).stat().st_mtime_ns
    assert main(command) == 0
    assert (run / kept[0] / FILE).stat().st_mtime_ns == stamp


def test_a_cell_that_finishes_while_others_are_dropped_keeps_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with two workers: the better cell ends between one's two looks at the folder."""
    losses = ["cross_entropy", "hinge", "lovasz_hinge"]
    write_study(tmp_path, categories=["bird", "cat"], losses=losses, folds=(0,), seeds=(0,))
    digest = read_json(tmp_path / "study.json")["hash"]
    for path in tmp_path.glob("cells/*/*/*/result.json"):
        (path.parent / FILE).touch()
    best = {cell.category: cell for cell in best_cells(tmp_path, digest)}["bird"]
    late = tmp_path / best.path / "result.json"
    result = late.read_bytes()
    late.unlink()
    second = {cell.category: cell for cell in best_cells(tmp_path, digest)}["bird"]

    def and_then_the_late_one(*arguments: Any) -> list[Cell]:
        found = best_cells(*arguments)
        late.write_bytes(result)
        return found

    monkeypatch.setattr(kept, "best_cells", and_then_the_late_one)
    kept.drop_others(tmp_path, "bird", digest)
    there = {path.parent for path in tmp_path.glob(f"cells/bird/*/*/{FILE}")}
    assert there == {tmp_path / best.path, tmp_path / second.path}
    kept.drop_others(tmp_path, "bird", digest)  # as the late one does
    assert [path.parent for path in tmp_path.glob(f"cells/bird/*/*/{FILE}")] == [late.parent]
    assert len(list(tmp_path.glob(f"cells/cat/*/*/{FILE}"))) == len(losses)


def test_a_done_cell_is_not_run_twice_unless_asked(
    finished: Path, shapes_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", *options(shapes_root, finished.parent), "--runtime.keep_weights=all"]
    command += ["--category", "bird", "--loss", "lovasz_hinge"]
    file = finished / CELL / FILE
    before = file.stat().st_mtime_ns, file.read_bytes()
    assert main(command) == 0
    assert "already done; --again" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before[0]
    assert main([*command, "--again"]) == 0
    assert "already done" not in capsys.readouterr().out
    assert file.stat().st_mtime_ns != before[0]
    assert file.read_bytes() == before[1]
    stamp = file.stat().st_mtime_ns
    # At another rate, it would replace the records and the weights.
    other = [*command, "--optim.lr=0.004"]
    assert main(other) == 1
    error = capsys.readouterr().err
    assert f"{finished / CELL}: done at learning rate " in error
    assert "now it would be 0.004" in error
    assert "--again replaces it" in error
    assert file.stat().st_mtime_ns == stamp
