"""Nothing is chosen on an image that it is then scored on, in any shipped experiment and fold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lovasz_repro.__main__ import _experiment
from lovasz_repro.config import Experiment
from lovasz_repro.data.voc import CATEGORIES, VOC
from lovasz_repro.errors import UserError
from lovasz_repro.options import parser
from lovasz_repro.study.workspace import Workspace
from tests.helpers.places import ROOT

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


def shipped(path: Path, root: Path, cache: Path) -> Experiment:
    options = parser().parse_args(["study", "--config", str(path)])
    config = _experiment(parser().instantiate(options)["study"])
    size = 17  # fits output strides 8 and 16, so that all share a cache
    data = replace(config.data, root=str(root), cache=str(cache), image_size=size, crop_size=size)
    return replace(config, data=data)


def check(workspace: Workspace, fold: int) -> None:
    """The images of a fold by what they are used for are disjoint."""
    ids = np.array(workspace.images.ids)
    listed = set(workspace.list_ids("train", fold))
    scored = set(workspace.list_ids("val", fold))
    chosen_on = set(ids[workspace.holdout(fold)])
    trained_on = set(ids[workspace.train_index(fold)])
    assert chosen_on
    assert chosen_on <= listed
    assert not chosen_on & scored
    assert not chosen_on & trained_on
    assert chosen_on | trained_on == listed
    assert not trained_on & scored


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_images_to_choose_on_are_neither_trained_on_nor_scored(
    path: Path, shapes_root: Path, partitioned_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.getbasetemp() / "protocol"
    root = shapes_root if path.stem == "demo" else partitioned_root
    workspace = Workspace(shipped(path, root, cache))
    assert set(workspace.config.cells.folds) <= set(workspace.folds)
    for fold in workspace.folds:
        check(workspace, fold)
        held_out = workspace.holdout(fold)
        # Few shapes; the sample lacks most of trainaug.
        if path.stem not in ("demo", "paper", "multiclass_paper"):
            names = workspace.config.data.classes
            assert all(workspace.present(name)[held_out].sum() >= 5 for name in names)
        if workspace.config.tuning.holdout_list == "val":
            # The published network has seen VOC's training images.
            assert set(np.array(workspace.images.ids)[held_out]) <= set(VOC(root).ids("val"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_loss_gets_the_same_trials(path: Path) -> None:
    config = shipped(path, Path(), Path())
    tuning = config.tuning
    assert tuning.lrs
    assert tuning.extend  # a best rate at the edge of the range is tried beyond
    if path.stem != "demo" and config.task == "binary":
        assert len(set(tuning.categories)) >= 6
        assert len(set(tuning.seeds)) >= 2


def test_each_category_is_shared_out_evenly(
    partitioned_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = next(path for path in EXPERIMENTS if path.stem == "finetune")
    cache = tmp_path_factory.getbasetemp() / "protocol"
    workspace = Workspace(shipped(path, partitioned_root, cache))
    for fold in workspace.folds:
        candidates = set(workspace.list_ids("train", fold)) & set(workspace.voc.ids("val"))
        index = workspace.images.indices(sorted(candidates))
        for name in CATEGORIES:
            present = workspace.present(name)
            half = present[index].sum() / 2
            assert abs(present[workspace.holdout(fold)].sum() - half) <= 2, name


def test_a_list_without_candidates_is_named(shapes_root: Path, tmp_path: Path) -> None:
    path = next(path for path in EXPERIMENTS if path.stem == "demo")
    config = shipped(path, shapes_root, tmp_path)
    tuning = replace(config.tuning, holdout_list="fold0_val")
    with pytest.raises(UserError, match=r"fold 0 and 'fold0_val' share 0 images"):
        Workspace(replace(config, tuning=tuning)).holdout(0)
