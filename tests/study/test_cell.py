"""One cell, on generated shapes: its records, their bytes, resuming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.accelerators import CUDAAccelerator
from sklearn.metrics import jaccard_score

from lovasz_repro.data.binary import SamplePlan
from lovasz_repro.data.datamodule import Batch
from lovasz_repro.data.voc import VOC, VOID
from lovasz_repro.files import read_json
from lovasz_repro.records import UNTRAINED, Cell
from lovasz_repro.records.cells import IMAGE_COLUMNS
from lovasz_repro.study.base import base_network
from lovasz_repro.study.launch import held
from lovasz_repro.study.setup import BinarySetup
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training import loop
from lovasz_repro.training.segmenter import BinarySegmenter, NonFiniteError, Segmenter
from tests.helpers.studies import Killed, kill_at, run, tiny

CELL = Cell("bird", "lovasz_hinge", 0, 0)


@pytest.fixture(scope="module")
def finished(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(shapes_root, tmp_path_factory.mktemp("cell")), CELL)


def test_records_are_whole(finished: Path, shapes_root: Path) -> None:
    images = pd.read_csv(finished / "images.csv", dtype={"id": str})
    assert list(images.columns) == list(IMAGE_COLUMNS)
    result = read_json(finished / "result.json")
    assert result["image_iou"] == pytest.approx(images["iou"].mean(), abs=1e-6)
    assert (images["has_category"] == 1).sum() == (images["has_category"] == 0).sum()
    val = VOC(shapes_root).ids("fold0_val")
    assert set(images["id"]) <= set(val)
    curve = pd.read_csv(finished / "curve.csv")
    assert curve["step"].tolist() == [2, 4, 6]
    assert not (finished / "resume.ckpt").exists()


def test_counts_are_those_of_the_masks_as_stored(finished: Path, shapes_root: Path) -> None:
    images = pd.read_csv(finished / "images.csv", dtype={"id": str})
    folder = VOC(shapes_root).folder / "SegmentationClass"
    for row in images.itertuples():
        mask = np.asarray(Image.open(folder / f"{row.id}.png"))
        assert row.tp + row.fn == (mask == 3).sum()  # bird
        assert row.tuned_tp + row.tuned_fn == (mask == 3).sum()


def test_thumbnails_agree_with_the_records(finished: Path, shapes_root: Path) -> None:
    images = pd.read_csv(finished / "images.csv", dtype={"id": str})
    with np.load(finished / "predictions.npz") as file:
        masks = np.unpackbits(file["masks"], axis=-1).astype(bool)
        assert file["ids"].tolist() == images["id"].tolist()
    assert masks.shape[1:] == (160, 160)
    voc = VOC(shapes_root)
    for row, mask in zip(images.itertuples(), masks, strict=True):
        height, width = voc.mask(row.id).shape
        shrunk = (160 / max(height, width)) ** 2
        void = (voc.mask(row.id) == 255).sum() if row.has_category else 0
        said = row.tp + row.fp
        slack = 0.02 * height * width  # the rim, at another resolution
        assert said - slack <= mask.sum() / shrunk <= said + void + slack


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_stopped_and_resumed_gives_the_same_bytes(
    finished: Path, shapes_root: Path, tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in step `stop_at` of the cell: nothing runs after it, as with kill -9."""
    config = tiny(shapes_root, tmp_path)
    with monkeypatch.context() as patch:
        kill_at(stop_at, patch, steps=config.optim.steps)
        with pytest.raises(Killed):
            run(config, CELL)
    folder = Path(config.runs) / "tiny" / CELL.path
    assert not (folder / "result.json").exists()
    assert (folder / "resume.ckpt").exists() == (stop_at >= 2)
    steps = _count_steps(monkeypatch)
    run(config, CELL)
    assert len(steps) == 6 - stop_at // 2 * 2  # goes on at the last validation
    for name in ("images.csv", "curve.csv", "result.json", "predictions.npz"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.parametrize(("spacing", "steps"), [(0.0, [2, 4, 6]), (1e6, [2, 6])])
def test_large_checkpoints_are_written_less_often(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spacing: float,
    steps: list[int],
) -> None:  # fmt: skip
    """The first, and the one before the evaluation, are always written."""
    config = tiny(shapes_root, tmp_path)
    workspace = Workspace(config)
    with held(workspace.folder):
        base_network(workspace, 0)
    monkeypatch.setattr(loop.Checkpoint, "LARGE", 0)
    monkeypatch.setattr(loop.Checkpoint, "SPACING", spacing)
    written = []
    original = loop.write_checkpoint

    def noting(path: Path, checkpoint: dict[str, Any]) -> None:
        written.append(checkpoint["global_step"])
        original(path, checkpoint)

    monkeypatch.setattr(loop, "write_checkpoint", noting)
    run(config, CELL)
    assert written == steps


def test_a_gpu_that_is_not_used_is_no_warning(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    run(tiny(shapes_root, tmp_path), CELL)  # warnings are errors


def _count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []
    original = Segmenter.training_step

    def counting(self: Segmenter, batch: Any, batch_idx: int) -> Any:
        steps.append(self.global_step)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Segmenter, "training_step", counting)
    return steps


def test_losses_of_a_cell_see_the_same_draws(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[bytes]] = {}

    def watch(loss: str) -> Callable[..., Any]:
        def step(self: Segmenter, batch: Any, batch_idx: int) -> Any:
            if type(self).__name__ == "BinarySegmenter":
                content = batch.inputs.numpy().tobytes() + batch.target.numpy().tobytes()
                seen.setdefault(loss, []).append(content)
            return original(self, batch, batch_idx)

        return step

    original = Segmenter.training_step
    for loss in ("cross_entropy", "lovasz_hinge"):
        monkeypatch.setattr(Segmenter, "training_step", watch(loss))
        run(tiny(shapes_root, tmp_path), Cell("bird", loss, 0, 0))
    assert len(seen["cross_entropy"]) == 6
    assert seen["cross_entropy"] == seen["lovasz_hinge"]


def test_head_on_features_trains_as_the_head_on_images(shapes_root: Path, tmp_path: Path) -> None:
    config = tiny(shapes_root, tmp_path, train="head")
    folder = run(config, CELL)
    assert read_json(folder / "result.json")["steps"] == 6
    workspace = Workspace(config)
    base, _ = base_network(workspace, 0)
    source = workspace.source(base, base.backbone)
    assert source.features is not None
    index = np.arange(3)
    torch.testing.assert_close(
        base.backbone(source.canvases(index, workspace.device)),
        torch.from_numpy(source.features[index]).float(),
        atol=2e-2, rtol=2e-3,
    )  # fmt: skip


def test_non_finite_loss_says_where(shapes_root: Path, tmp_path: Path) -> None:
    config = tiny(shapes_root, tmp_path, lr=1e30)
    with pytest.raises(NonFiniteError, match="between steps 0 and 2, learning rate 1e\\+30"):
        run(config, CELL)


def test_image_iou_of_the_records_is_scikit_learns(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's own logits at full size, thresholded and scored by scikit-learn."""
    logits: dict[int, NDArray[np.float32]] = {}
    original = BinarySegmenter.native

    def watch(self: BinarySegmenter, batch: Batch, grids: torch.Tensor) -> torch.Tensor:
        result = original(self, batch, grids)
        for index, one, size in zip(batch.chosen, result, batch.native_sizes, strict=True):
            logits[int(index)] = one[0, : size[0], : size[1]].numpy()
        return result

    monkeypatch.setattr(BinarySegmenter, "native", watch)
    config = tiny(shapes_root, tmp_path)
    folder = run(config, CELL)
    workspace = Workspace(config)
    images = pd.read_csv(folder / "images.csv", dtype={"id": str}).set_index("id")
    curve = pd.read_csv(folder / "thresholds.csv")
    threshold = read_json(folder / "result.json")["threshold"]
    at_one: dict[bool, list[float]] = {True: [], False: []}
    for index, score in logits.items():
        row = images.loc[workspace.images.ids[index]]
        mask = workspace.voc.mask(workspace.images.ids[index])
        truth = mask == 3  # bird
        valid = (mask != 255) | (not truth.any())
        for cut, said in ((0, row.iou), (threshold, row.tuned_iou)):
            expected = jaccard_score(truth[valid], (score > cut)[valid], zero_division=1.0)
            assert said == pytest.approx(expected, abs=1e-6)
        cuts = [-np.inf, *np.unique(score[valid])] if truth.any() else [np.inf]
        best = max(
            jaccard_score(truth[valid], (score > cut)[valid], zero_division=1.0)
            for cut in cuts[:: max(1, len(cuts) // 50)]
        )
        assert row.oracle_iou >= best - 1e-6
        cut = curve["threshold"][40]
        expected = jaccard_score(truth[valid], (score > cut)[valid], zero_division=1.0)
        at_one[bool(truth.any())].append(expected)
    for name, kind in (("present", True), ("absent", False)):
        assert curve[name][40] == pytest.approx(np.mean(at_one[kind]), abs=1e-6)


def test_the_untrained_network_is_scored_beside_the_losses(
    shapes_root: Path, tmp_path: Path
) -> None:
    config = tiny(shapes_root, tmp_path)
    folder = run(config, Cell("bird", UNTRAINED, 0, 0))
    result = read_json(folder / "result.json")
    assert (result["steps"], result["lr"]) == (0, 0.02)
    curve = pd.read_csv(folder / "curve.csv")
    assert curve["step"].tolist() == [0]
    assert curve["train_loss"].isna().all()


def test_nothing_is_trained_on_held_out_or_val_images(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    original = SamplePlan.draw

    def watch(self: SamplePlan, step: int) -> Any:
        draws = original(self, step)
        seen.update(draws.index.tolist())
        return draws

    monkeypatch.setattr(SamplePlan, "draw", watch)
    config = tiny(shapes_root, tmp_path)
    run(config, CELL)
    workspace = Workspace(config)
    held_out = workspace.holdout(0)
    assert len(held_out)
    assert seen  # the base's draws and the cell's
    assert not seen & set(held_out.tolist())
    assert not seen & set(workspace.index("val", 0).tolist())


def test_which_images_are_scored_follows_negatives_and_val_seed(
    shapes_root: Path, tmp_path: Path
) -> None:
    config = tiny(shapes_root, tmp_path)

    def scored(**keys: Any) -> tuple[set[int], set[int]]:
        """With the category and without it."""
        workspace = Workspace(replace(config, data=replace(config.data, **keys)))
        chosen = workspace.selection("bird", np.arange(len(workspace.images.ids)))
        present = workspace.present("bird")[chosen]
        return set(chosen[present].tolist()), set(chosen[~present].tolist())

    with_it, without = scored()
    assert len(without) == len(with_it) > 1
    for negatives in (0.25, 0.5, 1.5):
        sizes = [len(part) for part in scored(negatives=negatives)]
        assert sizes == [len(with_it), round(negatives * len(with_it))]
    others = scored(val_seed=1)
    assert others[0] == with_it
    assert len(others[1]) == len(without)
    assert others[1] != without


def test_what_a_cell_draws_follows_positive_fraction_and_void_in_empty(
    shapes_root: Path, tmp_path: Path
) -> None:
    config = tiny(shapes_root, tmp_path)
    data = replace(config.data, positive_fraction=0.75, void_in_empty="void")
    workspace = Workspace(replace(config, data=data))
    setup = BinarySetup(workspace, "bird", 0)
    train_index, val_index, _ = setup.indices()
    batches = setup.train("hinge", 0.01, 0, train_index, val_index, None, None, "")[2]
    for step in range(5):  # of 4 images
        assert workspace.present("bird")[batches.plan.draw(step).index].sum() == 3
    void = torch.full((1, 2, 2), VOID, dtype=torch.uint8)
    assert batches.task.target(void, torch.tensor([False])).eq(VOID).all()


def test_study_json_says_what_the_hash_stands_for(finished: Path) -> None:
    study = read_json(finished.parents[3] / "study.json")
    assert study["generated"] is True
    assert study["hash"] == read_json(finished / "result.json")["hash"]
    config = study["config"]
    assert (config["name"], config["optim"]["validate_every"]) == ("tiny", 2)
    assert not {"root", "cache"} & set(config["data"])  # they say where it ran
    assert study["data"]["lists"]["fold0_val"]["images"] == 6


def test_tensorboard_has_all_losses_and_pictures(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = finished.parents[3] / "tensorboard" / "bird" / "lovasz_hinge" / "fold0-seed0"
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    scalars = ("cross_entropy", "hinge", "soft_jaccard", "lovasz_hinge", "image_iou")
    assert {f"val/{name}" for name in scalars} <= set(tags["scalars"])
    assert "train/images_per_second" in tags["scalars"]
    assert any(tag.startswith("val/image, truth") for tag in tags["images"])
