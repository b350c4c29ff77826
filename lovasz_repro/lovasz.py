"""The Lovász extension of the Jaccard loss: value and gradient, by sorting and by counting.

Berman, Rannen Triki & Blaschko (CVPR 2018, arXiv 1705.08790). Tensors are ``(R, N)``: R rows of N
pixels, an image, a batch or a class of one each. The masks ``foreground`` and ``valid`` are 0 or 1
in uint8; s = +1 on foreground and -1 on background. A pixel is active if its error is not 0.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Method = Literal["sort", "bins"]

# Errors from 0 to 2**12 - 2**-8 in 20 octaves of 256 bins: see _gradient_by_bins.
OCTAVES = 20
BINS_PER_OCTAVE_LOG2 = 8
BIN_OFFSET_LOG2 = -8
BINS = OCTAVES << BINS_PER_OCTAVE_LOG2

# On a CPU, rows of about this many pixels are taken at once: they stay in its caches, and the
# memory that they need meanwhile is reused.
PIXELS_AT_ONCE = 2**19


def lovasz_extension(
    scores: Tensor, probability: bool, foreground: Tensor, valid: Tensor, method: Method
) -> Tensor:
    """The Lovász extension of the Jaccard loss of each row, ``(R, ...)`` to ``(R,)``.

    At the errors ``max(0, 1 - s score)``, or ``|y - score|`` where the score is a probability.
    """
    if method not in _GRADIENTS:
        raise ValueError(f"method must be one of {', '.join(_GRADIENTS)}, got {method!r}")
    losses: Tensor = _Extension.apply(scores, probability, foreground, valid, method)[0]
    return losses


class _Extension(torch.autograd.Function):
    """<weights, errors> of each row; while the order of the errors stays, so do the weights."""

    @staticmethod
    def forward(
        scores: Tensor, probability: bool, foreground: Tensor, valid: Tensor, method: Method
    ) -> tuple[Tensor, Tensor]:
        losses, gradient = [], scores.new_empty(scores.shape)
        tensors = (scores, foreground, valid, gradient)
        parts = 1 + scores.numel() // PIXELS_AT_ONCE if on_cpu(scores) else 1
        for rows in zip(*(x.chunk(parts) for x in tensors), strict=True):
            f, y, v, out = (x.flatten(1) for x in rows)
            losses.append(_loss(_errors(f, probability, y, v), y, method, out))
        return torch.cat(losses), gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        losses, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.set_materialize_grads(False)  # spares a tensor of zeros as the grad of ``gradient``
        ctx.save_for_backward(losses, gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        losses, gradient = ctx.saved_tensors
        grad = torch.where(losses.isnan(), losses, grad)  # NaN must not train on
        return (grad[:, None] * gradient.flatten(1)).view_as(gradient), None, None, None, None


def _errors(scores: Tensor, probability: bool, foreground: Tensor, valid: Tensor) -> Tensor:
    """``max(0, 1 - s score)`` or ``|y - score|``, finite, and 0 on void."""
    slope = error_slope(foreground, valid).to(scores.dtype)
    right = foreground.to(scores.dtype) if probability else slope.new_ones(1)
    errors = torch.addcmul(right, slope, scores, out=slope)
    # An error of 0 has neither loss nor gradient: void needs no other treatment. Its bits are
    # set to 0, since NaN times 0 is not. Errors are finite lest inf meet a weight of 0.
    if not _all_ones(valid):
        bits = _bits(errors)
        bits *= valid
    return errors.clamp_(0, torch.finfo(errors.dtype).max)


def _loss(errors: Tensor, foreground: Tensor, method: Method, out: Tensor) -> Tensor:
    """<weights, errors> of each row, and into ``out`` the gradient in the scores."""
    if on_cpu(errors):
        sample = errors.flatten()[::64].numpy()
        if 4 * np.count_nonzero(sample) < sample.size:
            return _loss_of_few(errors, foreground, method, out)
    _GRADIENTS[method](errors, foreground, 0, out)
    # Not a dot product: autocast would take it in half precision.
    return errors.mul_(out).abs_().sum(1)


def _loss_of_few(
    errors: Tensor, foreground: Tensor, method: Method, out: Tensor
) -> Tensor:
    """As :func:`_loss`, from the active pixels alone: with a trained network they are few."""
    active = errors.bool().numpy()
    index = torch.from_numpy(np.flatnonzero(active))
    counts, positives = (
        torch.tensor([[np.count_nonzero(row)] for row in mask])
        for mask in (active, foreground.numpy().view(np.bool_))
    )  # (R, 1) each
    filled = torch.arange(max(1, int(counts.max()))) < counts  # (R, W), each row's pixels first
    errors, foreground = (
        x.new_zeros(filled.shape).masked_scatter_(filled, x.view(-1).index_select(0, index))
        for x in (errors, foreground)
    )
    gradient = torch.empty_like(errors)
    _GRADIENTS[method](errors, foreground, positives - foreground.sum(1, keepdim=True), gradient)
    out.zero_().view(-1).index_copy_(0, index, gradient.masked_select(filled))
    return errors.mul_(gradient).abs_().sum(1)


def _gradient_by_sort(
    errors: Tensor, foreground: Tensor, others: Tensor | int, out: Tensor
) -> None:
    """The weights times -s, the gradient in the scores, at ``errors``, ``(R, N)``, into ``out``.

    ``others`` is how many foreground pixels without error are left out, ``(R, 1)``.
    In decreasing order of the errors, each pixel's weight is what it adds to the Jaccard loss.
    Among equal errors any order gives the same loss, and a subgradient.
    """
    order, active = _decreasing(errors, scratch=out)  # (R, W), (R, 1)
    is_foreground = foreground.view(-1).index_select(0, order.view(-1)).view_as(order)
    total = others + foreground.sum(1, keepdim=True, dtype=torch.int32)
    rank = torch.arange(order.shape[1], dtype=torch.int32, device=errors.device)
    steps = _jaccard_steps(is_foreground, total, rank, errors.dtype).masked_fill_(rank >= active, 0)
    # Adds, since the entries past ``active`` may all name one pixel.
    steps *= 1 - 2 * is_foreground.view(torch.int8)
    out.zero_().view(-1).index_add_(0, order.view(-1), steps.view(-1))


def _jaccard_steps(
    is_foreground: Tensor, total: Tensor, rank: Tensor, dtype: torch.dtype
) -> Tensor:
    """What each pixel adds to the Jaccard loss as the set of wrong pixels grows by one a time.

    With I and U counted before it, a foreground pixel takes the loss from 1 - I/U to 1 - (I-1)/U:
    it adds 1/U. A background pixel takes it to 1 - I/(U+1) and adds I/(U (U+1)). Without
    foreground the first pixel adds 1 and the others 0. Integer counts and these closed forms leave
    no cancellation, unlike the usual difference of a cumulative ratio in floating point.
    """
    # In place where it can be: it is here that the loss needs most memory.
    intersection = is_foreground.cumsum(1, dtype=torch.int32).sub_(is_foreground).neg_().add_(total)
    steps = intersection.to(dtype)
    del intersection
    union = steps + (rank + 1)  # U + 1
    steps.div_(union).masked_fill_(is_foreground == 1, 1).div_(union.sub_(1).clamp_(min=1))
    steps[:, :1].masked_fill_(total == 0, 1)
    return steps


def _decreasing(errors: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Flat pixel indices by decreasing error, ``(R, W)``, and how many errors are > 0, ``(R, 1)``.

    Only those errors need be in order, so W may be less than N.
    """
    rows, pixels = errors.shape
    active = errors.bool().sum(1, keepdim=True, dtype=torch.int32)
    first = torch.arange(0, rows * pixels, pixels, device=errors.device)[:, None]  # (R, 1)
    if not on_cpu(errors) or errors.dtype != torch.float32 or rows * pixels >= 2**31:
        return errors.argsort(dim=1, descending=True) + first, active
    # The bits of a float32 >= 0 sort as it does. With the pixel index in the lower half of an int64
    # key, NumPy's vectorised sort is several times faster than torch's, most so if many keys are
    # equal: all errors of 0 get the index of their row's first pixel.
    bits = _bits(scratch)
    torch.bitwise_and(_bits(errors), 0x7FFFFFFF, out=bits)  # NaN of sign 1 would rank last
    index = bits.clamp(max=1).mul_(torch.arange(pixels, dtype=torch.int32)).add_(first.int())
    keys = torch.stack([index, bits.bitwise_not_()], dim=2).view(torch.int64)  # (R, N, 1)
    del index
    keys.numpy().sort(axis=1)
    return keys.view(torch.int32)[:, : int(active.max()), 0].contiguous(), active


