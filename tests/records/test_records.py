from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lovasz_repro.errors import UserError
from lovasz_repro.files import atomic, sha256, write_bytes, write_json, write_table
from lovasz_repro.records import Cell, Grid, load
from lovasz_repro.records.cells import CURVE_COLUMNS, IMAGE_COLUMNS
from lovasz_repro.report.gallery import choose
from tests.helpers.synthetic import write_study

CELL = Cell("bird", "hinge", 0, 0)
SHOWN = {
    **{"width": 200, "height": 150},
    **{"image": "a.jpg", "truth": "b.png", "outline": "c.png", "overlays": {"hinge": "d.png"}},
}
GRID = Grid(("bird", "cat"), ("cross_entropy", "hinge"), (0,), (0, 1))


def study(runs: Path, **options: object) -> Path:
    write_study(
        runs,
        categories=GRID.categories,
        losses=GRID.losses,
        folds=GRID.folds,
        seeds=GRID.seeds,
        images_per_cell=8,
        **options,  # type: ignore[arg-type]
    )
    return runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return study(tmp_path / "runs")


def zipped(runs: Path) -> Path:
    archive = runs.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(runs.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(runs))
    return archive


def resign(folder: Path, table: str) -> None:
    """Make result.json agree with the table beside it again."""
    result = json.loads((folder / "result.json").read_text())
    result["files"][table] = sha256((folder / table).read_bytes())
    write_json(folder / "result.json", result)


def test_a_whole_study_is_read_back(runs: Path) -> None:
    records = load(runs)
    assert records.grid == Grid(**{name: list(value) for name, value in vars(GRID).items()})
    assert list(records.results) == records.grid.cells()
    assert (records.missing, records.failed, records.stale) == ([], {}, [])
    assert list(records.images.columns) == ["category", "loss", "fold", "seed", *IMAGE_COLUMNS]
    assert list(records.curves.columns) == ["category", "loss", "fold", "seed", *CURVE_COLUMNS]
    assert len(records.images) == 8 * len(GRID.cells())
    assert records.images["id"].map(type).eq(str).all()
    assert records.bases[0]["iou"].keys() == {"bird", "cat"}
    assert records.costs[CELL]["seconds_per_step"] > 0
    assert records.tuning["fold0"]["hinge"]["lr"] > 0


def test_stored_numbers_agree_with_the_tables(runs: Path) -> None:
    records = load(runs)
    means = records.images.groupby(["category", "loss", "fold", "seed"])["iou"].mean()
    for cell, result in records.results.items():
        mean = means.loc[(cell.category, cell.loss, cell.fold, cell.seed)]
        assert result["image_iou"] == pytest.approx(mean, abs=1e-6)


def test_losses_are_innermost_in_the_grid() -> None:
    cells = GRID.cells()
    assert [cell.loss for cell in cells[:2]] == ["cross_entropy", "hinge"]
    assert len({(c.category, c.fold, c.seed) for c in cells[:2]}) == 1
    assert len(set(cells)) == 8


def test_a_zip_is_read_as_its_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_study(runs, categories=GRID.categories, losses=[*GRID.losses, "lovasz_hinge"])
    (runs / GRID.cells()[-1].path / "result.json").unlink()
    images = load(runs).images.set_index(["category", "loss", "fold", "seed", "id"])
    (chosen, *_) = choose(images.reset_index(), "bird")
    place = ("bird", "hinge", chosen["fold"], chosen["seed"], chosen["id"])
    shown = {**SHOWN, **chosen, "iou": {"hinge": images["iou"][place]}}
    write_json(runs / "gallery/gallery.json", {"images": [shown]})
    folder, archive = load(runs), load(zipped(runs))
    assert folder.gallery == [shown]
    for name, value in vars(folder).items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, vars(archive)[name], check_exact=True)
        else:
            assert value == vars(archive)[name], name


def test_pictures_of_an_earlier_state_are_left_out_of_a_partial_study(tmp_path: Path) -> None:
    write_study(tmp_path, categories=GRID.categories, losses=["cross_entropy", "lovasz_hinge"])
    whole = load(tmp_path)
    (chosen, *_) = choose(whole.images, "bird")
    shown = {**SHOWN, **chosen, "gain": 0.9, "iou": {}, "overlays": {}}
    write_json(tmp_path / "gallery/gallery.json", {"images": [shown]})
    with pytest.raises(UserError, match=r"gallery\.json: images\[0\]\.gain: 0\.9"):
        load(tmp_path)
    (tmp_path / list(whole.results)[-1].path / "result.json").unlink()
    records = load(tmp_path)
    assert len(records.missing) == 1
    assert records.gallery == []


