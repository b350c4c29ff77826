"""Reading VOC, checking it, and what is said of damaged copies of it."""

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lovasz_repro.data.folds import write_folds
from lovasz_repro.data.shapes import generate
from lovasz_repro.data.voc import CATEGORIES, VOC, VOID, check, save_mask, voc_palette
from lovasz_repro.errors import UserError
from lovasz_repro.files import sha256
from lovasz_repro.records.stored import Stored
from tests.helpers.places import REAL, ROOT

needs_real = pytest.mark.skipif(not (REAL / "voc").is_dir(), reason="no ../shared/voc")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate(root, train=8, val=6, size=(40, 56))
    return root


@pytest.fixture
def voc(pristine: Path, tmp_path: Path) -> VOC:
    """A copy that a test may damage."""
    shutil.copytree(pristine, tmp_path / "copy")
    return VOC(tmp_path / "copy")


def silent_check(voc: VOC) -> list[str]:
    return check(voc.folder, Console(file=StringIO()))


def test_root_may_be_either_folder(pristine: Path) -> None:
    assert VOC(pristine).folder == VOC(pristine / "VOCdevkit" / "VOC2012").folder


def test_missing_root_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        VOC(tmp_path)
    assert str(tmp_path / "VOCdevkit" / "VOC2012") in str(caught.value)
    assert f"lovasz-repro data fetch --root {tmp_path}" in str(caught.value)
    assert f"lovasz-repro data shapes --root {tmp_path}" in str(caught.value)


def test_unknown_list_names_those_there_are(voc: VOC) -> None:
    with pytest.raises(UserError, match=r"trainval.*fold0_train, .*fold1_val, train, val\."):
        voc.ids("trainval")


def test_a_hidden_file_is_no_list(voc: VOC) -> None:
    """`files.atomic` leaves such a file where it is killed."""
    there = voc.list_names()
    (voc.lists_folder / ".fold0_train.host-1.part.txt").write_text("val_000001\n")
    assert voc.list_names() == there


def test_list_may_have_windows_line_ends_and_blank_lines(voc: VOC) -> None:
    (voc.lists_folder / "val.txt").write_bytes(b"val_000001\r\n\r\nval_000000\r\n")
    assert voc.ids("val") == ["val_000001", "val_000000"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\n \n", "empty"),
        ("val_000001\nval_000001\n", "val_000001 is listed twice"),
        ("/JPEGImages/val_000001.jpg /SegmentationClass/val_000001.png\n", "not an image id"),
        ("../val_000001\n", "not an image id"),
        ("val_000001 1\n", "not an image id"),
    ],
)
def test_ill_formed_list(voc: VOC, content: str, says: str) -> None:
    (voc.lists_folder / "val.txt").write_text(content)
    with pytest.raises(UserError, match=rf"val\.txt.*{says}"):
        voc.ids("val")


def test_image_is_rgb_and_exif_rotation_is_ignored(voc: VOC) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :, 0] = 200
    Image.fromarray(pixels).save(voc.image_path("val_000000"), exif=exif, quality=95)
    image = voc.image("val_000000")
    assert image.shape == (40, 60, 3)
    assert image[..., 0].mean() > 190
    assert image[..., 1:].mean() < 10


@pytest.mark.parametrize("palette", [True, False])
def test_mask_values_are_labels(voc: VOC, palette: bool) -> None:
    labels = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60) % 21
    labels[0] = VOID
    path = voc.mask_path("val_000000")
    if palette:
        save_mask(path, labels)
    else:
        Image.fromarray(labels).save(path)
    np.testing.assert_array_equal(voc.mask("val_000000"), labels)


def test_augmented_mask_is_preferred(voc: VOC) -> None:
    labels = np.full((40, 40), 7, np.uint8)
    (voc.folder / "SegmentationClassAug").mkdir()
    save_mask(voc.folder / "SegmentationClassAug" / "val_000000.png", labels)
    np.testing.assert_array_equal(voc.mask("val_000000"), labels)
    assert voc.mask_path("val_000001").parent.name == "SegmentationClass"


