"""Records from strangers, and records that somebody edited: every sum in them may be right."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.files import CHECKSUM, json_bytes, read_json, sha256, write_table
from lovasz_repro.records import Cell, load, stored
from lovasz_repro.report import write_report
from lovasz_repro.report.archive import pack, read_files
from lovasz_repro.report.gallery import write_gallery
from tests.faults.harness import Fault, shows
from tests.helpers import photographs, synthetic
from tests.helpers.edits import Edit, drop, put, rewrite

CELL = "cells/bird/hinge/fold0-seed0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study with a gallery."""
    root = tmp_path_factory.mktemp("made")
    losses = ("cross_entropy", "hinge", "lovasz_hinge")
    synthetic.write_study(
        root / "runs", categories=("bird", "cat"), losses=losses, folds=(0,), seeds=(0,),
        images_per_cell=10,
    )  # fmt: skip
    photographs.write_predictions(root / "runs")
    write_gallery(root / "runs", VOC(photographs.write_voc(root / "runs", root / "voc")))
    return root / "runs"


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "in" / "runs")


def retable(folder: Path, edit: Edit, name: str = "images.csv") -> None:
    """Edit a table, and make every sum and mean in the result.json beside it right again."""
    table = pd.read_csv(folder / name, dtype={"id": str})
    edit(table)
    write_table(folder / name, table)

    def resign(result: Any) -> None:
        result["files"][name] = sha256((folder / name).read_bytes())
        if name == "images.csv":
            result["image_iou"] = float(table["iou"].mean())
            result["tuned_image_iou"] = float(table["tuned_iou"].mean())
            result["dataset_iou"] = float(table["tp"].sum() / table[["tp", "fp", "fn"]].sum().sum())

    rewrite(folder / "result.json", resign)


RESULT = f"{CELL}/result.json"
GALLERY = "gallery/gallery.json"
NOT_OF_ITS_KIND = [
    ("study.json", drop("grid"), "there is no .*grid"),
    ("study.json", drop("config"), "there is no config"),
    ("study.json", drop("data"), "there is no data"),
    ("study.json", put("config", value=[]), "config: expected object, got array"),
    ("study.json", put("data", "lists", value=7), r"data\.lists: expected object, got int"),
    ("study.json", put("grid", "losses", value=["../../x"]), r"grid\.losses\[0\]: not a name"),
    ("study.json", put("grid", "folds", value=[0, 0]), r"grid\.folds: an entry is there twice"),
    ("study.json", put("grid", "seeds", value=list(range(10**6))), "grid: .*, more than"),
    ("study.json", put("experiment", value="<b>"), "experiment: not a name"),
    ("machine.json", put("seconds", value=-1), "seconds: expected float >= 0"),
    ("machine.json", put("started", value="yesterday"), "started: invalid RFC3339"),
    ("machine.json", put("started", value="2026-01-01T00:00:00"), "started: expected `?datetime"),
    ("tuning.json", put("fold0", "hinge", "trials", 0, "image_iou", value=1.5),
     r"fold0\.hinge\.trials\[0\]\.image_iou: expected float <= 1"),
    ("base/fold0/result.json", put("miou", value="much"), "miou: expected float, got str"),
    (f"{CELL}/cost.json", put("train_seconds", value=[1]), "train_seconds: expected float"),
    (RESULT, drop("files"), "there is no .*files"),
    (RESULT, put("image_iou", value=1.2), "image_iou: expected float <= 1"),
    (RESULT, put("threshold", value=None), "threshold: expected float, got null"),
    (RESULT, put("category", value="cat"), "category: cat, but it lies in the folder of bird"),
    (GALLERY, put("images", 0, "id", value="/../../../../pwned"), r"images\[0\]\.id: not a name"),
    (GALLERY, put("images", 0, "overlays", "hinge", value="../../s.txt"),
     r"images\[0\]\.overlays\[\.\.\.\]: not a name"),
    (GALLERY, put("images", 0, "image", value="/etc/passwd"), r"images\[0\]\.image: not a name"),
    (GALLERY, put("images", 0, "width", value=10**9), r"images\[0\]\.width: expected int <= "),
    (GALLERY, put("images", 0, "iou", value={}), r"images\[0\]\.iou: there is none of"),
]  # fmt: skip


