"""Callbacks of a training: progress bars on a terminal, and a stopwatch."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from lovasz_repro.training.segmenter import Segmenter


def progress() -> Progress:
    """Progress bars on a terminal, with the time left; removed when they are done."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"), console=console, transient=True,
        # The bars of several processes would write over each other.
        disable=not console.is_terminal or multiprocessing.parent_process() is not None,
    )  # fmt: skip


def shown(batches: DataLoader[Any], title: str) -> Iterator[Any]:
    """The batches, with a bar."""
    with progress() as bar:
        yield from bar.track(batches, task_id=bar.add_task(title, state=""))


QUIET = 30.0
"""Seconds between the lines of progress that replace a bar."""


class StepBar(pl.Callback):
    """A bar over the steps of a training, with the loss and the last validation, and over the
    batches of a test. Without a terminal, training prints a line every `QUIET` seconds instead."""

    def __init__(self, title: str, steps: int) -> None:
        self.title = title
        self.bar = progress()
        self.task = self.bar.add_task(title, total=steps, state="")
        self.steps = steps
        self.said = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.start()
        self.bar.update(self.task, completed=trainer.global_step)

    def _say(self, text: str) -> None:
        alone = multiprocessing.parent_process() is None
        if self.bar.disable and alone and time.monotonic() - self.said > QUIET:
            self.said = time.monotonic()
            self.bar.console.print(f"{self.title}: {text}", soft_wrap=True)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.remove_task(self.task)
        total = sum(trainer.num_test_batches)
        self.task = self.bar.add_task(f"{self.title}: scoring", total=total, state="")
        self.bar.start()

    def on_test_batch_end(self, *_: Any) -> None:
        self.bar.advance(self.task)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.stop()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        # The loss is read only as often as it is logged: reading it waits for the device.
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            assert isinstance(pl_module, Segmenter)
            state = f"loss {float(outputs['loss']):.3f}"
            if pl_module.curve:
                measure = pl_module.measure
                state += f" · val {measure} {pl_module.curve[-1][measure]:.3f}"
            self._say(f"step {trainer.global_step} of {self.steps}, {state}")
            self.bar.update(self.task, completed=trainer.global_step, state=state)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.bar.stop()


class Stopwatch(pl.Callback):
    """Seconds of training and of validation so far, including those before a resume."""

    def __init__(self) -> None:
        self.train_seconds = 0.0
        self.validate_seconds = 0.0
        self._since = 0.0

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Stopwatch:
        """The trainer's `Stopwatch` callback."""
        return next(c for c in trainer.callbacks if isinstance(c, cls))  # type: ignore[attr-defined]

    def spent(self, started: float) -> dict[str, float]:
        """What every `cost.json` holds. started: on the clock `time.perf_counter`."""
        return {**self.state_dict(), "total_seconds": time.perf_counter() - started}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The module has waited for the device in its `on_validation_start`."""
        now = time.perf_counter()
        if trainer.state.fn == TrainerFn.FITTING:
            assert isinstance(pl_module, Segmenter)
            seconds = now - self._since
            self.train_seconds += seconds
            images = pl_module.optim.validate_every * pl_module.optim.batch_size
            pl_module.log("train/images_per_second", images / seconds, batch_size=1, sync_dist=True)
        self._since = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validate_seconds += time.perf_counter() - self._since

    def state_dict(self) -> dict[str, float]:
        names = ("train_seconds", "validate_seconds")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        vars(self).update(state_dict)
