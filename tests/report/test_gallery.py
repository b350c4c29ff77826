"""The gallery: who is chosen, what is written, and what is said where something is missing."""

from __future__ import annotations

import copy
import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json, write_json
from lovasz_repro.records import load
from lovasz_repro.report.gallery import choose, scaled, write_gallery
from tests.helpers import photographs, synthetic
from tests.helpers.places import ROOT

CATEGORIES = synthetic.CATEGORIES[:2]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VOC]:
    root = tmp_path_factory.mktemp("study")
    runs = root / "runs"
    losses = ("cross_entropy", "hinge", "lovasz_hinge")
    synthetic.write_study(runs, categories=CATEGORIES, losses=losses, images_per_cell=10)
    photographs.write_predictions(runs)
    voc = VOC(photographs.write_voc(runs, root / "voc"))
    write_gallery(runs, voc)
    return runs, voc


def rows(gains: dict[str, tuple[float, float]], present: int = 1) -> pd.DataFrame:
    """Images of one category under both losses and two seeds; a gain by seed."""
    return pd.DataFrame(
        [
            {"category": "cat", "fold": 0, "seed": seed, "id": name, "has_category": present}
            | {"loss": loss, "iou": 0.4 + (gain[seed] if loss == "lovasz_hinge" else 0)}
            for name, gain in gains.items()
            for seed in (0, 1)
            for loss in ("cross_entropy", "lovasz_hinge")
        ]
    )


def test_the_rule_takes_the_mean_over_seeds() -> None:
    gains = {"a": (0.5, -0.5), "b": (0.2, 0.3), "c": (0.1, 0.1), "d": (-0.3, 0.0), "e": (-0.1, 0.0)}
    picked = {entry["rule"]: entry for entry in choose(rows(gains), "cat")}
    assert {rule: entry["id"] for rule, entry in picked.items()} == {
        "largest gain": "b",
        "median": "a",
        "largest loss": "d",
    }
    assert picked["largest gain"]["gain"] == pytest.approx(0.25)


def test_ties_go_by_id_and_no_image_is_shown_twice() -> None:
    picked = choose(rows({"b": (0.1, 0.1), "a": (0.1, 0.1)}), "cat")
    assert [(entry["id"], entry["rule"]) for entry in picked] == [
        ("a", "largest gain"),
        ("b", "largest loss"),
    ]


def test_images_without_the_category_are_not_chosen() -> None:
    assert choose(rows({"a": (0.1, 0.1)}, present=0), "cat") == []


def test_a_gallery_of_an_earlier_state_is_made_again(study: tuple[Path, VOC]) -> None:
    """Cells that ran again, at another rate, have other scores than the gallery names."""
    runs, voc = study
    path = runs / "gallery" / "gallery.json"
    whole = read_json(path)
    changed = copy.deepcopy(whole)
    changed["images"][0]["iou"]["hinge"] /= 2
    write_json(path, changed)
    with pytest.raises(UserError, match=r"gallery\.json"):
        load(runs)
    write_gallery(runs, voc)
    assert read_json(path) == whole
    load(runs)


def test_where_a_seed_lacks_predictions_another_is_shown(
    study: tuple[Path, VOC], tmp_path: Path
) -> None:
    """The records of a report lack them: a study that goes on from there has the new seeds'."""
    runs = shutil.copytree(study[0], tmp_path / "runs")
    before = load(runs).gallery
    for path in runs.glob("cells/*/*/*-seed0/predictions.npz"):
        path.unlink()
    write_gallery(runs, study[1])
    after = load(runs).gallery
    assert {entry["seed"] for entry in before} == {0}
    assert {entry["seed"] for entry in after} == {1}
    assert [entry["gain"] for entry in before] == [entry["gain"] for entry in after]