def test_missing_failed_and_stale_cells_are_told_apart(tmp_path: Path) -> None:
    missing, failed, stale = GRID.cells()[:3]
    runs = study(tmp_path, missing=[missing], failed={failed: "loss is NaN"}, stale=[stale])
    records = load(runs)
    assert records.missing == [missing]
    assert records.failed == {failed: "loss is NaN"}
    assert records.stale == [stale]
    assert list(records.results) == GRID.cells()[3:]
    assert len(records.images) == 8 * 5


def test_a_cell_without_result_is_not_done_whatever_else_is_there(runs: Path) -> None:
    (runs / CELL.path / "result.json").unlink()
    assert load(runs).missing == [CELL]


def test_a_study_without_any_cell_has_empty_tables(runs: Path) -> None:
    shutil.rmtree(runs / "cells")
    records = load(runs)
    assert records.missing == GRID.cells()
    assert records.images.empty
    assert "iou" in records.images
    assert "step" in records.curves


def truncate(folder: Path) -> None:
    path = folder / "images.csv"
    path.write_bytes(path.read_bytes()[:-20])


def drop_curve(folder: Path) -> None:
    (folder / "curve.csv").unlink()


def put_nan(folder: Path) -> None:
    table = pd.read_csv(folder / "images.csv", dtype={"id": str})
    table.loc[2, "hinge"] = float("nan")
    write_table(folder / "images.csv", table)
    resign(folder, "images.csv")


def put_infinity(folder: Path) -> None:
    table = pd.read_csv(folder / "curve.csv")
    table.loc[1, "image_iou"] = float("inf")
    write_table(folder / "curve.csv", table)
    resign(folder, "curve.csv")


def rename_column(folder: Path) -> None:
    table = pd.read_csv(folder / "images.csv", dtype={"id": str})
    write_table(folder / "images.csv", table.rename(columns={"iou": "IoU"}))
    resign(folder, "images.csv")


def halve_result(folder: Path) -> None:
    path = folder / "result.json"
    path.write_bytes(path.read_bytes()[:50])


def list_result(folder: Path) -> None:
    write_bytes(folder / "result.json", b"[1, 2]")


DAMAGES: list[tuple[Callable[[Path], None], str, str]] = [
    (truncate, "images.csv", "SHA-256"),
    (drop_curve, "curve.csv", "cannot be read"),
    (put_nan, "images.csv", "not a finite number in column hinge"),
    (put_infinity, "curve.csv", r"not a number in \[0, 1\] in column image_iou"),
    (rename_column, "images.csv", "expected"),
    (halve_result, "result.json", "not valid JSON"),
    (list_result, "result.json", "expected a JSON object"),
]


@pytest.mark.parametrize(("damage", "file", "message"), DAMAGES)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_named(
    runs: Path, damage: Callable[[Path], None], file: str, message: str, packed: bool
) -> None:
    damage(runs / CELL.path)
    with pytest.raises(UserError, match=message) as error:
        load(zipped(runs) if packed else runs)
    assert f"{CELL.path}/{file}" in str(error.value)


def test_what_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study\.json"):
        load(tmp_path)
    archive = tmp_path / "records.zip"
    archive.write_bytes(b"no archive")
    with pytest.raises(UserError, match="not a zip archive"):
        load(archive)


def test_an_interrupted_write_leaves_the_old_bytes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_bytes(path, b"old")

    def interrupted() -> None:
        with atomic(path) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_reader_sees_old_bytes_until_the_write_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with atomic(path) as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.suffix == ".csv"
        assert not path.exists()
    assert path.read_bytes() == b"whole"


def test_a_file_is_flushed_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses power could keep the name and lose the bytes."""
    there = []
    monkeypatch.setattr(os, "fsync", lambda file: there.append((tmp_path / "x").exists()))
    write_bytes(tmp_path / "x", b"new")
    assert there == [False]


def test_equal_values_are_equal_bytes(tmp_path: Path) -> None:
    one, two = study(tmp_path / "one"), study(tmp_path / "two")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) > 4 * len(GRID.cells())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    write_json(tmp_path / "a.json", {"b": 1, "a": "ä"})
    write_json(tmp_path / "b.json", {"a": "ä", "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"iou": float("nan")})
    assert not list(tmp_path.iterdir())


def test_finishing_a_cell_clears_its_failure(tmp_path: Path) -> None:
    runs = study(tmp_path, failed={CELL: "out of memory"})
    assert load(runs).failed
    study(tmp_path)
    records = load(runs)
    assert not records.failed
    assert not (runs / CELL.path / "failed.json").exists()
    assert records.results[CELL]["hash"] == records.study["hash"]
