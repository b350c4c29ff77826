"""image-IoU and the IoU of labels against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex

from lovasz_repro.training.metrics import (
    THRESHOLDS,
    ImageIoU,
    LabelIoU,
    confusion,
    iou,
    iou_at_thresholds,
    label_confusion,
    oracle_iou,
    threshold_of_best_image_iou,
)


def batch(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (count, 5, 7), generator=generator)
    target[target == 2] = 255
    prediction = torch.rand(count, 5, 7, generator=generator) < 0.4
    # Empty truth with and without a prediction, and an image of void.
    target[0], prediction[0] = 0, False
    target[1] = 0
    target[2] = 255
    return prediction, target


def sklearn_image_iou(prediction: torch.Tensor, target: torch.Tensor) -> float:
    scores = []
    for said, truth in zip(prediction, target, strict=True):
        valid = truth != 255
        if not valid.any():
            scores.append(1.0)
            continue
        scores.append(jaccard_score(truth[valid], said[valid], zero_division=1.0))
    return sum(scores) / len(scores)


def test_as_scikit_learn() -> None:
    prediction, target = batch()
    metric = ImageIoU()
    for start in range(0, len(target), 7):  # in uneven batches
        metric.update(prediction[start : start + 7], target[start : start + 7])
    assert float(metric.compute()) == pytest.approx(sklearn_image_iou(prediction, target), abs=1e-9)


def test_empty_union_counts_one_and_a_false_alarm_zero() -> None:
    prediction, target = batch()
    values = iou(confusion(prediction, target))
    assert values[0] == 1
    assert values[1] == 0
    assert values[2] == 1


def test_probabilities_are_refused() -> None:
    with pytest.raises(TypeError, match="bool expected"):
        ImageIoU().update(torch.rand(1, 4), torch.zeros(1, 4))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        ImageIoU().update(torch.zeros(1, 4, dtype=torch.bool), torch.zeros(1, 5))


def test_the_iou_of_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (6, 5, 7), generator=generator)
    prediction = torch.randint(0, 4, (6, 5, 7), generator=generator)
    target[:, 0], target[1] = 255, 255
    prediction[:, 2] = target[:, 2].clamp(max=3)
    valid = target != 255
    whole, half = LabelIoU(5), LabelIoU(5)  # no pixel of label 4
    for images in (slice(0, 4), slice(4, 6)):
        whole.update(label_confusion(prediction[images], target[images].byte(), 5))

    values = whole.compute()
    theirs = jaccard_score(target[valid], prediction[valid], labels=range(4), average=None)
    np.testing.assert_allclose(values[:4], theirs, rtol=1e-12)
    assert values[4].isnan()
    index = MulticlassJaccardIndex(5, average=None, ignore_index=255)
    np.testing.assert_allclose(values[:4], index(prediction, target)[:4], rtol=1e-6)

    half.update(label_confusion(prediction[:4], target[:4], 5))
    other = LabelIoU(5)
    other.update(label_confusion(prediction[4:], target[4:], 5))
    half.merge_state(other)  # as from another device
    torch.testing.assert_close(half.compute(), values, rtol=0, atol=0, equal_nan=True)


def test_the_first_of_equal_scores_is_predicted() -> None:
    """`max` is faster than `argmax`, and chooses the same label among equals."""
    scores = torch.randint(0, 3, (4, 21, 9, 11), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(scores.max(1).indices, scores.argmax(1))
    first = (scores == scores.amax(1, keepdim=True)).float().cumsum(1).eq(1).float().argmax(1)
    assert torch.equal(scores.max(1).indices, first)


def test_the_threshold_undoes_a_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(20, 30, generator=generator) < 0.3).long()
    logits = torch.where(target == 1, 1.0, -1.0) + 0.1 * torch.randn(20, 30, generator=generator)
    threshold, best = threshold_of_best_image_iou(logits - 3, target)
    assert best > 0.97
    assert -3.9 < threshold < -2.1


def test_zero_is_kept_among_equals() -> None:
    target = torch.tensor([[1, 0, 0, 0]])
    logits = torch.tensor([[2.0, -1.0, -1.5, -2.0]])
    assert threshold_of_best_image_iou(logits, target) == (0.0, 1.0)


def test_iou_at_thresholds_is_that_of_each_prediction() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 7, 9) * 3
    logits[0, 0] = THRESHOLDS[30].float()  # equal to a threshold: not above it
    target = torch.randint(0, 2, (3, 7, 9))
    target[1] = 0
    target[:, 2] = 255
    expected = torch.stack([iou(confusion(logits > t, target)) for t in THRESHOLDS.float()], dim=1)
    torch.testing.assert_close(iou_at_thresholds(logits, target), expected, rtol=0, atol=0)


def test_oracle_iou_is_the_best_of_all_thresholds() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, 5).round(decimals=1)  # ties
    target = torch.randint(0, 2, (4, 6, 5))
    target[1] = 0
    target[2, :3] = 255
    target[3] = 255
    cuts = [-10.0, *sorted(set(logits.flatten().tolist()))]
    every = torch.stack([iou(confusion(logits > cut, target)) for cut in cuts])
    torch.testing.assert_close(oracle_iou(logits, target), every.amax(0), rtol=0, atol=1e-12)
