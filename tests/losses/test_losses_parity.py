"""The losses against segmentation_models_pytorch and kornia, where their conventions coincide.

And ours on a CPU against ours on a GPU, whose operations run here, too.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from lovasz_repro.losses import Loss, dispatch, lovasz_hinge, lovasz_softmax
from lovasz_repro.losses.extension import Method


def value_and_gradient(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def batch(*shape: int, labels: int = 2, void: bool = False) -> tuple[Tensor, Tensor]:
    """Logits ``(B, [C,] H, W)`` in float32 and labels ``(B, H, W)``; every label is present."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator) * 2
    pixels = (shape[0], *shape[-2:])
    target = torch.randint(0, labels, pixels, generator=generator)
    if void:
        target[torch.rand(pixels, generator=generator) < 0.2] = 255
    assert set(range(labels)) <= set(target.flatten().tolist())
    return logits, target


def assert_same(ours: Loss, theirs: Loss, logits: Tensor, target: Tensor) -> None:
    """To the accuracy of a cumulative ratio in float32, which is theirs; smp takes no float64."""
    torch.testing.assert_close(
        value_and_gradient(ours, logits, target),
        value_and_gradient(theirs, logits, target),
        rtol=1e-5,
        atol=1e-6,
        check_dtype=False,
    )


@pytest.mark.parametrize("per_image", [True, False])
def test_smp_hinge_with_void(per_image: bool) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.losses.LovaszLoss("binary", per_image=per_image, ignore_index=255)
    assert_same(partial(lovasz_hinge, per_image=per_image), theirs, *batch(3, 13, 11, void=True))


def test_smp_counts_an_image_of_void_too() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = batch(3, 13, 11, void=True)
    target[1] = 255
    theirs = smp.losses.LovaszLoss("binary", per_image=True, ignore_index=255)
    assert_same(lovasz_hinge, theirs, logits, target)


@pytest.mark.parametrize("per_image", [True, False])
def test_smp_softmax_with_void_and_an_absent_class(per_image: bool) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = batch(3, 5, 13, 11, labels=4, void=True)
    target[0][target[0] == 2] = 1
    theirs = smp.losses.LovaszLoss("multiclass", per_image=per_image, ignore_index=255)
    assert_same(partial(lovasz_softmax, per_image=per_image), theirs, logits, target)


def test_kornia_hinge() -> None:
    losses = pytest.importorskip("kornia.losses")
    assert_same(
        lovasz_hinge, lambda f, y: losses.lovasz_hinge_loss(f[:, None], y), *batch(3, 13, 11)
    )


def test_kornia_softmax() -> None:
    """Release 0.9.0 agrees: it sorts the foreground of each class, not class indices."""
    losses = pytest.importorskip("kornia.losses")
    ours = partial(lovasz_softmax, classes="all", per_image=True)
    assert_same(ours, losses.lovasz_softmax_loss, *batch(3, 5, 13, 11, labels=4))


def test_smp_loses_gradient_to_cancellation_where_ours_does_not() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 700, 700, generator=generator)
    target = (torch.rand(1, 700, 700, generator=generator) < 0.2).to(torch.uint8)
    exact = value_and_gradient(lovasz_hinge, logits.double(), target)[1]

    def error(loss: Loss) -> float:
        gradient = value_and_gradient(loss, logits, target)[1]
        return float((gradient - exact).abs().sum() / exact.abs().sum())

    assert error(lovasz_hinge) < 1e-5
    assert error(smp.losses.LovaszLoss("binary", per_image=True)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["sort", "bins"])
def test_loops_of_a_cpu_agree_with_operations_of_a_gpu(
    method: Method, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = batch(3, 40, 50, void=True)
    scores, labels = batch(3, 5, 40, 50, labels=5, void=True)
    multiclass = scores.to(memory_format=torch.channels_last), labels

    def results() -> list[tuple[Tensor, Tensor]]:
        return [
            value_and_gradient(partial(loss, method=method, per_image=each), f.to(dtype), y)
            for loss, (f, y) in ((lovasz_hinge, binary), (lovasz_softmax, multiclass))
            for each in (True, False)
        ]

    by_loops = results()
    monkeypatch.setattr(dispatch, "on_cpu", lambda tensor: False)
    torch.testing.assert_close(results(), by_loops, rtol=1e-5, atol=1e-8)
