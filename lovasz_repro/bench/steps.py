"""What a training step costs beside the network's arithmetic.

`bench_train` times three ways in turn in one run: (a) the bare step on one batch that stays where
it is, (b) this project's pipeline under Lightning, (c) what one would write first: Lightning, a
DataLoader, and a transform per image that decodes its files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from lovasz_repro.bench.losses import write_csv
from lovasz_repro.config import Experiment, Optim
from lovasz_repro.data.binary import balanced_plan
from lovasz_repro.data.datamodule import Batch, DataModule, Task
from lovasz_repro.data.voc import VOID
from lovasz_repro.models.deeplab import build
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.loop import autocast, deterministic, quiet, train
from lovasz_repro.training.segmenter import BinarySegmenter

console = Console(highlight=False)


@dataclass(frozen=True)
class Row:
    """A way to train, or a part of a step of this project's pipeline.

    ratio: of a way, its images per second over the bare step's; of a part, its share of the step.
    """

    experiment: str
    kind: Literal["way", "part"]
    what: str
    milliseconds: float
    ratio: float


def bench_train(
    config: Experiment, category: str, loss: str, steps: int, rounds: int, out: Path | None
) -> list[Row]:
    """Time the three ways on a category's training images of the first fold.

    Args:
        steps: timed steps of each round, after one that is not. With few of them the DataLoader
            would live on what it read before. rounds: medians are over these.
        out: CSV file for the rows.
    """
    workspace = Workspace(config)
    setup = _Setup(workspace, category, loss, steps + 1)
    ways: dict[str, Callable[[], float]] = {
        "bare step": setup.bare,
        "this pipeline": setup.pipeline,
        "Lightning, DataLoader, transforms": setup.plain,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first is a warm-up
        for name, way in ways.items():
            seconds = way()
            if number:
                taken[name].append(seconds)
    bare, ours = median(taken["bare step"]), median(taken["this pipeline"])
    parts = setup.parts(bare)
    parts["Lightning and logging"] = ours - sum(parts.values())
    name = config.name
    rows = [
        Row(name, "way", way, 1000 * each, bare / each)
        for way, each in ((way, median(values)) for way, values in taken.items())
    ]
    rows += [Row(name, "part", part, 1000 * each, each / ours) for part, each in parts.items()]
    _print_train(config.optim.batch_size, rows)
    if out:
        write_csv(rows, out)
    return rows


class _Setup:
    """What the three ways share: one category's network, loss and draws."""

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
        self.data = self.data_module()
        self.data.setup()
        self.batch = self.draw(0)

    def data_module(self) -> DataModule:
        config = self.workspace.config
        plan = balanced_plan(
            self.index, self.workspace.present(self.category)[self.index],
            config.data.positive_fraction, seed=0, batch_size=self.optim.batch_size,
            scale=config.data.scale, flip=config.data.flip, what=self.category,
        )  # fmt: skip
        # One image is validated: Lightning ends an epoch with it, after the last timed step.
        return self.workspace.data_module(self.source, self.task, plan, self.index[:1], self.optim)

    def read(self, step: int) -> Any:
        return self.data.transfer_batch_to_device(self.data.steps[step], self.workspace.device, 0)

    def draw(self, step: int) -> Batch:
        return self.data.prepare(self.read(step))

    def module(self) -> BinarySegmenter:
        network = self.trained.binary(self.label, self.workspace.config.network.score)
        loss = self.workspace.config.loss(self.loss_name)
        return BinarySegmenter(network, loss, self.optim, self.optim.lr, self.network.stride)

    def bare(self) -> float:
        """Seconds a step of the network, the loss and the optimiser alone."""
        module = self.module().to(self.workspace.device).train()
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
        clock = _Clock(self.workspace.device)
        train(
            self.module(), self.data_module(), self.workspace.config.runtime,
            self.workspace.device, None, "pipeline", callbacks=[clock],
        )  # fmt: skip
        return clock.seconds()

    def plain(self) -> float:
        data = self.workspace.config.data
        voc, ids = self.workspace.voc, self.workspace.images.ids
        files = [(str(voc.image_path(ids[i])), str(voc.mask_path(ids[i]))) for i in self.index]
        dataset = _Files(files, self.label, data.crop_size, data.scale, self.source)
        config = self.workspace.config.network
        network = self.network.binary(self.label, config.score)
        frozen, _ = network.split(config.train, config.split)
        if frozen is not None:
            frozen.requires_grad_(False)
        module = _Plain(network, self.workspace.config.loss(self.loss_name), self.optim)
        on_gpu = self.workspace.device.type == "cuda"
        loader = DataLoader(
            dataset, self.optim.batch_size, shuffle=True, drop_last=True,
            num_workers=min(8, os.cpu_count() or 1), pin_memory=on_gpu,
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
        module = self.module().to(self.workspace.device)
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


class _Files(Dataset[tuple[Tensor, Tensor]]):
    """The usual data set: decodes an image and its mask, and transforms the pair by itself."""

    def __init__(
        self, files: list[tuple[str, str]], label: int, size: int, scale: tuple[float, float],
        source: Any,
    ) -> None:  # fmt: skip
        self.files = files
        self.label = label
        self.stride = source.stride
        self.transform = v2.Compose(
            [
                v2.ScaleJitter((size, size), scale, InterpolationMode.BILINEAR, antialias=True),
                v2.RandomCrop(size, pad_if_needed=True, fill=_PADDING),
                v2.RandomHorizontalFlip(),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(source.mean.tolist(), source.std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.files[index]
        labels: NDArray[np.uint8] = np.asarray(Image.open(mask))
        target = np.where(labels == VOID, VOID, labels == self.label).astype("u1")
        pair = (
            tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(image).convert("RGB"))),
            tv_tensors.Mask(torch.from_numpy(target)),
        )
        picture, aim = self.transform(*pair)
        return picture, aim[:: self.stride, :: self.stride]


_PADDING = {tv_tensors.Image: 0, tv_tensors.Mask: VOID}


class _Plain(pl.LightningModule):
    """What one would write first."""

    def __init__(self, network: torch.nn.Module, loss: Callable[..., Tensor], optim: Optim) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.optim = optim

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, target = batch
        value = self.loss(self.network(images)[:, 0].float(), target)
        self.log("loss", value)
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, self.optim.lr, momentum=self.optim.momentum)


def _print_train(batch_size: int, rows: list[Row]) -> None:
    table = Table(title=f"{rows[0].experiment}: training steps of {batch_size} images")
    table.add_column("a step of")
    for name in ("ms", "images/s", "of bare", "share"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.kind == "way":
            speed = f"{1000 * batch_size / row.milliseconds:.1f}"
            table.add_row(row.what, f"{row.milliseconds:.1f}", speed, f"{row.ratio:.2f}", "")
        else:
            table.add_row(f"  {row.what}", f"{row.milliseconds:.1f}", "", "", f"{row.ratio:.1%}")
    console.print(table)


def _short(optim: Optim, steps: int) -> Optim:
    return replace(optim, steps=steps, validate_every=steps)
