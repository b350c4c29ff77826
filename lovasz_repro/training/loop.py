"""One Lightning training, resumable: what bases and cells have in common."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from rich.console import Console
from torch.utils.data import DataLoader

from lovasz_repro import files
from lovasz_repro.config import Runtime
from lovasz_repro.data.datamodule import DataModule
from lovasz_repro.training.callbacks import StepBar, Stopwatch
from lovasz_repro.training.segmenter import Segmenter

EXPECTED = (
    "Checkpoint directory .* exists and is not empty",  # it is the cell's folder, resumed or not
    "Found .* module.* in eval mode",  # the frozen BatchNorm
    "The '.*_dataloader' does not have many workers",  # see `reading.loader`
    ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 with torch 2.15
)
"""Warnings of Lightning that say nothing new here."""


def train(
    module: Segmenter, data: DataModule, runtime: Runtime, device: torch.device,
    folder: Path | None, title: str, *, measure: str = "miou",
    loggers: Sequence[Logger] = (), skip_training: bool = False,
    callbacks: Sequence[pl.Callback] = (), start: str = "",
) -> pl.Trainer:  # fmt: skip
    """Train to the end of the schedule, from `folder/resume.ckpt` where that is there.

    The checkpoint is renewed at every validation; without a folder none is kept. Where it cannot
    be loaded, or is of a training from another `start`, training starts over: it is only a saving
    of time.

    Args:
        start: what tells the training from others: its base network's hash, its cell.

    Returns: the trainer, for a test with the same settings; its `Stopwatch` says how long it took.
    """
    steps, epoch = module.optim.steps, module.optim.validate_every
    every: list[pl.Callback] = [Stopwatch(), StepBar(title, steps, measure), *callbacks]
    if folder:
        every.append(
            ModelCheckpoint(
                dirpath=folder, filename="resume", enable_version_counter=False, save_top_k=1,
                every_n_epochs=1, save_on_train_epoch_end=True,
            )
        )  # fmt: skip
    if loggers:
        every.append(LearningRateMonitor("step"))
    with quiet(), deterministic():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=runtime.devices,
            strategy=runtime.strategy,
            precision=runtime.precision,
            max_epochs=steps // epoch,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, epoch),
            logger=list(loggers) or False,
            callbacks=every,
            enable_checkpointing=folder is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            deterministic=True,
            use_distributed_sampler=False,  # see `DataModule`
            plugins=[LightningEnvironment(), WholeCheckpoints(start, steps)],
        )
        if skip_training:
            return trainer
        resume = _resumable(folder / "resume.ckpt", module.lr, steps, start) if folder else None
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer


def validate(trainer: pl.Trainer, module: Segmenter, data: DataModule) -> None:
    """One validation of the module as it is, on the trainer's device."""
    with quiet(), deterministic():
        trainer.validate(module, datamodule=data, verbose=False)


def test(trainer: pl.Trainer, module: Segmenter, data: DataModule) -> None:
    """The module's test, on the trainer's device."""
    with quiet(), deterministic():
        trainer.test(module, datamodule=data, verbose=False)


def predict(
    module: Segmenter, loader: DataLoader[Any], runtime: Runtime, writer: pl.Callback
) -> None:
    """The module's prediction of every batch, handed to the writer."""
    with quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if runtime.device == "cuda" else "cpu",
            devices=1, precision=runtime.precision, logger=False, callbacks=[writer],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            plugins=[LightningEnvironment()],
        )  # fmt: skip
        trainer.predict(module, loader, return_predictions=False)


def autocast(runtime: Runtime, device: torch.device) -> torch.autocast:
    """What Lightning computes a step in, for what is computed outside of it."""
    half = runtime.precision == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without the warnings that say nothing new here, without its report of devices and
    tips, which a study would show hundreds of times, and with Ctrl-C as it was."""
    reports = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in reports]
    with warnings.catch_warnings():
        for expected in EXPECTED:
            warnings.filterwarnings("ignore", expected)
        for logger in reports:
            logger.setLevel(logging.WARNING)
        try:
            yield
        except SystemExit as stop:  # what Lightning makes of it
            raise KeyboardInterrupt from stop
        finally:
            for logger, level in zip(reports, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def deterministic() -> Iterator[None]:
    """Torch's deterministic algorithms for a while.

    By itself torch would fill every new tensor with them, lest one be read before it is written: up
    to a sixth of a step on a CPU.
    """
    filling: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        filling.fill_uninitialized_memory = before[1]


def _resumable(path: Path, lr: float, steps: int, start: str) -> Path | None:
    """`path` where it holds the checkpoint of a training at this rate, so long, from this start."""
    if not path.exists():
        return None
    try:
        checkpoint = read_checkpoint(path)
        # That of the head, which the scheduler would go on with.
        started_at = checkpoint["optimizer_states"][0]["param_groups"][-1]["initial_lr"]
        started_from, schedule = checkpoint["start"], checkpoint["steps"]
    except Exception:  # torch raises many kinds for a damaged file
        reason = "cannot be read"
    else:
        if started_at != lr:
            reason = f"is of learning rate {started_at:g}"
        elif schedule != steps:
            reason = f"is of a training of {schedule} steps"
        elif started_from != start:
            reason = "is of another training, or started from another base network"
        else:
            return path
    Console(stderr=True).print(f"{path} {reason}; training starts over", soft_wrap=True)
    path.unlink(missing_ok=True)  # the process of another device may have been first
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, on the CPU; nothing in it is executed.

    Raises: ValueError where its bytes are others, and whatever torch raises.
    """
    content = files.regular(path).read_bytes()
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if files.sha256(body).encode() != digest:
        raise ValueError(f"{path}: not the bytes that were written")
    checkpoint: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return checkpoint


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Written as records are, the SHA-256 of what torch saves behind it."""
    content = io.BytesIO()  # on a full disk torch's own writing hides the system's error
    torch.save(checkpoint, content)
    body = content.getvalue()
    files.write_bytes(path, body + files.sha256(body).encode())


_DIGEST = 64
"""Characters of a SHA-256."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically and stores which training they belong to. Lightning moves its
    own in from the temporary folder; across disks that can lose the old file before the new one is
    whole."""

    def __init__(self, start: str, steps: int) -> None:
        self.origin = {"start": start, "steps": steps}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_checkpoint(Path(path), {**checkpoint, **self.origin})

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))
