"""One resumable Lightning training, used for bases and cells."""

from __future__ import annotations

import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

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
from lovasz_repro.errors import UserError
from lovasz_repro.training.callbacks import StepBar, Stopwatch
from lovasz_repro.training.segmenter import Segmenter

EXPECTED = (
    "Checkpoint directory .* exists and is not empty",  # it is the cell's folder, resumed or not
    "Found .* module.* in eval mode",  # the frozen BatchNorm
    "GPU available but not used",  # runtime.device: cpu
    "The '.*_dataloader' does not have many workers",  # see `reading.loader`
    ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 with torch 2.15
)
"""Lightning's warnings that are expected here."""


def make_trainer(
    module: Segmenter, runtime: Runtime, device: torch.device, title: str, *,
    folder: Path | None = None, identity: str = "", loggers: Sequence[Logger] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:  # fmt: skip
    """A trainer for `fit`, `validate` and `test` of this module, with a `Stopwatch`.

    Args:
        title: of the progress bar.
        folder: of the `Checkpoint`; None: no checkpoint.
        identity: what identifies this training, in parts joined by "; ". Learning rate and steps
            are added here.
    """
    optim = module.optim
    every: list[pl.Callback] = [Stopwatch(), StepBar(title, optim.steps), *callbacks]
    if folder:
        every.append(
            Checkpoint(
                dirpath=folder, filename="resume", enable_version_counter=False, save_top_k=1,
                every_n_epochs=1, save_on_train_epoch_end=True,
            )
        )  # fmt: skip
    if loggers:
        every.append(LearningRateMonitor("step"))
    identity = f"{identity}; learning rate {module.lr!r}; {optim.steps} steps"
    with quiet(), deterministic():
        return pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=runtime.devices,
            strategy=runtime.strategy,
            precision=runtime.precision,
            max_epochs=optim.steps // optim.validate_every,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, optim.validate_every),
            logger=list(loggers) or False,
            callbacks=every,
            enable_checkpointing=folder is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            deterministic=True,
            use_distributed_sampler=False,  # see `DataModule`
            plugins=[LightningEnvironment(), Checkpoints(folder, identity)],
        )


def fit(trainer: pl.Trainer, module: Segmenter, data: DataModule) -> None:
    """Train to the end of the schedule, resuming from the trainer's checkpoint if there is one.

    A checkpoint that cannot be loaded, or is of another training, is deleted; training then starts
    over.
    """
    kept = trainer.strategy.checkpoint_io
    assert isinstance(kept, Checkpoints)
    resume = _resumable(kept.folder / "resume.ckpt", kept.identity) if kept.folder else None
    with quiet(), deterministic():
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)


def validate(trainer: pl.Trainer, module: Segmenter, data: DataModule) -> None:
    """Validate the module once as it is, on the trainer's device."""
    with quiet(), deterministic():
        trainer.validate(module, datamodule=data, verbose=False)


def test(trainer: pl.Trainer, module: Segmenter, data: DataModule) -> None:
    """Run the module's test on the trainer's device."""
    with quiet(), deterministic():
        trainer.test(module, datamodule=data, verbose=False)


def predict(
    module: Segmenter, loader: DataLoader[Any], runtime: Runtime, writer: pl.Callback
) -> None:
    """Predict every batch, and hand the predictions to the writer."""
    with quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if runtime.device == "cuda" else "cpu",
            devices=1, precision=runtime.precision, logger=False, callbacks=[writer],
            enable_checkpointing=False, enable_progress_bar=sys.stdout.isatty(),
            enable_model_summary=False, plugins=[LightningEnvironment()],
        )  # fmt: skip
        trainer.predict(module, loader, return_predictions=False)


def device_type(wanted: str, key: str) -> Literal["cpu", "cuda"]:
    """`cuda` or `cpu`; for auto, `cuda` if there is a GPU.

    Raises: UserError naming the key if CUDA is asked for but absent.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError(f"{key}: cuda asked for, but torch sees no CUDA GPU; use cpu")
    return "cuda" if there and wanted != "cpu" else "cpu"


def autocast(runtime: Runtime, device: torch.device) -> torch.autocast:
    """Autocast with the precision of Lightning's steps, for computations outside of them."""
    half = runtime.precision == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Lightning's expected warnings, and its report of devices and tips, which a study would
    show hundreds of times.

    Also turns Lightning's SystemExit on Ctrl-C back into KeyboardInterrupt.
    """
    reports = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in reports]
    with warnings.catch_warnings():
        for expected in EXPECTED:
            warnings.filterwarnings("ignore", expected)
        for logger in reports:
            logger.setLevel(logging.WARNING)
        try:
            yield
        except SystemExit as stop:
            raise KeyboardInterrupt from stop
        finally:
            for logger, level in zip(reports, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def deterministic() -> Iterator[None]:
    """Use torch's deterministic algorithms, without its filling of new tensors.

    Torch would fill every new tensor, in case it is read before it is written, which takes up to a
    sixth of a step on a CPU.
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


def _resumable(path: Path, identity: str) -> Path | None:
    """`path` if it holds a checkpoint of this training; any other checkpoint is deleted."""
    if not path.exists():
        return None
    try:
        there: str = read_checkpoint(path)["identity"]
    except Exception:  # torch raises many kinds for a damaged file
        reason = "cannot be read"
    else:
        if there == identity:
            return path
        others = [part for part in there.split("; ") if part not in identity.split("; ")]
        reason = f"is of {', '.join(others) or there}"
    console = Console(stderr=True, markup=False)
    console.print(f"{path} {reason}; training starts over", soft_wrap=True)
    path.unlink(missing_ok=True)  # the process of another device may have been first
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file of `write_checkpoint` onto the CPU. Nothing in it is executed.

    Raises: ValueError if its SHA-256 is wrong, and whatever `torch.load` raises.
    """
    content = files.regular(path).read_bytes()
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if files.sha256(body).encode() != digest:
        raise ValueError(f"{path}: not the bytes that were written")
    checkpoint: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return checkpoint


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically: what torch saves, followed by its SHA-256."""
    body = saved(checkpoint)
    files.write_bytes(path, body + files.sha256(body).encode())


def saved(value: Any) -> bytes:
    """The bytes of `torch.save`. Saving to a path would hide the error of a full disk, and store
    the temporary name in the file."""
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


_DIGEST = 64
"""Characters of a SHA-256."""


class Checkpoint(ModelCheckpoint):
    """Writes the checkpoint at each validation. One of more than `LARGE` bytes takes seconds, so
    before the last step it is written at most every `SPACING` seconds."""

    LARGE = 1 << 27
    SPACING = 120.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or not self._is_new_and_large()
        if trainer.strategy.broadcast(due):  # all devices take part in a checkpoint
            super().on_train_epoch_end(trainer, pl_module)

    def _is_new_and_large(self) -> bool:
        try:
            there = (Path(str(self.dirpath)) / f"{self.filename}.ckpt").stat()
        except FileNotFoundError:
            return False
        return there.st_size > self.LARGE and time.time() - there.st_mtime < self.SPACING


class Checkpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, with the identity of their training. Lightning's own writer
    moves a file in from the temporary folder; across disks that can lose the old file before the
    new one is complete.

    Args:
        folder: of the checkpoints; None: there are none.
        identity: see `make_trainer`.
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self.folder = folder
        self.identity = identity

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_checkpoint(Path(path), {**checkpoint, "identity": self.identity})

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))
