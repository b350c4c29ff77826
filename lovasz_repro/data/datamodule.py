"""Batches: what a step reads from the memory-mapped arrays, and how it becomes input and target.

Reading happens on the host, everything else (normalising, cropping, targets) on the batch's device,
in `on_after_batch_transfer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from lovasz_repro.data.augment import crop, normalise
from lovasz_repro.data.binary import SamplePlan, binary_target
from lovasz_repro.data.cache import OUTSIDE, ImageCache
from lovasz_repro.data.voc import VOID


class Crops(NamedTuple):
    """A training step's images as read, with what to do to them; see `binary.Draws`."""

    images: Tensor  # (B, 3, S, S) uint8
    masks: Tensor  # (B, S, S) uint8
    sizes: Tensor  # (B, 2)
    present: Tensor  # (B,) bool
    scale: Tensor
    flip: Tensor
    offset: Tensor


class Views(NamedTuple):
    """A training step's fixed crops, as what the frozen part of the network makes of them."""

    inputs: Tensor  # (B, C, h, w) float16
    masks: Tensor  # (B, h, w) uint8 at the grid's cells, OUTSIDE beyond the image
    sizes: Tensor  # (B, 2)
    present: Tensor  # (B,) bool


class Whole(NamedTuple):
    """Whole images as read: canvases, or features in their place."""

    inputs: Tensor  # (B, 3, S, S) uint8, or (B, C, h, w) float16
    masks: Tensor  # (B, h, w) uint8 at the grid's cells
    sizes: Tensor  # (B, 2)
    present: Tensor  # (B,) bool
    chosen: Tensor  # (B,) indices into the cache
    native: Tensor  # (B, H, W) uint8 labels at the files' sizes, void beyond, or empty
    native_sizes: Tensor  # (B, 2)


Raw = Crops | Views | Whole
"""A batch as it is read."""


class Batch(NamedTuple):
    """What a network sees. For whole images also what brings its output to the file's size."""

    inputs: Tensor  # (B, 3, S, S) or (B, C, h, w) float32
    target: Tensor  # (B, h, w) at the grid's cells
    sizes: Tensor  # (B, 2) height and width on the canvas
    chosen: Tensor  # (B,) indices into the cache
    native: Tensor  # (B, H, W) targets, void beyond an image's own size
    native_sizes: Tensor  # (B, 2)


Rows = NDArray[Any] | Tensor
"""N rows: memory-mapped, or a tensor on a device."""


def take(rows: Rows, index: NDArray[np.int64]) -> Tensor:
    """The rows of `index`, on the device where the rows are."""
    if isinstance(rows, Tensor):
        return rows[torch.from_numpy(index).to(rows.device, non_blocking=True)]
    return torch.from_numpy(rows[index])