def truncate_image(voc: VOC) -> Path:
    path = voc.image_path("val_000001")
    path.write_bytes(path.read_bytes()[:-200])
    return path


def remove_image(voc: VOC) -> Path:
    voc.image_path("val_000001").unlink()
    return voc.image_path("val_000001")


def remove_mask(voc: VOC) -> Path:
    voc.mask_path("val_000001").unlink()
    return voc.mask_path("val_000001")


def colour_the_mask(voc: VOC) -> Path:
    path = voc.mask_path("val_000001")
    with Image.open(path) as mask:
        mask.convert("RGB").save(path)
    return path


def crop_the_mask(voc: VOC) -> Path:
    path = voc.mask_path("val_000001")
    save_mask(path, voc.mask("val_000001")[:, 1:])
    return path


def put_label_37(voc: VOC) -> Path:
    path, mask = voc.mask_path("val_000001"), voc.mask("val_000001")
    mask[0, 0] = 37
    save_mask(path, mask)
    return path


Damage = Callable[[VOC], Path]
FILE_DAMAGES: dict[Damage, str] = {
    truncate_image: "truncated",
    remove_image: "missing",
    remove_mask: "missing",
    colour_the_mask: "RGB",
    crop_the_mask: "its image",
    put_label_37: "label 37",
}


@pytest.mark.parametrize(("damage", "says"), FILE_DAMAGES.items())
def test_damaged_file_is_named(voc: VOC, damage: Damage, says: str) -> None:
    path = damage(voc)
    with pytest.raises(UserError) as caught:
        voc.pair("val_000001")
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)
    listed_in = ", ".join(name for name in voc.list_names() if "val_000001" in voc.ids(name))
    assert silent_check(voc) == [f"{caught.value} (listed in {listed_in})"]


def empty_list(voc: VOC) -> Path:
    path = voc.lists_folder / "fold0_val.txt"
    path.write_text("")
    return path


def repeat_val_id(list_name: str) -> Damage:
    def damage(voc: VOC) -> Path:
        path = voc.lists_folder / f"{list_name}.txt"
        there = path.read_text() if path.exists() else ""
        twice = voc.ids(list_name.replace("trainaug", "val").replace("train", "val"))[0]
        path.write_text(f"{there}{twice}\n")
        return path

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (empty_list, "the list is empty"),
        (repeat_val_id("train"), "is also in val.txt"),
        (repeat_val_id("trainaug"), "is also in val.txt"),
        (repeat_val_id("fold1_train"), "is also in fold1_val.txt"),
    ],
)
def test_check_names_damaged_list(voc: VOC, damage: Damage, says: str) -> None:
    path = damage(voc)
    (problem,) = silent_check(voc)
    assert problem.startswith(str(path))
    assert says in problem


def test_check_without_any_list(voc: VOC) -> None:
    shutil.rmtree(voc.lists_folder)
    (problem,) = silent_check(voc)
    assert problem.startswith(f"{voc.lists_folder}: there is no list")


def test_check_sees_masks_of_0_and_255(voc: VOC) -> None:
    """They would train as background and void."""
    for image_id in {name for list_name in voc.list_names() for name in voc.ids(list_name)}:
        save_mask(voc.mask_path(image_id), np.where(voc.mask(image_id) > 0, 255, 0).astype("uint8"))
    (problem,) = silent_check(voc)
    assert problem.startswith(f"{voc.folder}: no listed mask holds a class")


def test_a_class_named_twice_is_refused(voc: VOC) -> None:
    with pytest.raises(UserError, match="classes: a name is there twice in road, road"):
        check(voc.folder, Console(file=StringIO()), ["road", "road"])


def test_check_names_every_bad_file_in_full(voc: VOC) -> None:
    for image_id in voc.ids("train"):
        voc.image_path(image_id).write_bytes(b"no image [bold]")
        voc.mask_path(image_id).unlink()
    printed = StringIO()
    problems = check(voc.folder, Console(file=printed, width=80))
    assert len(problems) == 2 * len(voc.ids("train"))
    for image_id in voc.ids("train"):
        assert f"\n{voc.image_path(image_id)}: cannot be decoded" in printed.getvalue()
        assert f"\n{voc.mask_path(image_id)}: the file is missing" in printed.getvalue()


