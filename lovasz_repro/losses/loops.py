"""The Lovász extension of the Jaccard loss on a CPU, as loops that Numba compiles.

They compute what :mod:`lovasz_repro.losses.extension` does with torch's operations, in a few
passes over one row at a time, whose pixels are spread over M images of N: ``(R, M, N)``. Arrays of
one axis are contiguous. A pixel is active if its error is not 0. Loops are compiled when they are
first called, for a second in all, and kept for later processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lovasz_repro.losses.extension import BIN_OFFSET_LOG2, BINS, Method, bin_of_bits, bits_of

Array = NDArray[Any]

# A digit of the radix sort: its counters fit a first-level cache.
DIGIT_BITS = 11
DIGITS = 1 << DIGIT_BITS


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    def compiled(cache: bool) -> Callable[..., Any]:
        # "reassoc" lets a sum be taken in several parts at once.
        fast: Callable[..., Any] = numba.njit(loop, cache=cache, nogil=True, fastmath={"reassoc"})
        return fast

    try:
        return compiled(cache=True)
    except RuntimeError:  # there is no folder to keep it in
        return compiled(cache=False)


def extension(
    scores: Tensor, probability: bool, foreground: Tensor, valid: Tensor, method: Method
) -> tuple[Tensor, Tensor]:
    """The loss of each row, ``(R, [M,] N)`` to ``(R,)``, and its gradient in the scores."""
    rows, pixels = scores.shape[0], scores.shape[-1]
    f, y, v = (
        (x if x.stride(-1) == 1 else x.contiguous()).detach().view(rows, -1, pixels).numpy()
        for x in (scores, foreground, valid)
    )
    gradient = torch.empty_like(scores, memory_format=torch.contiguous_format)
    errors = gradient.new_empty(f.shape[1:])
    losses = gradient.new_empty(rows)
    for row, out in enumerate(gradient.view(rows, -1, pixels)):
        for image, e in enumerate(errors.numpy()):
            _errors(f[row, image], y[row, image], v[row, image], probability, e)
        _GRADIENTS[method](errors, y[row], out)
        losses[row] = _weighted_sum(errors.numpy().reshape(-1), out.numpy().reshape(-1))
    return losses, gradient


# Below, ``errors`` and ``gradient`` are (M, N), one row. Memory is torch's, whose profiler then
# knows of it.


def _gradient_by_sort(errors: Tensor, foreground: Array, gradient: Tensor) -> None:
    bits = bits_of(errors)
    keys = bits.new_empty(2, bits.numel()).numpy()
    order = torch.empty(keys.shape, dtype=torch.int32).numpy()
    active = 0
    for image, b in enumerate(bits.numpy()):
        active = _active(b, foreground[image], image * b.size, active, keys[0], order[0])
    last = _sort(keys, order, active)
    positives = np.count_nonzero(foreground)
    _steps(keys[last], order[last], active, positives, gradient.view(-1).numpy())


def _gradient_by_bins(errors: Tensor, foreground: Array, gradient: Tensor) -> None:
    torch.add(errors, 2.0**BIN_OFFSET_LOG2, out=gradient)
    bins = bits_of(gradient).numpy()  # in the memory that then takes the gradient
    counts = np.zeros((2, BINS), np.int32)
    for b, y in zip(bins, foreground, strict=True):
        _count(b, y, *bin_of_bits(errors.dtype), counts.reshape(-1))
    weights = gradient.new_empty(2, BINS).numpy()
    _weights(counts, weights)
    _look_up(bins.reshape(-1), weights.reshape(-1), gradient.view(-1).numpy())


_GRADIENTS = {"sort": _gradient_by_sort, "bins": _gradient_by_bins}


@_compiled
def _errors(scores: Array, foreground: Array, valid: Array, probability: bool, out: Array) -> None:
    """``max(0, 1 - s score)`` or ``|y - score|``, finite, and 0 on void."""
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    largest = np.finfo(scores.dtype).max
    right = zero if probability else one  # on background
    for i in range(len(scores)):
        error = one - scores[i] if foreground[i] else right + scores[i]
        # Comparisons that leave NaN as it is.
        error = zero if error < zero or not valid[i] else error
        out[i] = largest if error > largest else error


@_compiled
def _active(
    bits: Array, foreground: Array, start: int, active: int, keys: Array, order: Array
) -> int:
    """Appends keys that sort as the errors > 0, and their pixels' numbers. How many there are then.

    The bits of a floating-point number >= 0 sort as it does, and NaN last. The label is in the
    bit that the sign leaves free.
    """
    for i in range(len(bits)):
        keys[active] = (bits[i] << 1) | foreground[i]
        order[active] = start + i
        active += bits[i] != 0
    return active


@_compiled
def _sort(keys: Array, order: Array, active: int) -> int:
    """Radix sort of the first ``active`` columns by decreasing key. Which row of two it is in."""
    counts = np.empty(DIGITS, np.int64)
    now = 0
    for shift in range(0, 8 * keys.itemsize, DIGIT_BITS):
        counts[:] = 0
        for i in range(active):
            counts[(keys[now, i] >> shift) & (DIGITS - 1)] += 1
        start = active
        for digit in range(DIGITS):
            start -= counts[digit]
            counts[digit] = start
        for i in range(active):
            digit = (keys[now, i] >> shift) & (DIGITS - 1)
            place = counts[digit]
            counts[digit] += 1
            keys[1 - now, place] = keys[now, i]
            order[1 - now, place] = order[now, i]
        now = 1 - now
    return now


@_compiled
def _steps(keys: Array, order: Array, active: int, total: int, gradient: Array) -> None:
    """What each pixel adds to the Jaccard loss, times -s, as ``_jaccard_steps`` has it."""
    one = gradient.dtype.type(1)
    gradient[:] = 0
    intersection = union = total
    for i in range(active):
        if keys[i] & 1:
            gradient[order[i]] = -one / union
            intersection -= 1
        else:
            gradient[order[i]] = one * intersection / union / (union + 1) if union else one
            union += 1


@_compiled
def _count(bins: Array, foreground: Array, shift: int, first: int, counts: Array) -> None:
    """Turns bits into places in a table ``(2, K)`` of each label's bins, and counts them there."""
    for i in range(len(bins)):  # alone, this loop is vectorised
        place = min(max((bins[i] >> shift) - first, 0), BINS - 1)
        bins[i] = place + BINS * foreground[i]
    for i in range(len(bins)):
        counts[bins[i]] += 1


@_compiled
def _weights(counts: Array, weights: Array) -> None:
    """-s times the weight of a pixel of each label and bin, as ``_signed_weights`` has it."""
    intersection = union = counts[1].sum()
    for place in range(BINS - 1, 0, -1):
        background, foreground = counts[0, place], counts[1, place]
        after, left = union + background, intersection - foreground
        both = 2.0 * union * after
        weights[0, place] = (intersection + left) / both if union else 1 / max(after, 1)
        weights[1, place] = -(union + after) / both if union else 0
        intersection, union = left, after
    weights[:, 0] = 0


@_compiled
def _look_up(bins: Array, weights: Array, gradient: Array) -> None:
    for i in range(len(bins)):
        gradient[i] = weights[bins[i]]


@_compiled
def _weighted_sum(errors: Array, gradient: Array) -> float:
    total = 0.0
    for i in range(len(errors)):
        total += errors[i] * abs(gradient[i])
    return total