@shows(
    Fault("a record that lacks a key, or holds a value or a path that it may not",
          "one line that names file and key; nothing is read or written outside", "nothing",
          "get the records anew"),
)  # fmt: skip
@pytest.mark.parametrize(("name", "edit", "said"), NOT_OF_ITS_KIND)
@pytest.mark.parametrize("packed", [False, True])
def test_schema(runs: Path, name: str, edit: Edit, said: str, packed: bool) -> None:
    rewrite(runs / name, edit)
    if packed:
        archive = runs.with_name("records.zip")
        names = [path for path in sorted(runs.rglob("*")) if path.is_file()]
        archive.write_bytes(pack({str(p.relative_to(runs)): p.read_bytes() for p in names}))
        runs = archive
    with pytest.raises(UserError, match=f"{name}: {said}") as error:
        load(runs)
    assert "\n" not in str(error.value)


def lower_iou(table: pd.DataFrame) -> None:
    table.loc[0, "iou"] -= 0.1


def more_pixels(table: pd.DataFrame) -> None:
    """Every count and IoU agrees with every other, but not with the other cells."""
    table.loc[0, ["tp", "tuned_tp"]] += 1000
    for prefix in ("", "tuned_"):
        union = sum(table.loc[0, f"{prefix}{name}"] for name in ("tp", "fp", "fn"))
        table.loc[0, f"{prefix}iou"] = table.loc[0, f"{prefix}tp"] / union
    table.loc[0, "oracle_iou"] = 1.0


def better_trials(runs: Path) -> None:
    """The lowest rate was better, but another was chosen."""

    def edit(tuning: Any) -> None:
        for trial in tuning["fold0"]["hinge"]["trials"]:
            trial["image_iou"] = 0.9 if trial["lr"] == 0.001 else 0.5
        tuning["fold0"]["hinge"] |= {"lr": 0.003, "image_iou": 0.5}

    rewrite(runs / "tuning.json", edit)


def at(name: str, *keys: str | int, value: Any) -> Callable[[Path], None]:
    return lambda runs: rewrite(runs / name, put(*keys, value=value))


def other_edge(runs: Path) -> None:
    edge = read_json(runs / "tuning.json")["fold0"]["hinge"]["at_edge"]
    rewrite(runs / "tuning.json", put("fold0", "hinge", "at_edge", value=not edge))


def other_curve(column: str, rows: int | slice, value: float) -> Callable[[Path], None]:
    """Row 16 is that of threshold 0."""

    def edit(table: pd.DataFrame) -> None:
        table.loc[rows, column] = value

    return lambda runs: retable(runs / CELL, edit, "thresholds.csv")


def twice(table: pd.DataFrame) -> None:
    table.loc[1] = table.loc[0]


def another(table: pd.DataFrame) -> None:
    table.loc[0, "id"] = "2007_000999"


