"""What a GPU would object to, found without one.

Tensors on torch's `meta` device have shapes but no values. Code that runs on them takes the path of
a GPU, mixes no devices and never waits for a value. What it called is compared with the operations
that torch's documentation of `use_deterministic_algorithms` says will raise on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lovasz_repro.config import Network, Optim
from lovasz_repro.data.datamodule import DataModule, Task
from lovasz_repro.data.reading import Source
from lovasz_repro.losses import LOSSES, lovasz_hinge, lovasz_softmax, softmax_cross_entropy
from lovasz_repro.models.deeplab import build
from lovasz_repro.training.segmenter import BinarySegmenter, LabelSegmenter, measures
from tests.helpers.batches import BIRD, module

RAISES_ON_CUDA = {
    "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "grid_sampler_2d_backward",
    "histc", "kthvalue", "median", "nll_loss_forward", "nll_loss2d_forward", "put_",
    "reflection_pad2d_backward", "scatter_reduce", "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward", "upsample_linear1d_backward",
}  # fmt: skip


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the names of the operations called on other devices than the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(arg, Tensor) and arg.device.type == "meta" for arg in args):
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def calls() -> Iterator[Calls]:
    torch.use_deterministic_algorithms(True)  # as in every training
    try:
        with Calls() as recorded:
            yield recorded
    finally:
        torch.use_deterministic_algorithms(False)
    assert recorded.names
    assert recorded.names & RAISES_ON_CUDA == set()


def on_meta(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to("meta") for tensor in tensors]


@pytest.mark.parametrize("loss", [*LOSSES.values(), partial(lovasz_hinge, method="bins")])
def test_losses(calls: Calls, loss: Callable[..., Tensor]) -> None:
    logits, target = on_meta(torch.randn(4, 41, 41), torch.ones(4, 41, 41, dtype=torch.uint8))
    logits.requires_grad_()
    loss(logits, target).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.device == logits.device


@pytest.mark.parametrize("method", ["sort", "bins"])
def test_lovasz_softmax(calls: Calls, method: Any) -> None:
    logits, target = on_meta(torch.randn(2, 19, 8, 8), torch.ones(2, 8, 8, dtype=torch.int64))
    logits.requires_grad_()
    lovasz_softmax(logits, target, method=method).backward()  # type: ignore[no-untyped-call]


def prepared(data: DataModule, raw: Any) -> Any:
    return data.prepare(type(raw)(*on_meta(*raw)))


NETWORKS = [
    Network(kind="deeplab_v2", backbone="test_resnet", output_stride=16),
    Network(kind="deeplabv3_resnet101", output_stride=8),
]


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: str(config.kind))
@pytest.mark.parametrize("task", ["base", "cell"])
def test_a_training_step(
    calls: Calls,
    source: Source,
    config: Network,
    task: str,
) -> None:
    network = build(config, pretrained=False)
    data = module(source)
    if task == "base":
        data.task = Task(None, "void")
        segmenter: Any = LabelSegmenter(
            network, softmax_cross_entropy, Optim(), 1e-3, network.stride
        )
    else:
        loss = LOSSES["mixed"]
        segmenter = BinarySegmenter(
            network.binary(BIRD, "channel"), loss, Optim(), 1e-3, network.stride
        )
    segmenter.to("meta")
    batch = prepared(data, data.steps[0])
    logits = segmenter(batch.inputs)
    # Of two strides that do not fit only the shapes matter here.
    target = nn.functional.interpolate(batch.target[:, None].float(), logits.shape[-2:])[:, 0]
    segmenter.loss(logits, target.to(batch.target.dtype)).backward()
    chosen = segmenter.configure_optimizers()
    chosen["optimizer"].step()


def test_a_validation_step(calls: Calls, source: Source) -> None:
    data = module(source)
    network = build(NETWORKS[0])
    segmenter = BinarySegmenter(
        network.binary(BIRD, "channel"), LOSSES["hinge"], Optim(), 1e-3, 16
    ).to("meta")
    batch = prepared(data, next(iter(data.val_dataloader())))
    with torch.no_grad():
        segmenter.validation_step(batch, 0)
        whole = prepared(data, next(iter(data.test_dataloader())))
        measures(segmenter.native(whole, segmenter(whole.inputs))[:, 0], whole.native)
