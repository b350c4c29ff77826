"""Batches: turns what `reading.py` reads into inputs and targets.

Reading happens on the host, everything else (normalising, cropping, targets) on the batch's device,
in `on_after_batch_transfer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lovasz_repro.data.augment import crop, normalise
from lovasz_repro.data.binary import SamplePlan, binary_target
from lovasz_repro.data.cache import OUTSIDE
from lovasz_repro.data.reading import (
    Crops,
    EpochSteps,
    Raw,
    Source,
    TrainingSteps,
    Views,
    Whole,
    WholeImages,
    loader,
)
from lovasz_repro.data.voc import VOID


class Batch(NamedTuple):
    """The network's input and target, and what scoring at the files' own sizes needs.

    In training `chosen`, `native` and `native_sizes` may be empty: nothing reads them.
    """

    inputs: Tensor  # (B, 3, S, S) or (B, C, h, w) float32
    target: Tensor  # (B, h, w) at the grid's cells
    sizes: Tensor  # (B, 2) height and width on the canvas
    chosen: Tensor  # (B,) indices into the cache
    native: Tensor  # (B, H, W) targets, void beyond an image's own size
    native_sizes: Tensor  # (B, 2)


@dataclass(frozen=True)
class Task:
    """What the target is: a category against the rest, or (label None) all 21 labels."""

    label: int | None
    void_in_empty: Literal["background", "void"]

    def present(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(N,) whether each image holds the category; all False for the 21-way task."""
        return np.zeros(len(counts), np.bool_) if self.label is None else counts[:, self.label] > 0

    def target(self, labels: Tensor, present: Tensor) -> Tensor:
        """(B, H, W) uint8 labels -> targets. The caller marks what lies outside an image."""
        if self.label is None:
            return labels.long()
        return binary_target(labels, self.label, present, self.void_in_empty)


class DataModule(pl.LightningDataModule):
    """Training batches by plan; validation and test batches of whole images.

    An epoch is the `epoch_steps` steps between two validations; a run resumed at an epoch's end
    gets the same batches as one that was not stopped. With several devices the Trainer needs
    `use_distributed_sampler=False`: `share` divides the batch already.

    Args:
        plan: what each step draws.
        val_index: (M,) images validated and tested, as indices into the cache.
        crop_size: side of the training crop; features are never cropped.
        share: (rank, devices), see `binary.Draws.part`; each validates and tests on all images.
        eval_batch: images per validation batch.
        test_batch: images per test batch, whose labels have the files' sizes.
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
        self._normal: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def setup(self, stage: str = "") -> None:
        """Make the data sets; the same for every stage."""
        self._present = self.task.present(self.source.cache.counts)
        self.steps = TrainingSteps(self.source, self.plan, self._present, self.share)

    def train_dataloader(self) -> DataLoader[Raw]:
        return loader(self.steps, EpochSteps(self.epoch_steps, (self.plan.seed, self.share[0])))

    def val_dataloader(self) -> DataLoader[Whole]:
        return self.images(self.val_index, native=False)

    def test_dataloader(self) -> DataLoader[Whole]:
        # Sorted by size: a batch is padded to its largest image.
        sizes = self.source.cache.native_sizes[self.val_index]
        return self.images(self.val_index[np.lexsort(sizes.T)], native=True)

    def images(self, index: NDArray[np.int64], *, native: bool) -> DataLoader[Whole]:
        """Whole images in order, in batches."""
        size = self.test_batch if native else self.eval_batch
        return loader(WholeImages(self.source, index, self._present, size, native))

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # A batch is a tuple of tensors; Lightning would search each one for nested tensors.
        return type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Batch:
        return self.prepare(batch)

    def prepare(self, raw: Raw) -> Batch:
        """Input and target of a batch that is on its device."""
        device = raw.sizes.device
        if isinstance(raw, Views):
            target = self.task.target(raw.masks, raw.present)
            target = target.masked_fill(raw.masks == OUTSIDE, VOID)
            return _training_batch(raw.inputs.float(), target, raw.sizes)
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
            return _training_batch(images, target[:, ::stride, ::stride], raw.sizes)
        is_image = raw.inputs.dtype == torch.uint8
        inputs = normalise(raw.inputs, raw.sizes, mean, std) if is_image else raw.inputs.float()
        target = self._known(raw.masks, raw.present, raw.sizes, stride)
        native = raw.native
        if native.numel():
            native = self._known(native, raw.present, raw.native_sizes, 1)
        return Batch(inputs, target, raw.sizes, raw.chosen, native, raw.native_sizes)

    def _known(self, labels: Tensor, present: Tensor, sizes: Tensor, stride: int) -> Tensor:
        """Targets of labels (B, H, W) that lie `stride` pixels apart, void outside the images."""
        target = self.task.target(labels, present)
        height, width = (
            torch.arange(length, device=labels.device) * stride < sizes[:, axis, None]
            for axis, length in enumerate(labels.shape[1:])
        )
        return target.masked_fill(~(height[:, :, None] & width[:, None, :]), VOID)


def _training_batch(inputs: Tensor, target: Tensor, sizes: Tensor) -> Batch:
    """A training batch: the fields that only whole images have are empty."""
    return Batch(inputs, target, sizes, sizes[:0, 0], target[:0], sizes[:0])
