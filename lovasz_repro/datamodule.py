"""Batches: what a step reads from the memory-mapped arrays, and how it becomes input and target.

Reading happens on the host, everything else (normalising, cropping, targets) on the batch's device,
in `on_after_batch_transfer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from lovasz_repro.augment import crop, normalise
from lovasz_repro.binary import SamplePlan, binary_target, to_tensor
from lovasz_repro.cache import ImageCache
from lovasz_repro.voc import VOID


class Crops(NamedTuple):
    """A training step's images as read, with what to do to them; see `binary.Draws`."""

    images: Tensor  # (B, 3, S, S) uint8
    masks: Tensor  # (B, S, S) uint8
    sizes: Tensor  # (B, 2)
    present: Tensor  # (B,) bool
    scale: Tensor
    flip: Tensor
    offset: Tensor


class Whole(NamedTuple):
    """Whole images as read: canvases, or features in their place."""

    inputs: Tensor  # (B, 3, S, S) uint8, or (B, C, h, w) float16
    masks: Tensor  # (B, h, w) uint8 at the grid's cells
    sizes: Tensor  # (B, 2)
    present: Tensor  # (B,) bool
    chosen: Tensor  # (B,) indices into the cache
    native: list[Tensor]  # B labels (H, W) uint8 at the file's size; empty unless asked for


class Batch(NamedTuple):
    """What a network sees. For whole images also what brings its output to the file's size."""

    inputs: Tensor  # (B, 3, S, S) or (B, C, h, w) float32
    target: Tensor  # (B, h, w) at the grid's cells
    sizes: Tensor  # (B, 2) height and width on the canvas
    chosen: Tensor  # (B,) indices into the cache
    native: list[Tensor]  # B targets (H, W)


@dataclass(frozen=True)
class Source:
    """The arrays that batches are read from.

    features: (N, C, h, w) float16 in place of the images, where the backbone is frozen.
    stride: pixels of the canvas per cell of the network's grid.
    mean, std: (3,) for `normalise`.
    """

    cache: ImageCache
    features: NDArray[np.float16] | None
    grid_masks: NDArray[np.uint8]  # (N, h, w): labels under the grid's cells
    stride: int
    mean: Tensor
    std: Tensor

    def whole(self, index: NDArray[np.int64], present: NDArray[np.bool_], native: bool) -> Whole:
        images = self.cache.images if self.features is None else self.features
        return Whole(
            to_tensor(images[index]),
            to_tensor(self.grid_masks[index]),
            to_tensor(self.cache.sizes[index]),
            to_tensor(present),
            to_tensor(index),
            [to_tensor(self.cache.native_mask(i)) for i in index] if native else [],
        )

    def canvases(self, index: NDArray[np.int64]) -> Tensor:
        """Normalised canvases (B, 3, S, S)."""
        images, sizes = self.cache.images[index], self.cache.sizes[index]
        return normalise(to_tensor(images), to_tensor(sizes), self.mean, self.std)


@dataclass(frozen=True)
class Task:
    """What the target is: a category against the rest, or (label None) all 21 labels."""

    label: int | None
    void_in_empty: Literal["background", "void"]

    def present(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(N,) whether each image holds the category; all False for the 21-way task."""
        return counts[:, self.label or 0] > 0 if self.label else np.zeros(len(counts), np.bool_)

    def target(self, labels: Tensor, present: Tensor) -> Tensor:
        """(B, H, W) uint8 labels -> targets. What lies outside an image is not known here."""
        if self.label is None:
            return labels.long()
        return binary_target(labels, self.label, present, self.void_in_empty)


class DataModule(pl.LightningDataModule):
    """Training by plan, validation and test on whole images.

    An epoch is the `epoch_steps` steps between two validations; epoch e draws steps
    e·epoch_steps … of the plan, so a run resumed at an epoch's end sees what it would have seen.

    Args:
        plan: what each step draws.
        val_index: (M,) images validated and tested, as indices into the cache.
        crop_size: side of the training crop; features are never cropped.
        eval_batch: whole images at once.
    """

    def __init__(
        self, source: Source, task: Task, plan: SamplePlan, val_index: NDArray[np.int64],
        *, epoch_steps: int, crop_size: int, eval_batch: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.source = source
        self.task = task
        self.plan = plan
        self.val_index = val_index
        self.epoch_steps = epoch_steps
        self.crop_size = crop_size
        self.eval_batch = eval_batch
        self._present = task.present(source.cache.counts)

    def train_dataloader(self) -> Steps:
        epoch = self.trainer.current_epoch if self.trainer else 0
        return Steps(self._training_step, epoch * self.epoch_steps, self.epoch_steps)

    def val_dataloader(self) -> Steps:
        return self.images(self.val_index, native=False)

    def test_dataloader(self) -> Steps:
        return self.images(self.val_index, native=True)

    def images(self, index: NDArray[np.int64], *, native: bool) -> Steps:
        """Whole images in order, `eval_batch` at once."""

        def read(batch: int) -> Whole:
            part = index[batch * self.eval_batch : (batch + 1) * self.eval_batch]
            return self.source.whole(part, self._present[part], native)

        return Steps(read, 0, -(-len(index) // self.eval_batch))

    def _training_step(self, step: int) -> Crops | Whole:
        draws = self.plan.draw(step)
        index, source = draws.index, self.source
        if source.features is not None:
            return source.whole(index, self._present[index], native=False)
        return Crops(
            to_tensor(source.cache.images[index]),
            to_tensor(source.cache.masks[index]),
            to_tensor(source.cache.sizes[index]),
            to_tensor(self._present[index]),
            to_tensor(draws.scale),
            to_tensor(draws.flip),
            to_tensor(draws.offset),
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Batch:
        return self.prepare(batch)

    def prepare(self, raw: Crops | Whole) -> Batch:
        """Input and target of a batch that is on its device."""
        device = raw.sizes.device
        mean, std = self.source.mean.to(device), self.source.std.to(device)
        stride = self.source.stride
        if isinstance(raw, Crops):
            images = normalise(raw.images, raw.sizes, mean, std)
            target = self.task.target(raw.masks, raw.present)
            images, target = crop(
                images, target, raw.sizes, raw.scale, raw.flip, raw.offset, self.crop_size
            )
            # Cell (i, j) of the grid is centred on pixel (stride·i, stride·j).
            return Batch(images, target[:, ::stride, ::stride], raw.sizes, raw.sizes, [])
        is_image = raw.inputs.dtype == torch.uint8
        inputs = normalise(raw.inputs, raw.sizes, mean, std) if is_image else raw.inputs.float()
        target = self.task.target(raw.masks, raw.present)
        place = torch.arange(target.shape[-1], device=device) * stride
        inside_y, inside_x = place < raw.sizes[:, :1], place < raw.sizes[:, 1:]
        inside = inside_y[:, :, None] & inside_x[:, None, :]  # (B, h, w)
        native = [
            self.task.target(labels[None], present[None])[0]
            for labels, present in zip(raw.native, raw.present, strict=False)
        ]
        return Batch(inputs, target.masked_fill(~inside, VOID), raw.sizes, raw.chosen, native)


class Steps:
    """`read(first)`, `read(first + 1)`, … `count` times. In the main process: reading is a copy out
    of a memory-mapped array, and handing it between processes would cost more."""

    def __init__(self, read: Callable[[int], Crops | Whole], first: int, count: int) -> None:
        self.read = read
        self.first = first
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Crops | Whole]:
        for step in range(self.first, self.first + self.count):
            yield self.read(step)