HINGE = ("fold0", "hinge")
BASE = "base/fold0/result.json"
CURVE = f"{CELL}/thresholds.csv"
EDITED: list[tuple[str, str, Callable[[Path], None]]] = [
    ("image_iou: 0.9, but images.csv", RESULT, at(RESULT, "image_iou", value=0.9)),
    ("tuned_image_iou: 0.9", RESULT, at(RESULT, "tuned_image_iou", value=0.9)),
    ("dataset_iou: 0.9", RESULT, at(RESULT, "dataset_iou", value=0.9)),
    ("images: 11", RESULT, at(RESULT, "images", value=11)),
    ("fold0.hinge.lr: 0.5 at 300", "tuning.json", at("tuning.json", *HINGE, "lr", value=0.5)),
    ("fold0.hinge.image_iou: 1, but", "tuning.json",
     at("tuning.json", *HINGE, "image_iou", value=1)),
    ("is not the choice that the trials give", "tuning.json", better_trials),
    ("iou: not what tp, fp and fn give", "images.csv", lambda r: retable(r / CELL, lower_iou)),
    ("tp + fn of 2007_000000 is not that", "images.csv", lambda r: retable(r / CELL, more_pixels)),
    ("images[0].iou.hinge: 0.5, images.csv has", GALLERY,
     at(GALLERY, "images", 0, "iou", "hinge", value=0.5)),
    ("images[0].gain: 0.5, images.csv has", GALLERY, at(GALLERY, "images", 0, "gain", value=0.5)),
    *(
        ("images.csv has no such image", GALLERY, at(GALLERY, "images", 0, key, value=value))
        for key, value in (("id", "2007_000999"), ("fold", 1), ("seed", 1), ("category", "cow"))
    ),
    ("images[0].iou.mixed: 0.9, images.csv has no such image", GALLERY,
     at(GALLERY, "images", 0, "iou", "mixed", value=0.9)),
    ("fold: 1, but it lies in the folder of 0", BASE, at(BASE, "fold", value=1)),
    ("hash: abc, but study.json has", BASE, at(BASE, "hash", value="abc")),
    ("miou: 0.9, but the mean of iou is", BASE, at(BASE, "miou", value=0.9)),
    ("base: abababab", "result.json", at(BASE, "sha256", value="cd" * 32)),
    ("base: cdcdcdcd", RESULT, at(RESULT, "base", value="cd" * 32)),
    ("fold0.hinge.at_edge:", "tuning.json", other_edge),
    ("present: 0.1 at 0, but images.csv beside it gives", CURVE, other_curve("present", 16, 0.1)),
    ("absent: 0 at 0, but images.csv beside it", CURVE, other_curve("absent", slice(16), 0.0)),
    ("absent: lower at a higher threshold", CURVE, other_curve("absent", 3, 1.0)),
    ("present: above the mean of oracle_iou", CURVE, other_curve("present", 3, 1.0)),
    ("threshold: not in ascending order", CURVE, other_curve("threshold", 3, -9.0)),
    ("threshold: there is no 0", CURVE, other_curve("threshold", 16, 0.1)),
    ("id: 2007_000000 is there twice", "images.csv", lambda r: retable(r / CELL, twice)),
    ("id: not the images of another cell", "images.csv", lambda r: retable(r / CELL, another)),
]  # fmt: skip


@shows(
    Fault("a score, rate, count, hash or image edited or made up in one record, its sums made "
          "right again", "one line that names the file and the key, and what the others give",
          "nothing", "delete what it names, then the study"),
)  # fmt: skip
@pytest.mark.parametrize(("said", "name", "edit"), EDITED, ids=[said for said, *_ in EDITED])
def test_edited(runs: Path, said: str, name: str, edit: Callable[[Path], None]) -> None:
    edit(runs)
    with pytest.raises(UserError) as error:
        load(runs)
    assert said in str(error.value)
    assert name in str(error.value)


def choose_anew(runs: Path) -> None:
    """The lowest rate was better; only the cells of another category were made at it."""

    def edit(tuning: Any) -> None:
        entry = tuning["fold0"]["hinge"]
        for trial in entry["trials"]:
            trial["image_iou"] = 0.9 if trial["lr"] == 0.001 else 0.5
        entry |= {"lr": 0.001, "image_iou": 0.9, "at_edge": True}

    rewrite(runs / "tuning.json", edit)
    rewrite(runs / RESULT.replace("bird", "cat"), put("lr", value=0.001))


@shows(
    Fault("a rate or number of steps chosen anew, or edited in a cell's record",
          "the report leaves the cells of another one out, and says so", "those cells",
          "the study makes them again"),
)  # fmt: skip
@pytest.mark.parametrize(
    "edit", [at(RESULT, "lr", value=0.5), at(RESULT, "steps", value=600), choose_anew]
)
def test_another_choice(runs: Path, edit: Callable[[Path], None]) -> None:
    whole = load(runs)
    edit(runs)
    records = load(runs)
    cell = Cell("bird", "hinge", 0, 0)
    assert records.stale == [cell]
    assert [*records.results] == [one for one in whole.results if one != cell]
    assert len(records.images) == len(whole.images) - whole.results[cell]["images"]
    # A choice that is left from before is of no use where there are no rates to choose from.
    rewrite(runs / "study.json", put("config", "tuning", "lrs", value=[]))
    assert load(runs).stale == []


