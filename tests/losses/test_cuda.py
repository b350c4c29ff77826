"""The losses on a CUDA GPU, against the same on the CPU. Without a GPU all of it is left out."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import Tensor

from lovasz_repro.bench.gpu import waits
from lovasz_repro.losses import LOSSES, MULTICLASS_LOSSES, Loss, lovasz_hinge, lovasz_softmax
from lovasz_repro.training.loop import deterministic

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU: nothing is tested on one here", allow_module_level=True)

BINARY: dict[str, Loss] = LOSSES | {
    "lovasz_hinge bins": partial(lovasz_hinge, method="bins"),
    "lovasz_hinge per batch, bins": partial(lovasz_hinge, method="bins", per_image=False),
}
MULTICLASS: dict[str, Loss] = MULTICLASS_LOSSES | {
    "lovasz_softmax bins": partial(lovasz_softmax, method="bins"),
    "lovasz_softmax all": partial(lovasz_softmax, classes="all", per_image=True),
}
every_loss = pytest.mark.parametrize(
    ("loss", "classes"),
    [*((loss, 1) for loss in BINARY.values()), *((loss, 5) for loss in MULTICLASS.values())],
    ids=[*BINARY, *MULTICLASS],
)


def batch(classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits (3, [C,] 37, 29), and labels with a tenth of void; the last image has only label 0."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, 37, 29) if classes == 1 else (3, classes, 37, 29)
    logits = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    target = torch.randint(0, max(2, classes), (3, 37, 29), generator=generator)
    target[-1] = 0
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    return logits, target


def value_and_gradient(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_gpu_agrees_with_the_cpu(loss: Loss, classes: int, dtype: torch.dtype) -> None:
    logits, target = batch(classes)
    logits = logits.to(dtype)
    here = value_and_gradient(loss, logits, target)
    there = value_and_gradient(loss, logits.cuda(), target.cuda())
    for own, other in zip(here, there, strict=True):
        assert other.is_cuda
        assert other.dtype == own.dtype
        exact = dtype == torch.float64
        rtol, atol = (1e-9, 1e-12) if exact else (1e-4, 1e-7)
        if dtype == torch.bfloat16:  # the gradient is rounded to it
            rtol, atol = 1e-2, 1e-5
        torch.testing.assert_close(other.cpu(), own, rtol=rtol, atol=atol)


@every_loss
def test_deterministic_mode_gives_the_same_bits(loss: Loss, classes: int) -> None:
    logits, target = (tensor.cuda() for tensor in batch(classes, torch.float32))
    with deterministic():
        first, second = (value_and_gradient(loss, logits, target) for _ in range(2))
    assert all(map(torch.equal, first, second))


@every_loss
def test_a_loss_does_not_wait_for_the_gpu(loss: Loss, classes: int) -> None:
    logits, target = (tensor.cuda() for tensor in batch(classes, torch.float32))

    def call() -> None:
        value_and_gradient(loss, logits, target)

    call()
    assert not waits(call)


def test_waiting_for_the_gpu_is_found() -> None:
    assert waits(lambda: print(torch.zeros(1).cuda().sum()))


def test_a_wrong_label_is_an_assertion_on_the_device() -> None:
    """In a process of its own: after such an assertion a process cannot use the GPU any more."""
    code = (
        "import torch; from lovasz_repro.losses import lovasz_hinge\n"
        "lovasz_hinge(torch.zeros(1, 9).cuda(), torch.full((1, 9), 7).cuda())\n"
        "torch.cuda.synchronize()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "assert" in done.stderr