def _gradient_by_bins(
    errors: Tensor, foreground: Tensor, others: Tensor | int, out: Tensor
) -> None:
    """As :func:`_gradient_by_sort` without sorting: a bin's pixels of one label share one weight.

    The bin of an error m is the upper bits of the floating-point number m + c, c = 2**-8: 256 bins
    an octave over 20 octaves, K = 5120 bins. For errors below 2**12 - c, and up to rounding, the
    loss L' with these weights and the exact loss L are within

        (1 - 1/256) L - 2**-16  <=  L'  <=  L.

    Proof. Let V be the set of weights that some order of the pixels gives, and their convex
    combinations. The Jaccard loss is submodular, so L = max over V of <v, m>, reached by every v
    that has m in decreasing order. Let b be each error's lower bin edge, 0 for the first bin. In a
    bin, the weights w here average "foreground first" and "background first", each over all orders
    within a label: w is in V and has b in decreasing order. Therefore <w, m> <= L, and for v exact
    at m, L - <w, m> = <v, m - b> + (<v, b> - <w, b>) - <w, m - b> <= <v, m - b>. A bin is at most
    1/256 of its lower edge b + c wide, and v is >= 0 and sums to 1: <v, m - b> <= (L + c) / 256.
    The first bin holds all pixels without error; its weights are set to 0, which moves neither
    side, as b is 0 there. QED

    So w is an epsilon-subgradient, epsilon = L - L': L(x) >= L(m) + <w, x - m> - epsilon for all x.
    With errors that are equal wherever they share a bin, and none in (0, 2**-16), L' = L and w is a
    subgradient. Errors of 2**12 and more share the last bin: L' <= L still holds.
    """
    rows = errors.shape[0]
    key, first = _bin(errors)
    key += BINS * torch.arange(rows, dtype=key.dtype, device=key.device)[:, None] - first
    key.add_(foreground, alpha=rows * BINS)
    key = key.view(-1)  # (R * N,), indices into a table (2, R, K)
    counts = _count(key, 2 * rows * BINS).view(2, rows, BINS)
    table = _signed_weights(counts, others, errors.dtype)
    torch.index_select(table.view(-1), 0, key, out=out.view(-1))