def test_check_counts_images_per_category(voc: VOC) -> None:
    printed = StringIO()
    assert check(voc.folder, Console(file=printed, width=80)) == []
    rows = [line.split() for line in printed.getvalue().splitlines() if line.strip()]
    lists = voc.list_names()
    for label, category in enumerate(CATEGORIES, start=1):
        counts = [sum(bool((voc.mask(i) == label).any()) for i in voc.ids(name)) for name in lists]
        assert [category, *map(str, counts)] in rows


def test_palette_has_vocs_published_colours() -> None:
    colours = np.array(voc_palette()).reshape(256, 3)  # (256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for label, colour in {**known, VOID: (224, 224, 192)}.items():
        assert tuple(colours[label]) == colour


def test_folds_share_out_val_evenly(voc: VOC) -> None:
    folds = [voc.ids(f"fold{fold}_val") for fold in range(2)]
    assert sorted(folds[0] + folds[1]) == sorted(voc.ids("val"))
    for fold in range(2):
        assert voc.ids(f"fold{fold}_train") == sorted(voc.ids("train") + folds[1 - fold])


def test_folds_are_deterministic_and_never_overwritten(voc: VOC) -> None:
    paths = sorted(voc.lists_folder.glob("fold*"))
    first = [path.read_bytes() for path in paths]
    write_folds(voc, "val")  # all are there: nothing is done
    assert [path.read_bytes() for path in paths] == first
    paths[0].unlink()
    write_folds(voc, "train")
    assert [path.read_bytes() for path in paths] == first
    paths[0].unlink()
    paths[1].write_text("val_000000\n")
    with pytest.raises(UserError, match=str(paths[1])):
        write_folds(voc, "train")
    assert paths[1].read_text() == "val_000000\n"


@needs_real
@pytest.mark.slow
def test_real_sample_passes() -> None:
    assert check(REAL / "voc", Console(file=StringIO())) == []


def test_folds_of_real_val_are_even_in_every_category(
    partitioned_root: Path, tmp_path: Path
) -> None:
    real = VOC(partitioned_root)
    for name in ("JPEGImages", "SegmentationClassAug"):
        (tmp_path / name).symlink_to(real.folder / name)
    voc = VOC(tmp_path)
    voc.lists_folder.mkdir(parents=True)
    for name in ("trainaug", "val"):
        shutil.copy(real.lists_folder / f"{name}.txt", voc.lists_folder)
    write_folds(voc, folds=3)
    folds = [voc.ids(f"fold{fold}_val") for fold in range(3)]
    assert np.ptp([len(ids) for ids in folds]) < 0.05 * len(voc.ids("val"))
    has = {i: np.bincount(voc.mask(i).ravel(), minlength=21)[1:21] > 0 for i in voc.ids("val")}
    counts = np.array([sum(has[i].astype(int) for i in ids) for ids in folds])  # (3, 20)
    assert np.ptp(counts, axis=0).max() <= 2


def test_the_lists_of_the_committed_reports_follow_from_the_committed_ids(
    partitioned_root: Path, tmp_path: Path
) -> None:
    """With `experiments/lists` anyone who has VOC trains and scores on the reports' images."""
    real = VOC(partitioned_root)
    for name in ("JPEGImages", "SegmentationClassAug"):
        (tmp_path / name).symlink_to(real.folder / name)
    voc = VOC(tmp_path)
    shutil.copytree(ROOT / "experiments/lists", voc.lists_folder)
    shutil.copy(real.lists_folder / "val.txt", voc.lists_folder)
    write_folds(voc)  # as `data fetch` does: finds its lists there
    write_folds(voc, partitions=3, name="repeat")
    compared = 0
    for report in ("finetune", "finetune_repeat", "head"):
        stored = Stored(ROOT / "reports" / report / "records.zip")
        for name, entry in json.loads(stored.read("study.json"))["data"]["lists"].items():
            assert sha256("\n".join(voc.ids(name)).encode()) == entry["sha256"], (report, name)
            compared += 1
    assert compared == 4 + 12 + 12
