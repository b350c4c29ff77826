"""The generated shapes: deterministic, well-formed, and neither empty nor full."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from lovasz_repro.data.shapes import SHAPES, draw, generate
from lovasz_repro.data.voc import CATEGORIES, VOC, VOID
from lovasz_repro.errors import UserError


def all_bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_parameters_give_same_bytes_and_a_rerun_does_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        generate(tmp_path / name, train=4, val=3, size=(40, 56))
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")
    image = VOC(tmp_path / "a").image_path("train_000000")
    image.write_bytes(b"mine")
    generate(tmp_path / "a", train=4, val=3, size=(40, 56))
    assert image.read_bytes() == b"mine"


def test_image_depends_on_seed_split_and_index_alone(tmp_path: Path) -> None:
    generate(tmp_path / "few", train=1, val=2, size=(40, 56), seed=3)
    generate(tmp_path / "many", train=3, val=4, size=(40, 56), seed=3)
    few, many = all_bytes(tmp_path / "few"), all_bytes(tmp_path / "many")
    for name, content in few.items():
        assert name.endswith((".txt", ".json")) or many[name] == content
    first = draw("train", 0)[0]
    for other in (draw("val", 0)[0], draw("train", 1)[0], draw("train", 0, seed=1)[0]):
        assert first.shape != other.shape or (first != other).any()


def test_layout_and_marker(tmp_path: Path) -> None:
    generate(tmp_path, train=4, val=3, size=(40, 56), seed=5)
    voc = VOC(tmp_path)
    assert voc.generated
    marker = json.loads((voc.folder / "SHAPES.json").read_text())
    assert marker == {"train": 4, "val": 3, "size": [40, 56], "seed": 5}
    assert {name: len(voc.ids(name)) for name in voc.list_names()} == {
        "train": 4,
        "val": 3,
        "fold0_train": 4 + 3 - len(voc.ids("fold0_val")),
        "fold0_val": len(voc.ids("fold0_val")),
        "fold1_train": 4 + len(voc.ids("fold0_val")),
        "fold1_val": 3 - len(voc.ids("fold0_val")),
    }
    for image_id in voc.ids("train"):
        image, mask = voc.pair(image_id)
        assert all(40 <= side <= 56 for side in mask.shape)
        # What is stored is what was drawn, but for JPEG's loss.
        drawn, drawn_mask = draw("train", int(image_id[-6:]), size=(40, 56), seed=5)
        np.testing.assert_array_equal(mask, drawn_mask)
        assert np.abs(image.astype(int) - drawn).mean() < 12


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    generate(tmp_path, train=4, val=3, size=(40, 56))
    with pytest.raises(UserError, match=r"SHAPES\.json.*'seed': 0.*'seed': 1"):
        generate(tmp_path, train=4, val=3, size=(40, 56), seed=1)


def test_another_data_set_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(UserError, match="is not generated"):
        generate(tmp_path)
    assert not any((tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir())


@pytest.mark.parametrize(
    "wrong", [{"train": 0}, {"val": 1}, {"size": (20, 40)}, {"size": (80, 60)}, {"seed": -1}]
)
def test_impossible_parameters(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        generate(tmp_path, **wrong)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_interrupted_generation_is_no_data_set_and_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_two(split: str, index: int, **options: object) -> object:
        if index == 2:
            raise KeyboardInterrupt
        return draw(split, index, size=(40, 56))

    with monkeypatch.context() as patch:
        patch.setattr("lovasz_repro.data.shapes.draw", stop_at_two)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, train=4, val=3, size=(40, 56))
    with pytest.raises(UserError, match="No VOC 2012"):
        VOC(tmp_path)
    generate(tmp_path, train=4, val=3, size=(40, 56))
    assert len(VOC(tmp_path).ids("train")) == 4
    assert [path.name for path in (tmp_path / "VOCdevkit").iterdir()] == ["VOC2012"]


def test_masks_are_what_a_loss_needs() -> None:
    masks = [draw("train", index)[1] for index in range(60)]
    used = {CATEGORIES.index(name) + 1 for name in SHAPES}
    labels = [set(np.unique(mask)) for mask in masks]
    assert set().union(*labels) == used | {0, VOID}
    for label in used:
        assert 0.1 < np.mean([label in image for image in labels]) < 0.6
    fractions = [
        (m == k).mean() for m, image in zip(masks, labels, strict=True) for k in image & used
    ]
    assert np.percentile(fractions, 10) < 0.03
    assert np.percentile(fractions, 90) > 0.12


def test_void_lies_between_a_shape_and_everything_else() -> None:
    for index in range(40):
        mask = draw("val", index)[1]
        beside = [(mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:])]
        for first, second in beside:
            differ = (first != second) & (first != VOID) & (second != VOID)
            assert not differ.any()
        # The void has a few pixels of width where it is an outline, and never fills the image.
        assert 0 < (mask == VOID).mean() < 0.35
        assert not ndimage.binary_erosion(mask == VOID, iterations=12).any()
