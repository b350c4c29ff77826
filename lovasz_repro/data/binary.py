"""The binary task: targets, which val images count, and what each training step draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lovasz_repro.data.voc import VOID
from lovasz_repro.errors import UserError


def binary_target(
    labels: Tensor, label: int, present: Tensor, void_in_empty: Literal["background", "void"]
) -> Tensor:
    """1 on `label`, 0 elsewhere, 255 on void.

    Args:
        labels: (B, H, W) integer labels 0–K and 255.
        present: (B,) whether the whole image, not only this crop, holds the category.
        void_in_empty: what void becomes in an image without it. The original makes it background.
    """
    target = (labels == label).to(labels.dtype)
    void = labels == VOID
    if void_in_empty == "background":
        void &= present.view(-1, *[1] * (labels.dim() - 1))
    return target.masked_fill(void, VOID)


def balanced_selection(
    positive: NDArray[np.bool_], ratio: float, seed: int, limit: int | None = None
) -> NDArray[np.int64]:
    """Sorted positions of all images with the category and of `ratio` times as many without.

    Args:
        positive: (N,) whether each listed image holds the category.
        seed: of the draw of images without it and, if a limit applies, with it.
        limit: at most this many with the category.
    """
    with_it, without = np.flatnonzero(positive), np.flatnonzero(~positive)
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    if limit is not None and len(with_it) > limit:
        with_it = rng.choice(with_it, limit, replace=False)
    count = min(len(without), round(ratio * len(with_it)))
    chosen = rng.choice(without, count, replace=False)
    return np.sort(np.concatenate([with_it, chosen]))


@dataclass(frozen=True)
class Draws:
    """The draws of one training step, B images.

    index: (B,) int64 into the cache. scale: (B,) float64 of the image. flip: (B,) bool.
    offset: (B, 2) float64 in [0, 1), place of the crop within the free room.
    """

    index: NDArray[np.int64]
    scale: NDArray[np.float64]
    flip: NDArray[np.bool_]
    offset: NDArray[np.float64]

    def part(self, rank: int, devices: int) -> Draws:
        """Every `devices`-th image, so that each device gets the mixture of the whole batch."""
        own = slice(rank, None, devices)
        return Draws(self.index[own], self.scale[own], self.flip[own], self.offset[own])


@dataclass(frozen=True)
class SamplePlan:
    """The draws of a whole training run, as a pure function of (seed, step).

    Step t's generator is counter-based and keyed by (seed, t): the draws do not depend on the loss,
    on workers, or on whether the run was interrupted before t.

    Args:
        groups: indices into the cache to draw from, with replacement, and the share of the batch
            that each group gets; the last group gets what rounding leaves.
        scale: smallest and largest random scale.
        flip: mirror half of the images.
    """

    seed: int
    batch_size: int
    groups: Sequence[tuple[NDArray[np.int64], float]]
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False

    def draw(self, step: int) -> Draws:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        size = self.batch_size
        counts = [round(size * share) for _, share in self.groups]
        counts[-1] = size - sum(counts[:-1])
        chosen = [
            group[rng.integers(0, len(group), count)]
            for (group, _), count in zip(self.groups, counts, strict=True)
        ]
        return Draws(
            index=np.concatenate(chosen),
            scale=rng.uniform(*self.scale, size),
            flip=rng.random(size) < 0.5 * self.flip,
            offset=rng.random((size, 2)),
        )


def fixed_views(
    index: NDArray[np.int64], view: NDArray[np.int64], scale: tuple[float, float], flip: bool
) -> Draws:
    """Fixed views of images, each drawn from the image's index and the view's number alone.

    Args:
        index: (B,) into the cache. view: (B,) which view of each.
        scale, flip: as in `SamplePlan`.
    """
    scales, flips, offsets = [], [], []
    for key in zip(index.tolist(), view.tolist(), strict=True):
        rng = np.random.Generator(np.random.Philox(key=key))
        scales.append(rng.uniform(*scale))
        flips.append(rng.random() < 0.5 * flip)
        offsets.append(rng.random(2))
    return Draws(index, np.array(scales), np.array(flips), np.stack(offsets))


def check_both(positive: NDArray[np.bool_], what: str) -> None:
    """Check that some but not all training images contain the category.

    Args:
        positive: (N,) whether each contains it.
        what: prefix of the message.

    Raises: UserError if none or all of the training images contain the category.
    """
    if not positive.any() or positive.all():
        kind = "without" if positive.any() else "with"
        raise UserError(
            f"{what}: no training image {kind} the category; add some, or leave the category out "
            "of cells.categories and tuning.categories"
        )


def balanced_plan(
    index: NDArray[np.int64],
    positive: NDArray[np.bool_],
    share: float,
    *,
    seed: int,
    batch_size: int,
    scale: tuple[float, float],
    flip: bool,
    what: str,
) -> SamplePlan:
    """A plan that draws `share` of each batch from images with the category.

    Args:
        index: (N,) the training images in the cache. positive: (N,) whether each holds it.
        what: prefix of the error's message.

    Raises: UserError if all or none of the images hold it.
    """
    check_both(positive, what)
    groups = [(index[positive], share), (index[~positive], 1 - share)]
    return SamplePlan(seed, batch_size, groups, scale, flip)
