"""The Lovász extension of the Jaccard loss: value and gradient, by sorting and by counting.

Berman, Rannen Triki & Blaschko (CVPR 2018, arXiv 1705.08790). Tensors are ``(R, N)``: R rows of N
pixels; a row is an image, a batch, or one class of either. The masks ``foreground`` and ``valid``
are 0 or 1 in uint8; s = +1 on foreground and -1 on background.

The operations here run on a GPU and in compiled code; a CPU is faster with the loops of
:mod:`lovasz_repro.losses.loops`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lovasz_repro.losses.labels import error_slope

Method = Literal["sort", "bins"]

# Errors from 0 to 2**12 - 2**-8 in 20 octaves of 256 bins: see _gradient_by_bins.
OCTAVES = 20
BINS_PER_OCTAVE_LOG2 = 8
BIN_OFFSET_LOG2 = -8
BINS = OCTAVES << BINS_PER_OCTAVE_LOG2


def kept_signature(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Store a forward's signature. Torch asks for it at every call, and finding it anew takes as
    long as 20 tensor operations."""
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


class Extension(torch.autograd.Function):
    """Each row's loss: the inner product of its errors and of weights that depend on their order.

    ``forward`` returns the losses, their gradient in the scores (losses and gradient broadcast),
    and further outputs without gradient.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        losses, gradient, *others = output
        ctx.mark_non_differentiable(gradient, *others)
        ctx.set_materialize_grads(False)  # no zeros as the grad of ``gradient``
        ctx.save_for_backward(losses, gradient)
        ctx.save_for_forward(losses, gradient)
        ctx.without_slope = [None] * (len(inputs) - 1), [None] * (len(output) - 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is not None:
            losses, gradient = ctx.saved_tensors
            grad = torch.where(losses.isnan(), losses, grad) * gradient  # a NaN loss gives NaN
        return grad, *ctx.without_slope[0]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if tangent is not None:
            losses, gradient = ctx.saved_tensors
            tangent = (gradient * tangent).sum_to_size(losses.shape)
            tangent = torch.where(losses.isnan(), losses, tangent)
        return tangent, *ctx.without_slope[1]

    @classmethod
    def vmap(
        cls, info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, ...], int]:
        """Merge the mapped axis into the first one, that of the rows."""
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        mapped = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, in_dims, strict=False)
        ]
        outputs = cls.apply(*(x.flatten(0, 1) for x in mapped), *inputs[len(tensors) :])
        return tuple(x.unflatten(0, mapped[0].shape[:2]) for x in outputs), 0


class Operations(Extension):
    """The loss of each row, ``(R, N)`` to ``(R, 1)``, and its gradient in the scores."""

    @staticmethod
    @kept_signature
    def forward(
        scores: Tensor, foreground: Tensor, valid: Tensor, probability: bool, method: Method
    ) -> tuple[Tensor, Tensor]:
        errors = _errors(scores, probability, foreground, valid)
        gradient = GRADIENTS[method](errors, foreground)
        # Not a dot product: autocast would take it in half precision.
        losses = errors.mul_(gradient).abs_().sum(1, keepdim=True)
        return losses, gradient


class CompiledOperations(Operations):
    """The same for torch.compile, which accepts no function that has a forward-mode derivative."""

    jvp = torch.autograd.Function.jvp  # type: ignore[assignment]


def _errors(scores: Tensor, probability: bool, foreground: Tensor, valid: Tensor) -> Tensor:
    """``max(0, 1 - s score)`` or ``|y - score|``, finite, and 0 on void."""
    slope = error_slope(foreground, valid).to(scores.dtype)
    right = foreground.to(scores.dtype) if probability else slope.new_ones(1)
    errors = torch.addcmul(right, slope, scores, out=slope)
    # Void pixels get an error of 0, which has neither loss nor gradient. Their bits are set to 0,
    # because NaN · 0 is NaN. Clamped to finite, because inf · 0 is NaN.
    bits = bits_of(errors)
    bits *= valid
    return errors.clamp_(0, torch.finfo(errors.dtype).max)


def _gradient_by_sort(errors: Tensor, foreground: Tensor) -> Tensor:
    """The weights times -s: the gradient in the scores at ``errors``, ``(R, N)``.

    In decreasing order of the errors, each pixel's weight is what it adds to the Jaccard loss.
    Among equal errors any order gives the same loss, and a subgradient.
    """
    decreasing, order = errors.sort(dim=1, descending=True)
    rows, pixels = order.shape
    order += torch.arange(0, rows * pixels, pixels, device=order.device)[:, None]  # flat indices
    is_foreground = foreground.view(-1).index_select(0, order.view(-1)).view_as(order)
    steps = _jaccard_steps(is_foreground, errors.dtype).masked_fill_(decreasing == 0, 0)
    steps *= 1 - 2 * is_foreground.view(torch.int8)
    return decreasing.view(-1).index_copy_(0, order.view(-1), steps.view(-1)).view_as(errors)


def _jaccard_steps(is_foreground: Tensor, dtype: torch.dtype) -> Tensor:
    """What each pixel adds to the Jaccard loss as the wrong pixels are added one by one.

    With I and U counted before it, a foreground pixel takes the loss from 1 - I/U to 1 - (I-1)/U:
    it adds 1/U. A background pixel takes it to 1 - I/(U+1) and adds I/(U (U+1)). Without
    foreground the first pixel adds 1 and the others 0. Integer counts and these closed forms avoid
    the cancellation that a difference of cumulative ratios has in floating point.
    """
    # In place where possible: the loss needs most memory here.
    total = is_foreground.sum(1, keepdim=True, dtype=torch.int32)
    rank = torch.arange(is_foreground.shape[1], dtype=torch.int32, device=total.device)
    intersection = is_foreground.cumsum(1, dtype=torch.int32).sub_(is_foreground).neg_().add_(total)
    steps = intersection.to(dtype)
    del intersection
    union = steps + (rank + 1)  # U + 1
    steps.div_(union).masked_fill_(is_foreground == 1, 1).div_(union.sub_(1).clamp_(min=1))
    steps[:, :1].masked_fill_(total == 0, 1)
    return steps


def _gradient_by_bins(errors: Tensor, foreground: Tensor) -> Tensor:
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
    shift, first = bin_of_bits(errors.itemsize)
    key = bits_of(errors + 2.0**BIN_OFFSET_LOG2)
    key >>= shift
    key.clamp_(first, first + BINS - 1)  # NaN may get any bin
    key += BINS * torch.arange(rows, dtype=key.dtype, device=key.device)[:, None] - first
    # Not in place: compiled by torch 2.11, `add_` forgets alpha.
    key = key.add(foreground, alpha=rows * BINS).view(-1)  # (R * N,), into a table (2, R, K)
    counts = torch.zeros(2 * rows * BINS, dtype=torch.int32, device=key.device)
    counts.index_add_(0, key, counts.new_ones(1).expand_as(key))
    weights = _signed_weights(counts.view(2, rows, BINS), errors.dtype)
    return weights.view(-1).index_select(0, key).view_as(errors)


def bin_of_bits(itemsize: int) -> tuple[int, int]:
    """Returns (shift, first): the bin of m + c is its bits shifted right by ``shift``, - ``first``.

    itemsize: 8 bytes for float64, 4 for float32.
    """
    mantissa, bias = (52, 1023) if itemsize == 8 else (23, 127)
    return mantissa - BINS_PER_OCTAVE_LOG2, (bias + BIN_OFFSET_LOG2) << BINS_PER_OCTAVE_LOG2


def _signed_weights(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """-s times the weight of a pixel, by label and bin, from their counts; ``(2, R, K)`` both.

    With I, U before a bin and I', U' after it, the weight is (I + I') / (2 U U') on background and
    (1/U + 1/U') / 2 on foreground.
    """
    background, foreground = counts
    # Bins are taken from the last one down: a cumulative sum counts the pixels not yet taken.
    untaken, before = counts.cumsum(2, dtype=torch.int32)  # background not yet taken, and I
    union = (before + untaken)[:, -1:] - untaken
    divisor = union.clamp(min=1)
    inverse = divisor.to(dtype).reciprocal_()
    inverse_after = (union + background).clamp_(min=1).to(dtype).reciprocal_()
    # The union is 0 only without foreground, before the first pixel: these pixels share the loss 1.
    intersection = (before + (divisor - union)).to(dtype).sub_(foreground, alpha=0.5)
    weights = torch.stack([intersection * inverse * inverse_after, (inverse + inverse_after) / -2])
    weights[:, :, 0] = 0
    return weights


def bits_of(x: Tensor) -> Tensor:
    """The bits of floating-point numbers as integers, in the same memory."""
    return x.view(torch.int64 if x.dtype == torch.float64 else torch.int32)


GRADIENTS = {"sort": _gradient_by_sort, "bins": _gradient_by_bins}