@dataclass(frozen=True)
class Source:
    """The arrays that batches are read from.

    images: (N, 3, S, S) uint8 canvases. features: (N, C, h, w) float16 in their place, where a
    part of the network is frozen.
    views: fixed crops of each image that training draws among; 0: whole images.
    view_features, view_labels: (N · views, C, h, w) float16 and (N · views, h, w) uint8.
    masks: (N, S, S) uint8 labels of the canvases. grid_masks: (N, h, w) under the grid's cells.
    stride: pixels of the canvas per cell of the network's grid.
    mean, std: (3,) for `normalise`.
    """

    cache: ImageCache
    images: Rows
    masks: Rows
    grid_masks: Rows
    features: Rows | None
    stride: int
    mean: Tensor
    std: Tensor
    views: int = 0
    view_features: Rows | None = None
    view_labels: Rows | None = None

    def whole(self, index: NDArray[np.int64], present: NDArray[np.bool_], native: bool) -> Whole:
        """Whole images, with the labels at the files' sizes where `native`."""
        sizes = self.cache.native_sizes[index]
        labels = np.full((len(index), *sizes.max(0)) if native else (len(index), 0, 0), VOID, "u1")
        if native:
            for row, i, (height, width) in zip(labels, index, sizes, strict=True):
                row[:height, :width] = self.cache.native_mask(i)
        return Whole(
            take(self.images if self.features is None else self.features, index),
            take(self.grid_masks, index),
            take(self.cache.sizes, index),
            torch.from_numpy(present),
            torch.from_numpy(index),
            torch.from_numpy(labels),
            torch.from_numpy(sizes),
        )

    def canvases(self, index: NDArray[np.int64]) -> Tensor:
        """Normalised canvases (B, 3, S, S)."""
        sizes = take(self.cache.sizes, index)
        return normalise(take(self.images, index), sizes, self.mean, self.std)

    def needed(self) -> dict[str, Rows]:
        """The arrays that batches are read from at every step."""
        if self.view_features is not None and self.view_labels is not None:
            return {"view_features": self.view_features, "view_labels": self.view_labels}
        if self.features is not None:
            return {"features": self.features, "grid_masks": self.grid_masks}
        return {"images": self.images, "masks": self.masks, "grid_masks": self.grid_masks}

    def resident(self, device: torch.device) -> Source:
        """With what is needed in the memory of `device`: a step then copies nothing to it."""
        moved: dict[str, Any] = {}
        for name, rows in self.needed().items():
            assert isinstance(rows, np.ndarray)
            tensor = torch.empty(rows.shape, dtype=getattr(torch, rows.dtype.name), device=device)
            for first in range(0, len(rows), 256):
                part = slice(first, first + 256)
                tensor[part] = torch.from_numpy(np.array(rows[part]))  # a map is read-only
            moved[name] = tensor
        return replace(self, **moved)


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
    What torch draws in it, as dropout does, is a function of the plan's seed and e, too.

    Args:
        plan: what each step draws.
        val_index: (M,) images validated and tested, as indices into the cache.
        crop_size: side of the training crop; features are never cropped.
        share: (rank, devices), see `binary.Draws.part`. Each validates and tests on all images.
        eval_batch: whole images at once. test_batch: the same with their labels at full size.
    """

    def __init__(
        self, source: Source, task: Task, plan: SamplePlan, val_index: NDArray[np.int64],
        *, epoch_steps: int, crop_size: int, eval_batch: int, test_batch: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        super().__init__()
        self.source = source
        self.task = task
        self.plan = plan
        self.val_index = val_index
        self.epoch_steps = epoch_steps
        self.crop_size = crop_size
        self.eval_batch = eval_batch
        self.test_batch = test_batch
        self.share = share
        self._present = task.present(source.cache.counts)
        self._normal: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def train_dataloader(self) -> Steps:
        epoch = self.trainer.current_epoch if self.trainer else 0
        entropy = [self.plan.seed, epoch, self.share[0]]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        return Steps(self._training_step, epoch * self.epoch_steps, self.epoch_steps)

    def val_dataloader(self) -> Steps:
        return self.images(self.val_index, native=False)

    def test_dataloader(self) -> Steps:
        # Images of one size side by side: a batch then is as large as its images.
        sizes = self.source.cache.native_sizes[self.val_index]
        return self.images(self.val_index[np.lexsort(sizes.T)], native=True)

    def images(self, index: NDArray[np.int64], *, native: bool) -> Steps:
        """Whole images in order, in batches."""
        size = self.test_batch if native else self.eval_batch

        def read(batch: int) -> Whole:
            part = index[batch * size : (batch + 1) * size]
            return self.source.whole(part, self._present[part], native)

        return Steps(read, 0, -(-len(index) // size))

    def _training_step(self, step: int) -> Raw:
        draws = self.plan.draw(step).part(*self.share)
        index, source = draws.index, self.source
        if source.view_features is not None and source.view_labels is not None:
            # Which view is drawn follows from the draw of the crop that it stands for.
            rows = index * source.views + (draws.offset[:, 0] * source.views).astype(np.int64)
            return Views(
                take(source.view_features, rows),
                take(source.view_labels, rows),
                take(source.cache.sizes, index),
                torch.from_numpy(self._present[index]),
            )
        if source.features is not None:
            return source.whole(index, self._present[index], native=False)
        return Crops(
            take(source.images, index),
            take(source.masks, index),
            take(source.cache.sizes, index),
            torch.from_numpy(self._present[index]),
            torch.from_numpy(draws.scale),
            torch.from_numpy(draws.flip),
            torch.from_numpy(draws.offset),
        )

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # A batch is a tuple of tensors; Lightning would search each of them for more.
        return type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Batch:
        return self.prepare(batch)

    def prepare(self, raw: Raw) -> Batch:
        """Input and target of a batch that is on its device."""
        device = raw.sizes.device
        if isinstance(raw, Views):
            target = self.task.target(raw.masks, raw.present)
            target = target.masked_fill(raw.masks == OUTSIDE, VOID)
            none = target[:, :0, :0]
            return Batch(raw.inputs.float(), target, raw.sizes, raw.sizes, none, raw.sizes)
        if device not in self._normal:  # a copy at every step would wait for the device
            self._normal[device] = self.source.mean.to(device), self.source.std.to(device)
        mean, std = self._normal[device]
        stride = self.source.stride
        if isinstance(raw, Crops):
            images = normalise(raw.images, raw.sizes, mean, std)
            target = self.task.target(raw.masks, raw.present)
            images, target = crop(
                images, target, raw.sizes, raw.scale, raw.flip, raw.offset, self.crop_size
            )
            # Cell (i, j) of the grid is centred on pixel (stride·i, stride·j).
            target = target[:, ::stride, ::stride]
            none = target[:, :0, :0]
            return Batch(images, target, raw.sizes, raw.sizes, none, raw.sizes)
        is_image = raw.inputs.dtype == torch.uint8
        inputs = normalise(raw.inputs, raw.sizes, mean, std) if is_image else raw.inputs.float()
        return Batch(
            inputs, self._known(raw.masks, raw.present, raw.sizes, stride), raw.sizes, raw.chosen,
            self._known(raw.native, raw.present, raw.native_sizes, 1), raw.native_sizes,
        )  # fmt: skip

    def _known(self, labels: Tensor, present: Tensor, sizes: Tensor, stride: int) -> Tensor:
        """Targets of labels (B, H, W) that lie `stride` pixels apart, void outside the images."""
        target = self.task.target(labels, present)
        height, width = (
            torch.arange(length, device=labels.device) * stride < sizes[:, axis, None]
            for axis, length in enumerate(labels.shape[1:])
        )
        return target.masked_fill(~(height[:, :, None] & width[:, None, :]), VOID)


class Steps:
    """`read(first)`, `read(first + 1)`, … `count` times. In the main process: reading is a copy out
    of a memory-mapped array, and handing it between processes would cost more."""

    def __init__(self, read: Callable[[int], Raw], first: int, count: int) -> None:
        self.read = read
        self.first = first
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Raw]:
        for step in range(self.first, self.first + self.count):
            yield self.read(step)
