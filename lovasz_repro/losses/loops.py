"""The Lovász extension of the Jaccard loss on a CPU, as loops that Numba compiles.

They compute the same as :mod:`lovasz_repro.losses.extension`, in a few passes over one row at a
time. Scores and gradient are contiguous arrays ``(G, M, C, N)``: G * C rows, each with the N pixels
of M images. The C rows of a group share its labels ``(G, M, N)``, of any real dtype. A loop is
compiled at its first call, in about a second, and kept on disk for later processes.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lovasz_repro.losses.compiled import compiled
from lovasz_repro.losses.extension import (
    BIN_OFFSET_LOG2,
    BINS,
    Extension,
    Method,
    bin_of_bits,
)
from lovasz_repro.losses.labels import wrong_labels
from lovasz_repro.losses.threads import share

Array = NDArray[Any]

# A digit of the radix sort: its counters fit a first-level cache.
DIGIT_BITS = 11
DIGITS = 1 << DIGIT_BITS
# Pixels processed at a time, so that they stay in a first-level cache.
BLOCK = 1024


class Loops(Extension):
    """The loss of each row ``(G, 1, C, 1)``, its gradient in the scores ``(G, M, C, N)``, and which
    rows have foreground ``(G, C)``, from scores and labels as `lovasz_extension` describes them."""

    @staticmethod
    def forward(
        scores: Tensor, labels: Tensor, ignored: int, method: Method
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores = scores.detach().contiguous()
        groups, images, count, pixels = scores.shape
        probability = count > 1
        highest = max(count - 1, 1)
        y, void, wrong = _array(labels), ignored, False
        if probability:  # every row reads all labels, so make them short
            y, wrong = _codes(y, highest, ignored)
            void = highest + 1
        gradient = torch.empty_like(scores)
        losses, present = scores.new_empty(groups, 1, count, 1), scores.new_empty(groups, count)
        f, out = scores.numpy(), gradient.numpy()
        results = losses.numpy()[:, 0, :, 0], present.numpy()
        unknown = [wrong]

        def work(first: int, last: int) -> None:
            unknown.append(_errors(f, y, void, probability, first, last, out))
            _GRADIENTS[method](out, first, last, *results)

        if not wrong:
            share(work, groups * count, images * pixels)
        if any(unknown):
            names = f"0 ... {highest}" if probability else "0, 1"
            raise wrong_labels(labels, f"{names} or {ignored}")
        return losses, gradient, present


# Torch binds the arguments to the signature at every call, which is fastest without names.
# `Operations` keeps its names: torch.compile counts them.
_ARGUMENTS = inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL)
Loops.forward.__signature__ = inspect.Signature([_ARGUMENTS])  # type: ignore[attr-defined]


def _array(labels: Tensor) -> Array:
    """Labels as a contiguous array, in a type that NumPy has."""
    if labels.dtype == torch.bool:
        labels = labels.view(torch.uint8)
    elif labels.is_floating_point() and labels.dtype != torch.float64:
        labels = labels.float()
    return labels.contiguous().numpy()


# The functions below process rows first ... last - 1; row g * C + c is class c of group g.
# ``gradient`` holds the errors at first, negated on foreground, and is overwritten in place.


def _gradient_by_sort(
    gradient: Array, first: int, last: int, losses: Array, present: Array
) -> None:
    _, images, _, pixels = gradient.shape
    # Allocated by torch, so that its profiler counts the memory.
    packed = torch.empty(2, images * pixels, dtype=torch.int64).numpy().view(np.uint64)
    steps = packed[1].view(gradient.dtype)[: images * pixels]
    bits = gradient.view(f"u{gradient.itemsize}")
    _sort_rows(gradient, bits, packed, steps, first, last, losses, present)


def _gradient_by_bins(
    gradient: Array, first: int, last: int, losses: Array, present: Array
) -> None:
    _, images, _, pixels = gradient.shape
    places = torch.empty(images, pixels, dtype=torch.int16).numpy()
    moved = np.empty(BLOCK, gradient.dtype)
    bits = moved.view(f"i{moved.itemsize}")
    _bin_rows(
        gradient, places, moved, bits, *bin_of_bits(moved.itemsize), first, last, losses, present
    )


_GRADIENTS = {"sort": _gradient_by_sort, "bins": _gradient_by_bins}


def _codes(labels: Array, highest: int, ignored: int) -> tuple[Array, bool]:
    """Labels in a short type, ``highest + 1`` for void; and whether any label is invalid."""
    codes = np.empty(labels.shape, np.uint8 if highest < 255 else np.int32)
    flat, out, unknown = labels.reshape(-1), codes.reshape(-1), []

    def work(first: int, last: int) -> None:
        unknown.append(_encode(flat[first:last], highest, ignored, out[first:last]))

    share(work, len(flat), 1)
    return codes, any(unknown)


@compiled
def _encode(labels: Array, highest: int, ignored: int, codes: Array) -> bool:
    unknown = 0
    for i in range(len(labels)):
        y = labels[i]
        is_void, is_label = y == ignored, y >= 0 and y <= highest
        code = np.int64(y) if is_label else 0
        unknown |= not (is_void or (is_label and code == y))
        codes[i] = highest + 1 if is_void else code
    return unknown != 0


@compiled
def _errors(
    scores: Array, labels: Array, void: int, probability: bool, first: int, last: int, out: Array
) -> bool:  # fmt: skip
    """``max(0, 1 - s score)`` or ``|y - score|``, finite, 0 on void, and negated on foreground, 0
    too. Returns whether a binary label is neither 0, 1 nor void."""
    _, images, count, pixels = scores.shape
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    largest = np.finfo(scores.dtype).max
    right = zero if probability else one  # on background
    unknown = 0
    for row in range(first, last):
        group, channel = row // count, row % count
        label = channel if probability else 1
        for image in range(images):
            f, y = scores[group, image, channel], labels[group, image]
            e = out[group, image, channel]
            for i in range(pixels):
                is_foreground, is_void = y[i] == label, y[i] == void
                error = one - f[i] if is_foreground else right + f[i]
                # These comparisons keep NaN.
                error = zero if error < zero or is_void else error
                error = largest if error > largest else error
                e[i] = -error if is_foreground else error
                unknown |= not (is_foreground or is_void or y[i] == 0)
    return unknown != 0 and not probability


@compiled
def _sort_rows(
    gradient: Array, bits: Array, packed: Array, steps: Array, first: int, last: int,
    losses: Array, present: Array,
) -> None:  # fmt: skip
    """What each pixel adds to the Jaccard loss, times -s, as in ``_jaccard_steps``.

    A stable radix sort puts the pixels with an error in decreasing order, by the bits of the error
    (they sort as the number does, NaN highest) and then by the label, the lowest bit of the key. An
    item of ``packed``, ``(2, M * N)``, holds 32 bits of the key, then the label, then the pixel's
    number. float64 is sorted by the lower half of its key, then by the upper. ``steps``,
    ``(M * N,)``, uses the memory of ``packed[1]``.
    """
    _, images, count, pixels = gradient.shape
    words = gradient.itemsize // 4
    one, sign = np.uint64(1), np.uint64(8 * gradient.itemsize - 1)
    half, label_at, pixel_mask = np.uint64(32), np.uint64(31), np.uint64(0x7FFFFFFF)
    digit, low, middle = np.uint64(DIGITS - 1), np.uint64(32), np.uint64(32 + DIGIT_BITS)
    high = np.uint64(32 + 2 * DIGIT_BITS)  # the upper digit has the remaining bits
    items, others = packed[0], packed[1]
    starts = np.empty((3, DIGITS), np.int32)
    taken = np.empty(DIGITS, np.int32)
    for row in range(first, last):
        group, channel = row // count, row % count
        active, total = 0, np.int64(0)
        for image in range(images):
            b = bits[group, image, channel]
            for i in range(pixels):
                number = np.uint64(b[i])
                bit = number >> sign
                key = (number << one) | bit
                items[active] = (key << half) | (bit << label_at) | np.uint64(image * pixels + i)
                total += int(bit)
                active += int(number != bit << sign)
        for word in range(words):
            if word > 0:
                for i in range(active):
                    rest = others[i] & ((one << half) - one)
                    image, there = divmod(np.int64(rest & pixel_mask), pixels)
                    b = bits[group, image, channel]
                    items[i] = ((np.uint64(b[there]) >> label_at) << half) | rest
            starts[:] = 0
            taken[:] = 0
            for i in range(active):
                item = items[i]
                starts[0, (item >> low) & digit] += 1
                starts[1, (item >> middle) & digit] += 1
                starts[2, item >> high] += 1
                taken[item >> high] += np.int64((item >> label_at) & one)
            ends = active, active, active
            for d in range(DIGITS):
                ends = ends[0] - starts[0, d], ends[1] - starts[1, d], ends[2] - starts[2, d]
                starts[0, d], starts[1, d], starts[2, d] = ends
            _scatter(items, others, active, low, starts[0])
            _scatter(others, items, active, middle, starts[1])
            if word < words - 1:
                _scatter(items, others, active, high, starts[2])
        before = 0  # foreground pixels before those of a digit
        for d in range(DIGITS - 1, -1, -1):
            before, taken[d] = before + taken[d], before
        # The last pass stores no order: it counts the pixels, and the foreground pixels, before
        # each one.
        steps[:] = 0
        for i in range(active):
            item = items[i]
            place, positives = starts[2, item >> high], np.int64(taken[item >> high])
            foreground = np.int64((item >> label_at) & one)
            starts[2, item >> high] += 1
            taken[item >> high] += foreground
            intersection, union = total - positives, total + place - positives
            gain = intersection / union / (union + 1) if union else 1.0
            steps[item & pixel_mask] = -1.0 / union if foreground else gain
        loss = 0.0
        for image in range(images):
            x, step = gradient[group, image, channel], steps[image * pixels : (image + 1) * pixels]
            for i in range(pixels):
                loss += abs(x[i]) * abs(step[i])
                x[i] = step[i]
        losses[group, channel], present[group, channel] = loss, total > 0


@compiled
def _scatter(items: Array, out: Array, count: int, shift: int, starts: Array) -> None:
    """One pass of the radix sort: move each item to the next free place for its digit."""
    for i in range(count):
        digit = (items[i] >> shift) & np.uint64(DIGITS - 1)
        out[starts[digit]] = items[i]
        starts[digit] += 1


@compiled
def _bin_rows(
    gradient: Array, places: Array, moved: Array, moved_bits: Array, shift: int, first_bin: int,
    first: int, last: int, losses: Array, present: Array,
) -> None:  # fmt: skip
    """-s times the weight of each pixel's label and bin, as in ``_signed_weights``.

    ``places``, ``(M, N)``, are indices into a table: the bins of background, then of foreground.
    """
    _, images, count, pixels = gradient.shape
    offset = gradient.dtype.type(2.0**BIN_OFFSET_LOG2)
    # Two tables, used in turn: a count that was just stored delays adding to it again.
    counts = np.empty((2, 2 * BINS), np.int32)
    weights = np.empty(2 * BINS, gradient.dtype)
    for row in range(first, last):
        group, channel = row // count, row % count
        counts[:] = 0
        highest = 0
        for image in range(images):
            for start in range(0, pixels, BLOCK):
                size = min(BLOCK, pixels - start)
                x = gradient[group, image, channel, start : start + size]
                p = places[image, start : start + size]
                for i in range(size):
                    moved[i] = abs(x[i]) + offset
                for i in range(size):
                    place = min(max((moved_bits[i] >> shift) - first_bin, 0), BINS - 1)
                    highest = max(highest, place)
                    p[i] = place + BINS * np.signbit(x[i])
                for i in range(size):
                    counts[i & 1, p[i]] += 1
        intersection = union = counts[:, BINS:].sum()
        present[group, channel] = union > 0
        for place in range(highest, 0, -1):
            background = counts[0, place] + counts[1, place]
            foreground = counts[0, place + BINS] + counts[1, place + BINS]
            if background or foreground:
                after, left = union + background, intersection - foreground
                both = 2.0 * union * after
                weights[place] = (intersection + left) / both if union else 1 / max(after, 1)
                weights[place + BINS] = -(union + after) / both if union else 0
                intersection, union = left, after
        weights[0] = weights[BINS] = 0
        loss = 0.0
        for image in range(images):
            x, p = gradient[group, image, channel], places[image]
            for i in range(pixels):
                weight = weights[p[i]]
                loss += abs(x[i]) * abs(weight)
                x[i] = weight
        losses[group, channel] = loss
