"""What importing the losses brings in, and the losses as modules in somebody's own loop."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lovasz_repro import losses

LOOK = """
import json, os, sys
before = dict(os.environ)
import numba, torch
known = {name.split(".")[0] for name in sys.modules}
import lovasz_repro.losses
changed = dict(os.environ) != before
more = {name.split(".")[0] for name in sys.modules} - known - set(sys.stdlib_module_names)
print(json.dumps([changed, sorted(more),
                  [name for name in sys.modules if name.startswith("lovasz_repro.")]]))
"""


def test_the_losses_bring_in_torch_and_numba_alone() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    changed, more, ours = json.loads(done.stdout)
    assert not changed
    assert [name for name in more if "editable" not in name] == ["lovasz_repro"]
    assert all(name.startswith("lovasz_repro.losses") for name in ours)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("LovaszHinge", {"method": "bin"}, "method must be one of sort, bins, got 'bin'"),
        ("LovaszSoftmax", {"method": "bin"}, "method must be one of"),
        ("LovaszSoftmax", {"classes": "some"}, "classes must be present or all, got 'some'"),
        ("CrossEntropy", {"reduction": "sum"}, "reduction must be mean or none, got 'sum'"),
        ("Hinge", {"reduction": "avg"}, "reduction must be mean or none"),
        ("SoftJaccard", {"per_image": False, "reduction": "none"}, "needs per_image=True"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_loss_is_made(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)(**settings)


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge", "soft_jaccard", "lovasz_hinge"])
def test_an_unknown_reduction_is_refused(loss: str) -> None:
    with pytest.raises(ValueError, match="reduction must be mean or none, got 'sum'"):
        getattr(losses, loss)(torch.zeros(1, 2, 2), torch.ones(1, 2, 2), reduction="sum")


BINARY = [
    (losses.CrossEntropy(), losses.cross_entropy, {}),
    (losses.Hinge(ignore_index=7), losses.hinge, {"ignore_index": 7}),
    (losses.SoftJaccard(per_image=False), losses.soft_jaccard, {"per_image": False}),
    (losses.LovaszHinge(), losses.lovasz_hinge, {}),
    (
        losses.LovaszHinge(per_image=False, method="bins"),
        losses.lovasz_hinge,
        {"per_image": False, "method": "bins"},
    ),
]


@pytest.mark.parametrize(
    ("module", "function", "settings"), BINARY, ids=[str(module) for module, *_ in BINARY]
)
def test_modules_are_the_functions(module: nn.Module, function: Any, settings: Any) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 8, 9)
    target = torch.randint(0, 2, (3, 8, 9))
    target[:, 0] = settings.get("ignore_index", 255)
    assert torch.equal(module(logits, target), function(logits, target, **settings))


def test_the_softmax_module_is_the_function() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    module = losses.LovaszSoftmax(classes="all", per_image=True)
    expected = losses.lovasz_softmax(logits, target, classes="all", per_image=True)
    assert torch.equal(module(logits, target), expected)


def test_a_module_shows_its_settings() -> None:
    shown = repr(losses.LovaszHinge(method="bins"))
    expected = "per_image=True, ignore_index=255, reduction='mean', method='bins'"
    assert all(part in shown for part in expected.split(", "))


def data() -> tuple[Tensor, Tensor]:
    """Images whose foreground is where they are bright."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    return images, (images.mean(1) > 0.3).long()


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))


def fall(network: nn.Module, loss: nn.Module, steps: int = 30) -> None:
    """Train in a plain loop; the loss falls."""
    images, target = data()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    values = []
    for _ in range(steps):
        value = loss(network(images)[:, 0], target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]


def test_a_plain_loop() -> None:
    torch.manual_seed(0)
    fall(small(), losses.LovaszHinge(method="bins"))


def test_a_loop_of_segmentation_models_pytorch() -> None:
    torch.manual_seed(0)
    network = smp.Unet(
        "resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(8, 8, 8)
    )
    fall(network, losses.LovaszHinge(), steps=10)


def test_a_lightning_module() -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = small()
            self.loss = losses.LovaszHinge()
            self.seen: list[float] = []

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            images, target = batch
            value: Tensor = self.loss(self.network(images)[:, 0], target)
            self.seen.append(value.item())
            return value

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-2)

    torch.manual_seed(0)
    module = Module()
    trainer = pl.Trainer(
        max_epochs=15, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    from lovasz_repro.training.loop import quiet

    with quiet():
        trainer.fit(module, DataLoader(TensorDataset(*data()), batch_size=8))
    assert module.seen[-1] < 0.9 * module.seen[0]