def test_without_any_predictions_the_gallery_stays_as_it_is(
    study: tuple[Path, VOC], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = shutil.copytree(study[0], tmp_path / "runs")
    folder = runs / "gallery"
    for path in runs.rglob("predictions.npz"):
        path.unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_gallery(runs, study[1])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    entries = load(runs).gallery
    (folder / entries[0]["truth"]).write_bytes(b"damaged")
    write_gallery(runs, study[1])
    assert load(runs).gallery == entries[1:]
    assert f"{entries[0]['category']}, {entries[0]['rule']}" in capsys.readouterr().err


def test_a_seed_without_both_losses_is_not_shown(study: tuple[Path, VOC], tmp_path: Path) -> None:
    runs = shutil.copytree(study[0], tmp_path / "runs")
    for path in runs.glob("cells/*/lovasz_hinge/*-seed0/result.json"):
        path.unlink()
    write_gallery(runs, study[1])
    assert {entry["seed"] for entry in load(runs).gallery} == {1}


def test_entries_name_their_pictures_and_scores(study: tuple[Path, VOC]) -> None:
    runs, _ = study
    records = load(runs)
    assert [entry["category"] for entry in records.gallery] == [
        c for c in CATEGORIES for _ in "123"
    ]
    for entry in records.gallery:
        files = [entry["image"], entry["truth"], entry["outline"], *entry["overlays"].values()]
        assert all((runs / "gallery" / name).is_file() for name in files)
        cells = records.images.query(
            "category == @entry['category'] and id == @entry['id'] and seed == @entry['seed']"
        )
        assert entry["iou"] == pytest.approx(dict(zip(cells["loss"], cells["iou"], strict=True)))


def test_the_overlay_is_the_prediction(study: tuple[Path, VOC]) -> None:
    runs, _ = study
    entry = load(runs).gallery[0]
    cell = f"cells/{entry['category']}/hinge/fold{entry['fold']}-seed{entry['seed']}"
    with np.load(runs / cell / "predictions.npz") as arrays:
        place = list(arrays["ids"]).index(entry["id"])
        canvas = np.unpackbits(arrays["masks"][place], axis=-1).astype(bool)
    overlay = Image.open(runs / "gallery" / entry["overlays"]["hinge"])
    opaque = np.asarray(overlay.convert("RGBA"))[..., 3] > 0
    width, height = scaled((photographs.WIDTH, photographs.HEIGHT), 160)
    assert opaque.shape == (height, width)
    assert (opaque == canvas[:height, :width]).all()


def test_truth_and_outline_lie_on_the_object(study: tuple[Path, VOC]) -> None:
    runs, _ = study
    entry = load(runs).gallery[0]
    truth, outline = (
        np.asarray(Image.open(runs / "gallery" / entry[key]).convert("RGBA")).astype(int)
        for key in ("truth", "outline")
    )
    inside = truth[..., 3] > 0
    white = (outline[..., 3] > 0) & (outline[..., 0] == 255)
    black = (outline[..., 3] > 0) & (outline[..., 0] == 0)
    assert inside.mean() == pytest.approx(np.pi * 25**2 / (90 * 120), rel=0.05)
    assert (inside[white]).all()
    assert not inside[black].any()


def test_pictures_are_small(study: tuple[Path, VOC]) -> None:
    runs, _ = study
    for path in (runs / "gallery").glob("*.[jp][pn]g"):
        assert max(Image.open(io.BytesIO(path.read_bytes())).size) <= 200
        assert path.stat().st_size < 20_000


def test_written_again_it_has_the_same_bytes_and_nothing_left_over(study: tuple[Path, VOC]) -> None:
    runs, voc = study
    folder = runs / "gallery"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "old.png").write_bytes(b"of an earlier choice")
    write_gallery(runs, voc)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_without_both_losses_the_gallery_is_empty(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    synthetic.write_study(runs, categories=CATEGORIES, losses=("hinge",), images_per_cell=4)
    write_gallery(runs, VOC(photographs.write_voc(runs, tmp_path / "voc")))
    assert read_json(runs / "gallery/gallery.json") == {"images": []}


def test_missing_predictions_are_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    losses = ("cross_entropy", "lovasz_hinge")
    synthetic.write_study(runs, categories=CATEGORIES, losses=losses, images_per_cell=4)
    voc = VOC(photographs.write_voc(runs, tmp_path / "voc"))
    with pytest.raises(UserError, match=r"predictions\.npz: cannot be read"):
        write_gallery(runs, voc)


@pytest.mark.parametrize("name", ["finetune", "head"])
def test_no_two_entries_share_a_picture(name: str) -> None:
    """Partitions score an image several times: `head` shows one in two folds."""
    entries = load(ROOT / "reports" / name / "records.zip").gallery
    pictures = [file for entry in entries for file in entry["sha256"]]
    assert len(set(pictures)) == len(pictures) > 0
    shown = {(entry["category"], entry["id"]) for entry in entries}
    assert (len(shown) < len(entries)) == (name == "head")