def _bin(errors: Tensor) -> tuple[Tensor, int]:
    """The bin of each error, as integers, and the number of the first. That of NaN may be any."""
    mantissa, bias = (52, 1023) if errors.dtype == torch.float64 else (23, 127)
    first = (bias + BIN_OFFSET_LOG2) << BINS_PER_OCTAVE_LOG2
    bins = _bits(errors + 2.0**BIN_OFFSET_LOG2)
    bins >>= mantissa - BINS_PER_OCTAVE_LOG2
    return bins.clamp_(first, first + BINS - 1), first


def _count(key: Tensor, size: int) -> Tensor:
    """How often each of 0 ... size - 1 is in ``key``, in int32."""
    if on_cpu(key):  # there the faster of the two; on a GPU it would wait for the device
        return torch.bincount(key, minlength=size).int()
    counts = torch.zeros(size, dtype=torch.int32, device=key.device)
    return counts.index_add_(0, key, counts.new_ones(1).expand_as(key))


def _signed_weights(counts: Tensor, others: Tensor | int, dtype: torch.dtype) -> Tensor:
    """-s times the weight of a pixel of each label and bin from their counts, ``(2, R, K)`` both.

    With I, U before a bin and I', U' after it, the weight is (I + I') / (2 U U') on background and
    (1/U + 1/U') / 2 on foreground.
    """
    background, foreground = counts
    # Errors decrease from the last bin down, so a cumulative sum counts what is not yet taken.
    untaken, before = counts.cumsum(2, dtype=torch.int32)  # of background, and I
    before += others
    union = (before + untaken)[:, -1:] - untaken
    divisor = union.clamp(min=1)
    inverse = divisor.to(dtype).reciprocal_()
    inverse_after = (union + background).clamp_(min=1).to(dtype).reciprocal_()
    # A union of 0 is that of no foreground and no pixel yet: the pixels here share the loss 1.
    intersection = (before + (divisor - union)).to(dtype).sub_(foreground, alpha=0.5)
    weights = torch.stack([intersection * inverse * inverse_after, (inverse + inverse_after) / -2])
    weights[:, :, 0] = 0
    return weights


def _bits(x: Tensor) -> Tensor:
    """The floating-point numbers of ``x`` seen as integers, in the same memory."""
    return x.view(torch.int64 if x.dtype == torch.float64 else torch.int32)


_GRADIENTS = {"sort": _gradient_by_sort, "bins": _gradient_by_bins}


def error_slope(foreground: Tensor, valid: Tensor) -> Tensor:
    """-s: how an error moves with its score. -1 on foreground, +1 on background, 0 on void."""
    return torch.sub(valid.view(torch.int8), foreground.view(torch.int8), alpha=2)


def _all_ones(mask: Tensor) -> bool:
    """Whether a mask of 0 and 1 is known to be 1 throughout: on a GPU nobody waits to know."""
    return on_cpu(mask) and bool(mask.numpy().all())  # NumPy's takes a tenth of the time of torch's


def on_cpu(x: Tensor) -> bool:
    """Whether values may be read at no cost and NumPy be called: on a CPU, and not compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
