"""The modules in a Trainer of the user's own, with Lightning's usual callbacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lovasz_repro.config import Network, Optim
from lovasz_repro.data.binary import Draws, SamplePlan
from lovasz_repro.data.datamodule import Task
from lovasz_repro.data.reading import Source
from lovasz_repro.errors import UserError
from lovasz_repro.losses import hinge, softmax_cross_entropy
from lovasz_repro.models.deeplab import build
from lovasz_repro.training.callbacks import Stopwatch
from lovasz_repro.training.loop import deterministic, quiet
from lovasz_repro.training.segmenter import BinarySegmenter, LabelSegmenter, Segmenter
from tests.helpers.batches import BIRD, module

OPTIM = Optim(lr=0.01, steps=12, batch_size=4, validate_every=3)


def segmenter(task: str, lr: float) -> Segmenter:
    torch.manual_seed(0)
    network = build(Network(kind="deeplab_v2", backbone="test_resnet", output_stride=16))
    if task == "base":
        return LabelSegmenter(network, softmax_cross_entropy, OPTIM, lr, 16)
    return BinarySegmenter(network.binary(BIRD, "channel"), hinge, OPTIM, lr, 16)


def trainer(folder: Path, epochs: int, *callbacks: pl.Callback, **rest: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), logger=False,
        default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1, **rest,
    )  # fmt: skip


@pytest.mark.parametrize(("task", "measure"), [("cell", "image_iou"), ("base", "miou")])
def test_callbacks_monitor_the_measure_of_validation(
    source: Source,
    tmp_path: Path,
    task: str,
    measure: str,
) -> None:
    data = module(source)
    if task == "base":
        data.task = Task(None, "void")
    trained = segmenter(task, 0.01)
    best = ModelCheckpoint(tmp_path, monitor=f"val/{measure}", mode="max", save_top_k=1)
    with quiet():
        trainer(tmp_path, 3, best).fit(trained, datamodule=data)
    assert [row["step"] for row in trained.curve] == [3, 6, 9]  # not the sanity check's
    values = [row[measure] for row in trained.curve]
    assert best.best_model_score is not None
    assert float(best.best_model_score) == pytest.approx(max(values), rel=1e-6)

    again = type(trained).load_from_checkpoint(
        best.best_model_path, network=segmenter(task, 0.01).network, loss=hinge,
        optim=OPTIM, lr=0.01, stride=16,
    )  # fmt: skip
    with quiet():
        (logged,) = trainer(tmp_path, 1).validate(again, datamodule=data, verbose=False)
    assert logged[f"val/{measure}"] == pytest.approx(max(values), rel=1e-6)

    stop = EarlyStopping(f"val/{measure}", mode="max", patience=1)
    with quiet():
        stopped = trainer(tmp_path, 6, stop, enable_checkpointing=False)
        stopped.fit(segmenter(task, 1e-12), datamodule=data)
    assert stopped.current_epoch == 2  # nothing better after the first


def test_every_epoch_has_steps_of_its_own(
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also those of a resumed training, whose clock goes on."""
    data = module(source)
    assert isinstance(data.train_dataloader(), DataLoader)
    drawn: list[int] = []
    original = SamplePlan.draw

    def watch(self: SamplePlan, step: int) -> Draws:
        drawn.append(step)
        return original(self, step)

    monkeypatch.setattr(SamplePlan, "draw", watch)
    first, second = Stopwatch(), Stopwatch()
    last = ModelCheckpoint(tmp_path, filename="last")
    with quiet():
        trainer(tmp_path, 2, first, last).fit(segmenter("cell", 0.01), datamodule=data)
        trainer(tmp_path, 3, second, ModelCheckpoint(tmp_path, filename="later")).fit(
            segmenter("cell", 0.01), datamodule=data, ckpt_path=last.best_model_path
        )
    assert drawn == list(range(9))
    assert second.train_seconds > first.train_seconds > 0
    assert second.validate_seconds > first.validate_seconds > 0


def test_a_checkpoint_of_a_users_own_trainer_loads_with_network_and_loss(
    source: Source, tmp_path: Path
) -> None:
    """They are given again: a checkpoint holds no code."""
    trained = segmenter("cell", 0.01)
    own = trainer(tmp_path, 1, enable_checkpointing=False)
    with quiet():
        own.fit(trained, datamodule=module(source))
    own.save_checkpoint(tmp_path / "mine.ckpt")
    again = BinarySegmenter.load_from_checkpoint(
        tmp_path / "mine.ckpt", network=segmenter("cell", 0.01).network, loss=hinge
    )
    for name, value in trained.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
    assert (again.optim, again.lr, again.stride) == (OPTIM, 0.01, 16)
    assert again.curve == trained.curve
    logits, target = torch.randn(2, 1, 5, 5), torch.ones(2, 5, 5, dtype=torch.long)
    assert torch.equal(again.loss(logits, target), trained.loss(logits, target))


def test_weight_decay_shrinks_a_weight_without_gradient() -> None:
    for decay in (0.0, 0.5):
        network = nn.Linear(1, 1)
        optim = replace(OPTIM, weight_decay=decay, momentum=0.0)
        made = BinarySegmenter(network, hinge, optim, 0.1, 16).configure_optimizers()
        with torch.no_grad():
            network.weight.fill_(1)
        (0 * network(torch.ones(1))).sum().backward()
        made["optimizer"].step()
        assert network.weight.item() == pytest.approx(1 - 0.1 * decay)


def test_the_rate_drops_by_its_factor_after_its_share_of_the_steps() -> None:
    optim = replace(OPTIM, steps=10, validate_every=10, drop_at=0.3, drop_factor=0.01)
    made = BinarySegmenter(nn.Linear(1, 1), hinge, optim, 2.0, 16).configure_optimizers()
    rates = []
    for _ in range(optim.steps):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([2.0] * 3 + [0.02] * 7)


def test_deterministic_for_a_while() -> None:
    filling: Any = torch.utils.deterministic
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert not filling.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert filling.fill_uninitialized_memory


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda logits, target: (logits - target).square(), r"got shape \(4, "),
        (lambda logits, target: (logits > 0).float().mean(), r"got shape \(\) without a gradient"),
    ],
)
def test_a_loss_that_cannot_train_is_refused(
    source: Source, tmp_path: Path, loss: Any, said: str
) -> None:
    trained = segmenter("cell", 0.01)
    trained.loss = loss  # type: ignore[method-assign]
    with quiet(), pytest.raises(UserError, match=f"loss: it must return a scalar .*{said}"):
        trainer(tmp_path, 1).fit(trained, datamodule=module(source))