@shows(
    Fault("the configuration in `study.json` edited, its sum made right again",
          "the report ends with one line that names it", "nothing", "get the records anew"),
)  # fmt: skip
@pytest.mark.parametrize(
    ("key", "value"), [("optim", {}), ("network", {"score": "channel"}), ("data", {"negatives": 2})]
)
def test_another_configuration(runs: Path, tmp_path: Path, key: str, value: Any) -> None:
    rewrite(runs / "study.json", put("config", key, value=value))
    with pytest.raises(UserError, match=r"study\.json: hash: not that of its config and data"):
        write_report(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@shows(
    Fault("a number edited in any JSON record", "one line that names the file", "nothing",
          "delete it, then the study"),
)  # fmt: skip
def test_checksum(runs: Path) -> None:
    path = runs / CELL / "cost.json"
    text = path.read_text()
    assert CHECKSUM in text
    before = read_json(path)["train_seconds"]
    path.write_text(text.replace(str(before), str(before + 1)))
    with pytest.raises(UserError, match=r"cost\.json: edited or damaged"):
        load(runs)
    path.write_text(text.replace("\n", "\n\n"))  # the same values
    assert read_json(path)["train_seconds"] == before


@shows(
    Fault("a folder or file in the records that is a link to somewhere else",
          "one line that names it", "nothing", "get the records anew"),
)  # fmt: skip
@pytest.mark.parametrize("what", ["file", "folder", "pipe"])
def test_links(runs: Path, tmp_path: Path, what: str) -> None:
    shown = load(runs).gallery[0]["image"]
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / shown).write_text("secret")
    path = runs / "gallery" / shown if what != "folder" else runs / "gallery"
    if what == "folder":
        shutil.copytree(path, tmp_path / "secret", dirs_exist_ok=True)
        shutil.rmtree(path)
        path.symlink_to(tmp_path / "secret")
    else:
        path.unlink()
        if what == "file":
            path.symlink_to(tmp_path / "secret" / shown)
        else:
            os.mkfifo(path)
            assert f"gallery/{shown}" not in read_files(runs, load(runs))  # and does not wait
            return
    with pytest.raises(UserError, match="a link" if what == "file" else "leads out of"):
        read_files(runs, load(runs))


def archived(runs: Path) -> Path:
    path = runs.with_name("records.zip")
    path.write_bytes(pack(read_files(runs, load(runs))))
    return path


@shows(
    Fault("an archive of records that unpacks to more than any records hold",
          "one line, before it is unpacked", "nothing", "get the records anew"),
)  # fmt: skip
@pytest.mark.parametrize("lies", [False, True])
def test_bomb(runs: Path, lies: bool) -> None:
    path = runs.with_name("records.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("study.json", bytes(stored.FILE_BYTES + 1))
    if lies:  # of the size, in both of its places
        size, small = (stored.FILE_BYTES + 1).to_bytes(4, "little"), (5).to_bytes(4, "little")
        path.write_bytes(path.read_bytes().replace(size, small))
    said = "study.json: damaged" if lies else "study.json: too large to be read"
    with pytest.raises(UserError, match=said):
        load(path)


def test_a_name_of_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "records.zip"
    path.write_bytes(pack({"study.json": b"{}", "cells/two\nlines": b""}))
    with pytest.raises(
        UserError, match=r"a file in it cannot be called 'cells/two\\nlines'"
    ) as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["study.json", f"{CELL}/cost.json"])
def test_a_name_that_is_there_twice(runs: Path, name: str) -> None:
    path = archived(runs)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name, json_bytes({}))
    with pytest.raises(UserError, match=f"{name}: there twice"):
        load(path)


@shows(
    Fault("a picture of the gallery that is broken or another one", "one line that names it",
          "nothing", "the study makes it again"),
)  # fmt: skip
@pytest.mark.parametrize("summed", [True, False])
def test_picture(runs: Path, tmp_path: Path, summed: bool) -> None:
    shown = load(runs).gallery[0]
    name = shown["image"]
    content = (runs / "gallery" / name).read_bytes()
    (runs / "gallery" / name).write_bytes(content[: len(content) // 2])
    if not summed:
        rewrite(runs / GALLERY, drop("images", 0, "sha256"))
    said = "damaged or edited" if summed else "not a picture"
    with pytest.raises(UserError, match=f"{name}: {said}"):
        write_report(runs, tmp_path / "report")
