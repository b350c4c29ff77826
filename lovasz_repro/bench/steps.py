"""What a training step costs beyond the network's arithmetic, and what a whole cell costs.

`bench_train` times three ways in turn in one run: (a) the bare step on one fixed batch, (b) this
project's pipeline under Lightning, (c) the usual way: Lightning, a DataLoader, and a transform per
image that decodes its files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table
from torch.utils.data import DataLoader

from lovasz_repro.bench.losses import write_csv
from lovasz_repro.bench.plain import Files, Plain
from lovasz_repro.config import Experiment, Optim
from lovasz_repro.data.binary import balanced_plan
from lovasz_repro.data.datamodule import Batch, DataModule, Task
from lovasz_repro.environment import cores
from lovasz_repro.models.deeplab import build
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.callbacks import Stopwatch
from lovasz_repro.training.loop import autocast, deterministic, fit, make_trainer, quiet, test
from lovasz_repro.training.segmenter import BinarySegmenter

console = Console(highlight=False)


@dataclass(frozen=True)
class Row:
    """A way to train, a part of a step of this project's pipeline, or a part of a whole cell.

    ratio: of a way, its images per second over the bare step's; of a part, its share.
    """

    experiment: str
    kind: Literal["way", "part", "cell"]
    what: str
    milliseconds: float
    ratio: float


def bench_train(
    config: Experiment, category: str, loss: str, steps: int, rounds: int, out: Path | None,
    trained: Sequence[Trained] = (), cell: bool = False,
) -> list[Row]:  # fmt: skip
    """Time the three ways on a category's training images of the first fold.

    Args:
        steps: timed steps per round, after an untimed one. Too few would only time what the
            DataLoader has read ahead.
        rounds: medians are over these.
        out: CSV file for the rows.
        trained: values of `network.train` to time in turn in place of the configuration's own;
            each is an experiment of its own in the rows.
        cell: whether a whole cell of each is timed, too, once.
    """
    setups = [
        _Setup(Workspace(each), category, loss, steps + 1) for each in _experiments(config, trained)
    ]
    taken: list[dict[str, list[float]]] = [{} for _ in setups]
    for number in range(rounds + 1):  # the first is a warm-up
        for setup, times in zip(setups, taken, strict=True):
            for name, way in setup.ways().items():
                seconds = way()
                if number:
                    times.setdefault(name, []).append(seconds)
    rows = []
    for setup, times in zip(setups, taken, strict=True):
        own = _rows(setup, {name: median(values) for name, values in times.items()}, cell)
        _print_train(config.optim.batch_size, own)
        rows += own
    if out:
        write_csv(rows, out)
    return rows


Trained = Literal["all", "top", "head"]


def _experiments(config: Experiment, trained: Sequence[Trained]) -> list[Experiment]:
    return [
        replace(config, name=f"{config.name}-{train}", network=replace(config.network, train=train))
        for train in trained
    ] or [config]


def _rows(setup: _Setup, seconds: dict[str, float], cell: bool) -> list[Row]:
    bare, ours = seconds["bare step"], seconds["this pipeline"]
    parts = setup.parts(bare)
    parts["Lightning and logging"] = ours - sum(parts.values())
    name = setup.workspace.config.name
    rows = [Row(name, "way", way, 1000 * each, bare / each) for way, each in seconds.items()]
    rows += [Row(name, "part", part, 1000 * each, each / ours) for part, each in parts.items()]
    if cell:
        whole = setup.cell()
        total = sum(whole.values())
        rows += [Row(name, "cell", what, 1000 * s, s / total) for what, s in whole.items()]
    return rows


class _Setup:
    """What the ways share: one category's network, loss and draws."""

    def __init__(self, workspace: Workspace, category: str, loss: str, steps: int) -> None:
        config = workspace.config
        self.workspace = workspace
        self.steps = steps
        self.category = category
        self.label = config.data.label(category)
        self.network = build(config.network, workspace.folds[0], labels=config.data.labels).to(
            workspace.device
        )
        self.frozen, self.trained = self.network.split(config.network.train, config.network.split)
        self.source = workspace.source(self.network, self.frozen)
        self.optim = replace(config.optim, steps=steps, validate_every=steps)
        self.index = workspace.index("train", workspace.folds[0])
        self.loss_name = loss
        self.task = Task(self.label, config.data.void_in_empty)
        # One image is validated: Lightning ends an epoch with it, after the last timed step.
        self.data = self.data_module(self.index[:1], self.optim)
        self.data.setup()
        self.batch = self.draw(0)

    def ways(self) -> dict[str, Callable[[], float]]:
        """Functions that time a way and return the seconds of a step."""
        return {
            "bare step": self.bare,
            "this pipeline": self.pipeline,
            "Lightning, DataLoader, transforms": self.plain,
        }

    def data_module(self, val_index: NDArray[np.int64], optim: Optim) -> DataModule:
        config = self.workspace.config
        plan = balanced_plan(
            self.index, self.workspace.present(self.category)[self.index],
            config.data.positive_fraction, seed=0, batch_size=self.optim.batch_size,
            scale=config.data.scale, flip=config.data.flip, what=self.category,
        )  # fmt: skip
        return self.workspace.data_module(self.source, self.task, plan, val_index, optim)

    def read(self, step: int) -> Any:
        return self.data.transfer_batch_to_device(self.data.steps[step], self.workspace.device, 0)

    def draw(self, step: int) -> Batch:
        return self.data.prepare(self.read(step))

    def module(self, optim: Optim) -> BinarySegmenter:
        network = self.trained.binary(self.label, self.workspace.config.network.score)
        loss = self.workspace.config.loss(self.loss_name)
        return BinarySegmenter(network, loss, optim, optim.lr, self.network.stride)

    def bare(self) -> float:
        """Seconds a step of the network, the loss and the optimiser alone."""
        module = self.module(self.optim).to(self.workspace.device).train()
        optimizer = module.configure_optimizers()["optimizer"]
        clock = _Clock(self.workspace.device)
        with deterministic():  # as the pipeline
            for _ in range(self.steps):
                with autocast(self.workspace.config.runtime, self.workspace.device):
                    value = module.loss(module(self.batch.inputs), self.batch.target)
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                clock.tick()
            return clock.seconds()

    def pipeline(self) -> float:
        module, device = self.module(self.optim), self.workspace.device
        clock = _Clock(device)
        runtime = self.workspace.config.runtime
        fit(make_trainer(module, runtime, device, "pipeline", callbacks=[clock]), module, self.data)
        return clock.seconds()

    def cell(self) -> dict[str, float]:
        """Seconds of what a cell does, with the configuration's own schedule and val images."""
        workspace, optim = self.workspace, self.workspace.config.optim
        val = workspace.selection(self.category, workspace.index("val", workspace.folds[0]))
        module, data = self.module(optim), self.data_module(val, optim)
        trainer = make_trainer(module, workspace.config.runtime, workspace.device, "cell")
        fit(trainer, module, data)
        clock, started = Stopwatch.of(trainer), time.perf_counter()
        test(trainer, module, data)
        return {
            f"training, {optim.steps} steps": clock.train_seconds,
            f"validation, {len(module.curve)} times": clock.validate_seconds,
            f"evaluation, {len(val)} images": time.perf_counter() - started,
        }

    def plain(self) -> float:
        data = self.workspace.config.data
        voc, ids = self.workspace.voc, self.workspace.images.ids
        files = [(str(voc.image_path(ids[i])), str(voc.mask_path(ids[i]))) for i in self.index]
        dataset = Files(files, self.label, data.crop_size, data.scale, self.source)
        config = self.workspace.config.network
        network = self.network.binary(self.label, config.score)
        frozen, _ = network.split(config.train, config.split)
        if frozen is not None:
            frozen.requires_grad_(False)
        module = Plain(network, self.workspace.config.loss(self.loss_name), self.optim)
        on_gpu = self.workspace.device.type == "cuda"
        loader = DataLoader(
            dataset, self.optim.batch_size, shuffle=True, drop_last=True,
            num_workers=min(8, cores()), pin_memory=on_gpu,
        )  # fmt: skip
        clock = _Clock(self.workspace.device)
        with quiet():
            trainer = pl.Trainer(
                accelerator="gpu" if on_gpu else "cpu", devices=1,
                max_steps=self.steps, logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, callbacks=[clock],
                precision=self.workspace.config.runtime.precision, max_epochs=1000,
                deterministic=False,
            )  # fmt: skip
            trainer.fit(module, loader)
        return clock.seconds()

    def parts(self, bare: float) -> dict[str, float]:
        """Seconds of a step's parts: the loss is a part of the bare step, the others add to it."""
        module = self.module(self.optim).to(self.workspace.device)
        with torch.no_grad():
            logits = module(self.batch.inputs)

        def loss() -> None:
            value = module.loss(logits.detach().requires_grad_(), self.batch.target)
            value.backward()  # type: ignore[no-untyped-call]

        raw = self.read(1)
        return {
            "network and optimiser": bare - (once := self._time(loss)),
            "loss": once,
            "reading": self._time(lambda: self.read(1)),
            "augmentation": self._time(lambda: self.data.prepare(raw)),
        }

    def _time(self, what: Callable[[], Any], repeats: int = 10) -> float:
        clock = _Clock(self.workspace.device)
        for _ in range(repeats + 1):
            what()
            clock.tick()
        return clock.seconds()


class _Clock(pl.Callback):
    """Seconds a step, from the end of the first step to the end of the last."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ticks = 0
        self.first = self.last = 0.0

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks == 1:
            self.first = self._now()

    def seconds(self) -> float:
        """Call it right after the last step."""
        return ((self.last or self._now()) - self.first) / (self.ticks - 1)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.tick()
        if trainer.global_step == trainer.max_steps or trainer.is_last_batch:
            self.last = self._now()


def _print_train(batch_size: int, rows: list[Row]) -> None:
    numbers = [Column(name, justify="right") for name in ("ms", "images/s", "of bare", "share")]
    title = f"{rows[0].experiment}: training steps of {batch_size} images"
    table = Table("a step of", *numbers, title=title)
    for row in rows:
        if row.kind == "way":
            speed = f"{1000 * batch_size / row.milliseconds:.1f}"
            table.add_row(row.what, f"{row.milliseconds:.1f}", speed, f"{row.ratio:.2f}", "")
        else:
            cell = "of a cell: " if row.kind == "cell" else ""
            share = f"{row.ratio:.1%}"
            table.add_row(f"  {cell}{row.what}", f"{row.milliseconds:.1f}", "", "", share)
    console.print(table)
