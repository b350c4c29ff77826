"""The binary task: targets, the val selection, the plan of draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lovasz_repro.data.binary import SamplePlan, balanced_plan, balanced_selection, binary_target
from lovasz_repro.errors import UserError

LABELS = torch.tensor([[[8, 8], [3, 255]], [[0, 3], [3, 255]]], dtype=torch.uint8)
PRESENT = torch.tensor([True, False])


def test_void_becomes_background_only_in_images_without_the_category() -> None:
    target = binary_target(LABELS, 8, PRESENT, "background")
    assert target.tolist() == [[[1, 1], [0, 255]], [[0, 0], [0, 0]]]


def test_void_can_stay_void_everywhere() -> None:
    target = binary_target(LABELS, 8, PRESENT, "void")
    assert target.tolist() == [[[1, 1], [0, 255]], [[0, 0], [0, 255]]]


def test_selection_holds_every_positive_and_as_many_negatives() -> None:
    positive = np.arange(100) % 5 == 0
    chosen = balanced_selection(positive, 1.0, seed=3)
    assert positive[chosen].sum() == 20
    assert (~positive[chosen]).sum() == 20
    assert len(set(chosen)) == 40
    assert np.array_equal(chosen, balanced_selection(positive, 1.0, seed=3))
    assert not np.array_equal(chosen, balanced_selection(positive, 1.0, seed=4))


@pytest.mark.parametrize("negatives", [0.0, 0.5, 2.0])
def test_selection_holds_so_many_negatives_per_positive(negatives: float) -> None:
    positive = np.arange(100) % 5 == 0
    chosen = balanced_selection(positive, negatives, seed=3)
    assert positive[chosen].sum() == 20
    assert (~positive[chosen]).sum() == 20 * negatives


def test_selection_takes_the_negatives_there_are() -> None:
    positive = np.arange(10) != 4
    assert len(balanced_selection(positive, 1.0, seed=0)) == 10


def plan(seed: int = 0, share: float = 0.5) -> SamplePlan:
    index = np.arange(100, 200)
    return balanced_plan(
        index, index % 10 == 0, share, seed=seed, batch_size=10, scale=(0.5, 1.5), flip=True,
        what="",
    )  # fmt: skip


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    forwards = [plan().draw(step) for step in range(5)]
    backwards = [plan().draw(step) for step in reversed(range(5))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert np.array_equal(a.index, b.index)
        assert np.array_equal(a.offset, b.offset)
    assert not np.array_equal(plan().draw(1).index, plan(seed=1).draw(1).index)
    assert not np.array_equal(plan().draw(1).index, plan().draw(2).index)


def test_half_the_draws_hold_the_category() -> None:
    for step in range(20):
        draws = plan().draw(step)
        assert (draws.index % 10 == 0).sum() == 5
        assert ((draws.scale >= 0.5) & (draws.scale < 1.5)).all()
    flips = np.concatenate([plan().draw(step).flip for step in range(200)])
    assert 0.45 < flips.mean() < 0.55


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_so_large_a_share_of_the_draws_holds_the_category(share: float) -> None:
    for step in range(20):
        assert (plan(share=share).draw(step).index % 10 == 0).sum() == 10 * share


def test_a_category_in_no_training_image_is_an_error() -> None:
    with pytest.raises(UserError, match="cat, fold 0: no training image with the category"):
        balanced_plan(
            np.arange(3), np.zeros(3, bool), 0.5, seed=0, batch_size=2, scale=(1, 1), flip=False,
            what="cat, fold 0",
        )  # fmt: skip
