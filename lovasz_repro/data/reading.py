"""Reads batches from the memory-mapped arrays: data sets whose items are whole batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lovasz_repro.data.augment import normalise
from lovasz_repro.data.binary import SamplePlan
from lovasz_repro.data.cache import ImageCache
from lovasz_repro.data.voc import VOID


class Crops(NamedTuple):
    """A training step's images as read, and the draws to apply to them, see `binary.Draws`."""

    images: Tensor  # (B, 3, S, S) uint8
    masks: Tensor  # (B, S, S) uint8
    sizes: Tensor  # (B, 2)
    present: Tensor  # (B,) bool
    scale: Tensor
    flip: Tensor
    offset: Tensor


class Views(NamedTuple):
    """A training step's fixed crops, as the output of the network's frozen part."""

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

    images: (N, 3, S, S) uint8 canvases. features: (N, C, h, w) float16 in their place, if a
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
        """Whole images, with the labels at the files' sizes if `native`."""
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

    def canvases(self, index: NDArray[np.int64], device: torch.device) -> Tensor:
        """Normalised canvases (B, 3, S, S) on the device."""
        arrays = take(self.images, index), take(self.cache.sizes, index), self.mean, self.std
        return normalise(*(tensor.to(device) for tensor in arrays))

    def needed(self) -> dict[str, Rows]:
        """The arrays that batches are read from at every step."""
        if self.view_features is not None and self.view_labels is not None:
            return {"view_features": self.view_features, "view_labels": self.view_labels}
        if self.features is not None:
            return {"features": self.features, "grid_masks": self.grid_masks}
        return {"images": self.images, "masks": self.masks, "grid_masks": self.grid_masks}

    def resident(self, device: torch.device) -> Source:
        """This source with the `needed` arrays on `device`, so that no step copies them there."""
        moved: dict[str, Any] = {}
        for name, rows in self.needed().items():
            assert isinstance(rows, np.ndarray)
            tensor = torch.empty(rows.shape, dtype=getattr(torch, rows.dtype.name), device=device)
            for first in range(0, len(rows), 256):
                part = slice(first, first + 256)
                tensor[part] = torch.from_numpy(np.array(rows[part]))  # a map is read-only
            moved[name] = tensor
        return replace(self, **moved)


@dataclass(eq=False)
class TrainingSteps(Dataset[Raw]):
    """Item t is what training step t reads.

    Args:
        present: (N,) whether each image holds the category.
        share: (rank, devices), see `binary.Draws.part`.
    """

    source: Source
    plan: SamplePlan
    present: NDArray[np.bool_]
    share: tuple[int, int]

    def __getitem__(self, step: int) -> Raw:
        draws = self.plan.draw(step).part(*self.share)
        index, source = draws.index, self.source
        if source.view_features is not None and source.view_labels is not None:
            # A view stands for a crop: the crop's draw chooses it.
            rows = index * source.views + (draws.offset[:, 0] * source.views).astype(np.int64)
            return Views(
                take(source.view_features, rows),
                take(source.view_labels, rows),
                take(source.cache.sizes, index),
                torch.from_numpy(self.present[index]),
            )
        if source.features is not None:
            return source.whole(index, self.present[index], native=False)
        return Crops(
            take(source.images, index),
            take(source.masks, index),
            take(source.cache.sizes, index),
            torch.from_numpy(self.present[index]),
            torch.from_numpy(draws.scale),
            torch.from_numpy(draws.flip),
            torch.from_numpy(draws.offset),
        )


@dataclass(eq=False)
class WholeImages(Dataset[Whole]):
    """Item k is the k-th batch of `size` whole images; see `Source.whole`."""

    source: Source
    index: NDArray[np.int64]
    present: NDArray[np.bool_]
    size: int
    native: bool

    def __len__(self) -> int:
        return -(-len(self.index) // self.size)

    def __getitem__(self, batch: int) -> Whole:
        part = self.index[batch * self.size : (batch + 1) * self.size]
        return self.source.whole(part, self.present[part], self.native)


class EpochSteps(Sampler[int]):
    """An epoch's step numbers: epoch e has the steps e·count to (e + 1)·count − 1 of the plan.

    Iterating also seeds torch's generator from `seeds` and e, so that dropout, for one, does not
    depend on earlier epochs.
    """

    def __init__(self, count: int, seeds: tuple[int, int]) -> None:
        self.count = count
        self.seeds = seeds
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, the first of a resumed training included."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        seed, rank = self.seeds
        entropy = np.random.SeedSequence([seed, self.epoch, rank])
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        yield from range(self.epoch * self.count, (self.epoch + 1) * self.count)


Item = TypeVar("Item", bound=Raw)


def loader(data: Dataset[Item], steps: Sampler[int] | None = None) -> DataLoader[Item]:
    """A loader of items that are batches already, in order or as `steps` gives them.

    It reads in the main process: a read only copies from a memory-mapped array, and passing the
    batch between processes would cost more.
    """
    return DataLoader(data, batch_size=None, sampler=steps, num_workers=0)
