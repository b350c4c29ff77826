"""Pixel and Jaccard losses for segmentation, as pure functions of (logits, target).

The binary losses take logits and target of one shape ``(B, ...)``: a batch of images with any
number of pixel axes. A label is 0, 1 or ``ignore_index`` (void), and may be of any real dtype.
``reduction="mean"`` gives the scalar to train on, ``reduction="none"`` a ``(B,)`` vector, one
value an image. What all of them keep to:

- Half precision is computed and returned in float32; float64 stays float64.
- Void pixels are never read: whatever their logit, NaN too, they add neither loss nor gradient. An
  image of void pixels only has loss 0, and in a mean over images it counts as an image.
- NaN at a valid pixel gives NaN. An infinite logit on the right side is a margin met, loss 0; on
  the wrong side cross-entropy and hinge are inf, and a Lovász error counts as the largest finite
  number.
- Logits that are not floating point raise TypeError; shapes, devices or labels that do not fit
  raise ValueError. The labels are checked at every call: at once on a CPU, on a GPU and in
  compiled code by an assertion on the device, which costs no synchronisation.

Notation: f a logit, s = +1 on foreground and -1 on background, margin s f, margin error 1 - s f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lovasz_repro.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["mean", "none"]
Method = Literal["sort", "bins"]

# Errors from 0 to 2**12 - 2**-8 in 20 octaves of 256 bins: see _weights_by_bins.
OCTAVES = 20
BINS_PER_OCTAVE_LOG2 = 8
BIN_OFFSET_LOG2 = -8
BINS = OCTAVES << BINS_PER_OCTAVE_LOG2


def cross_entropy(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross-entropy ``log(1 + exp(-s f))``, in nats.

    The mean runs over all valid pixels of the batch; ``reduction="none"`` takes each image's own.
    """
    margin, _, valid = _margin(logits, target, ignore_index)
    return _pixel_mean(-F.logsigmoid(margin), valid, reduction)


def hinge(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, reduction: Reduction = "mean"
) -> Tensor:
    """Hinge loss ``max(0, 1 - s f)``, averaged as in :func:`cross_entropy`."""
    margin, _, valid = _margin(logits, target, ignore_index)
    return _pixel_mean(F.relu(1 - margin), valid, reduction)


def soft_jaccard(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    per_image: bool = True,
) -> Tensor:
    """Soft Jaccard loss ``1 - sum(p y) / sum(p + y - p y)`` with p = sigmoid(f), y the label.

    Rahman & Wang, *Optimizing intersection-over-union in deep neural networks for image
    segmentation* (ISVC 2016), who sum over the batch: ``per_image=False``. An image without
    foreground has loss 1 and gradient 0, whatever its logits, unless every p is 0 in floating
    point: an empty union has loss 0.
    """
    margin, foreground, valid = _margin(logits, target, ignore_index)
    margin, foreground, valid = _rows(per_image, reduction, margin, foreground, valid)
    # The probability of the wrong label is sigmoid(-s f). As a ratio of masses of it the loss does
    # not cancel where p is near y, and is 1 to the bit without foreground.
    wrong = torch.sigmoid(-margin)
    missed = (foreground * wrong).sum(1)
    false_alarm = ((valid - foreground) * wrong).sum(1)
    union = foreground.sum(1) + false_alarm
    losses = (missed + false_alarm) / union.clamp(min=torch.finfo(union.dtype).tiny)
    return _image_mean(losses, reduction)


def lovasz_hinge(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    per_image: bool = True,
    method: Method = "sort",
) -> Tensor:
    """Lovász hinge: the Lovász extension of the Jaccard loss at the errors ``max(0, 1 - s f)``.

    Yu & Blaschko (ICML 2015, arXiv 1512.07797); Berman, Rannen Triki & Blaschko (CVPR 2018, arXiv
    1705.08790). ``per_image=False`` takes the batch as one image. ``method="sort"`` is exact;
    ``"bins"`` is a bounded approximation at about the price of a pointwise loss, see
    :func:`_weights_by_bins`. A pixel with a margin of 1 or more has no gradient.
    """
    logits, foreground, valid = _binary(logits, target, ignore_index)
    logits, foreground, valid = _rows(per_image, reduction, logits, foreground, valid)
    return _image_mean(_lovasz_extension(logits, False, foreground, valid, method), reduction)


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    classes: Literal["present", "all"] = "present",
    ignore_index: int = 255,
    per_image: bool = False,
    method: Method = "sort",
) -> Tensor:
    """Lovász-Softmax: the mean over classes of the Lovász extension at the errors ``|y_c - p_c|``.

    Berman, Rannen Triki & Blaschko (CVPR 2018), eq. 9-11. ``logits`` is ``(B, C, ...)``, C >= 2,
    ``target`` is ``(B, ...)`` with labels 0 ... C-1 or ``ignore_index``; p is the softmax over
    C. With ``classes="present"`` the mean takes the classes that have a pixel in the batch
    (``per_image``: in the image), with ``"all"`` every class. ``per_image`` averages the images'
    losses.
    """
    if classes not in ("present", "all"):
        raise ValueError(f"classes must be 'present' or 'all', got {classes!r}")
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (B, C, ...) with C >= 2, got {tuple(logits.shape)}")
    logits, target = _flat(logits, target, logits[:, 0].shape)
    count = logits.shape[1]
    labels = torch.arange(count, device=target.device)[:, None]
    foreground = (target[:, None] == labels).to(torch.uint8)  # (B, C, N)
    ignored = _equal(target, ignore_index)[:, None]  # (B, 1, N)
    known = foreground.amax(1, keepdim=True)
    _check_labels(target, known | ignored, f"0 ... {count - 1} or {ignore_index}")
    foreground *= 1 - ignored
    valid = (known * (1 - ignored)).expand_as(foreground)
    scores = logits.softmax(1)  # (B, C, N)
    if not per_image:
        scores, foreground, valid = (
            t.transpose(0, 1).reshape(1, count, -1) for t in (scores, foreground, valid)
        )  # (1, C, B * N)
    scores, foreground, valid = (t.flatten(0, 1) for t in (scores, foreground, valid))
    losses = _lovasz_extension(scores, True, foreground, valid, method).view(-1, count)
    if classes == "all":
        return losses.mean()
    present = foreground.amax(1).view(-1, count)
    return ((losses * present).sum(1) / present.sum(1).clamp(min=1)).mean()


def _lovasz_extension(
    scores: Tensor, probability: bool, foreground: Tensor, valid: Tensor, method: Method
) -> Tensor:
    """The Lovász extension of the Jaccard loss of each row, ``(R, N)`` to ``(R,)``.

    At the errors ``max(0, 1 - s score)``, or ``|y - score|`` where the score is a probability.
    """
    if method not in _WEIGHTS:
        raise ValueError(f"method must be one of {', '.join(_WEIGHTS)}, got {method!r}")
    losses: Tensor = _Extension.apply(scores, probability, foreground, valid, method)[0]
    return losses


class _Extension(torch.autograd.Function):
    """<weights, errors> of each row; while the order of the errors stays, so do the weights."""

    @staticmethod
    def forward(
        scores: Tensor, probability: bool, foreground: Tensor, valid: Tensor, method: Method
    ) -> tuple[Tensor, Tensor]:
        slope = _slope(foreground, valid)
        errors = slope.to(scores.dtype).mul_(scores)
        errors.add_(foreground if probability else 1)
        # An error of 0 has neither loss nor gradient: void needs no other treatment. Its bits are
        # set to 0, since NaN times 0 is not. Errors are finite lest inf meet a weight of 0.
        bits = _bits(errors)
        bits *= valid
        errors.clamp_(0, torch.finfo(errors.dtype).max)
        weights = _WEIGHTS[method](errors, foreground)
        # Not a dot product: autocast would take it in half precision.
        losses = errors.mul_(weights).sum(1)
        return losses, weights.mul_(errors.copy_(slope))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        losses, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(losses, gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        losses, gradient = ctx.saved_tensors
        grad = torch.where(losses.isnan(), losses, grad)  # NaN must not train on
        return grad[:, None] * gradient, None, None, None, None


def _weights_by_sort(errors: Tensor, foreground: Tensor) -> Tensor:
    """The gradient of the Lovász extension of the Jaccard loss at ``errors``, ``(R, N)`` each.

    In decreasing order of the errors, each pixel's weight is what it adds to the Jaccard loss.
    Among equal errors any order gives the same loss, and a subgradient.
    """
    order, active = _decreasing(errors)  # (R, W), (R, 1)
    is_foreground = foreground.view(-1).index_select(0, order.view(-1)).view_as(order)
    total = foreground.sum(1, keepdim=True, dtype=torch.int32)
    rank = torch.arange(order.shape[1], device=errors.device)
    steps = _jaccard_steps(is_foreground, total, rank, errors.dtype).masked_fill_(rank >= active, 0)
    # Adds, since the entries past ``active`` may all name one pixel.
    weights = torch.zeros_like(errors).view(-1)
    return weights.index_add_(0, order.view(-1), steps.view(-1)).view_as(errors)


def _jaccard_steps(
    is_foreground: Tensor, total: Tensor, rank: Tensor, dtype: torch.dtype
) -> Tensor:
    """What each pixel adds to the Jaccard loss as the set of wrong pixels grows by one a time.

    With I and U counted before it, a foreground pixel takes the loss from 1 - I/U to 1 - (I-1)/U:
    it adds 1/U. A background pixel takes it to 1 - I/(U+1) and adds I/(U (U+1)). Without
    foreground the first pixel adds 1 and the others 0. Integer counts and these closed forms leave
    no cancellation, unlike the usual difference of a cumulative ratio in floating point.
    """
    seen = is_foreground.cumsum(1, dtype=torch.int32).sub_(is_foreground)
    steps = (total - seen).to(dtype)  # I; from here in place, a batch is held at once
    union = steps + (rank + 1)  # U + 1
    steps.div_(union).masked_fill_(is_foreground == 1, 1).div_(union.sub_(1).clamp_(min=1))
    steps[:, :1].masked_fill_(total == 0, 1)
    return steps


def _decreasing(errors: Tensor) -> tuple[Tensor, Tensor]:
    """Flat pixel indices by decreasing error, ``(R, W)``, and how many errors are > 0, ``(R, 1)``.

    Only those errors need be in order, so W may be less than N.
    """
    rows, pixels = errors.shape
    active = errors.count_nonzero(1)[:, None]
    first = torch.arange(0, rows * pixels, pixels, device=errors.device)[:, None]  # (R, 1)
    on_cpu = errors.device.type == "cpu" and not torch.compiler.is_compiling()
    if not on_cpu or errors.dtype != torch.float32 or rows * pixels >= 2**31:
        return errors.argsort(dim=1, descending=True) + first, active
    # The bits of a float32 >= 0 sort as it does. With the pixel index in the lower half of an int64
    # key, NumPy's vectorised sort is several times faster than torch's, most so if many keys are
    # equal: all errors of 0 get the index of their row's first pixel.
    bits = _bits(errors) & 0x7FFFFFFF  # clears the sign of NaN, which would rank it last
    index = bits.clamp(max=1).mul_(torch.arange(pixels, dtype=torch.int32)).add_(first.int())
    keys = torch.stack([index, bits.bitwise_not_()], dim=2).view(torch.int64)  # (R, N, 1)
    del bits, index  # two of the largest tensors of the whole loss
    keys.numpy().sort(axis=1)
    return keys.view(torch.int32)[:, : int(active.max()), 0].contiguous(), active


def _weights_by_bins(errors: Tensor, foreground: Tensor) -> Tensor:
    """As :func:`_weights_by_sort` without sorting: a bin's pixels of one label share one weight.

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
    # One block for both: the C library keeps it for the next call, where it would give smaller ones
    # back to the system, and on a CPU new pages cost more than a pass over the pixels.
    weights, scratch = errors.new_empty(2, *errors.shape)
    key, first = _bin(errors, scratch)
    key += BINS * torch.arange(rows, dtype=key.dtype, device=key.device)[:, None] - first
    key.add_(_bits(weights).copy_(foreground), alpha=rows * BINS)
    key = key.view(-1)  # (R * N,), indices into a table (2, R, K)
    table = _bin_weights(_count(key, 2 * rows * BINS).view(2, rows, BINS), errors.dtype)
    torch.index_select(table.view(-1), 0, key, out=weights.view(-1))
    return weights


def _bin(errors: Tensor, out: Tensor) -> tuple[Tensor, int]:
    """The bin of each error, as integers in the memory of ``out``, and the number of the first.

    The bin of NaN may be any.
    """
    mantissa, bias = (52, 1023) if errors.dtype == torch.float64 else (23, 127)
    shift = mantissa - BINS_PER_OCTAVE_LOG2
    first = (bias + BIN_OFFSET_LOG2) << BINS_PER_OCTAVE_LOG2
    bins = _bits(torch.add(errors, 2.0**BIN_OFFSET_LOG2, out=out))
    bins >>= shift
    return bins.clamp_(first, first + BINS - 1), first


def _count(key: Tensor, size: int) -> Tensor:
    """How often each of 0 ... size - 1 is in ``key``, in int32."""
    if _on_cpu(key):  # the faster of the two; elsewhere it would wait for the device
        return torch.bincount(key, minlength=size).int()
    counts = torch.zeros(size, dtype=torch.int32, device=key.device)
    return counts.index_add_(0, key, counts.new_ones(1).expand_as(key))


def _bin_weights(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of a pixel of each label and bin from their counts, ``(2, R, K)`` both.

    With I, U before a bin and I', U' after it: (I + I') / (2 U U') on background and
    (1/U + 1/U') / 2 on foreground.
    """
    background, foreground = counts
    # Errors decrease from the last bin down, so a cumulative sum counts what is not yet taken.
    untaken, before = counts.cumsum(2, dtype=torch.int32)  # of background, and I
    union = (before + untaken)[:, -1:] - untaken
    divisor = union.clamp(min=1)
    inverse = divisor.to(dtype).reciprocal_()
    inverse_after = (union + background).clamp_(min=1).to(dtype).reciprocal_()
    # A union of 0 is that of no foreground and no pixel yet: the pixels here share the loss 1.
    intersection = (before + (divisor - union)).to(dtype).sub_(foreground, alpha=0.5)
    weights = torch.stack([intersection * inverse * inverse_after, (inverse + inverse_after) / 2])
    weights[:, :, 0] = 0
    return weights


def _bits(x: Tensor) -> Tensor:
    """The floating-point numbers of ``x`` seen as integers, in the same memory."""
    return x.view(torch.int64 if x.dtype == torch.float64 else torch.int32)


_WEIGHTS = {"sort": _weights_by_sort, "bins": _weights_by_bins}


def _flat(logits: Tensor, target: Tensor, expected: torch.Size) -> tuple[Tensor, Tensor]:
    """Checks dtype, shape and device; the pixel axes become one, half precision becomes float32."""
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if target.is_complex():
        raise TypeError(f"target must hold labels, got {target.dtype}")
    if target.shape != expected or target.ndim == 0 or target.numel() == 0:
        raise ValueError(
            "target must fit the logits and hold at least one pixel: got logits "
            f"{tuple(logits.shape)} and target {tuple(target.shape)}"
        )
    if target.device != logits.device:
        raise ValueError(f"logits are on {logits.device}, target is on {target.device}")
    pixel_axis = logits.ndim - target.ndim + 1
    if target.ndim == 1:
        logits, target = logits[..., None], target[..., None]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.flatten(pixel_axis).to(dtype), target.flatten(1).contiguous()


def _binary(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, and the masks of foreground and valid pixels. ``(B, N)`` each.

    A mask is 0 or 1 in uint8: on a CPU its arithmetic is vectorised, that of bool is not.
    """
    if ignore_index in (0, 1):
        raise ValueError(f"ignore_index must not be a label, got {ignore_index}")
    logits, target = _flat(logits, target, logits.shape)
    target = _bytes(target, ignore_index)
    foreground = _equal(target, 1)
    valid = foreground | _equal(target, 0)
    _check_labels(target, valid | _equal(target, ignore_index), f"0, 1 or {ignore_index}")
    return logits, foreground, valid


def _bytes(target: Tensor, ignore_index: int) -> Tensor:
    """The labels as they are, or in uint8: on a CPU bytes compare several times faster."""
    if target.is_floating_point() or not (_on_cpu(target) and 0 <= ignore_index <= 255):
        return target
    lowest, highest = target.aminmax()
    return target.to(torch.uint8) if lowest >= 0 and highest <= 255 else target


def _on_cpu(x: Tensor) -> bool:
    """Whether values may be read at no cost and NumPy be called: on a CPU, and not compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _equal(target: Tensor, label: int) -> Tensor:
    return torch.eq(target, label, out=torch.empty_like(target, dtype=torch.uint8))


def _check_labels(target: Tensor, known: Tensor, allowed: str) -> None:
    if _on_cpu(target):
        if known.amin() == 0:
            raise ValueError(f"labels must be {allowed}, got {set(target.flatten().tolist())}")
    else:
        # Not amin: compiled for a CPU by torch 2.15, that of uint8 fails on labels that are right.
        torch._assert_async((known == 1).all(), f"labels must be {allowed}")


def _slope(foreground: Tensor, valid: Tensor) -> Tensor:
    """-s: how an error moves with its score. -1 on foreground, +1 on background, 0 on void."""
    return torch.sub(valid.view(torch.int8), foreground.view(torch.int8), alpha=2)


def _margin(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """The margin s f, 0 on void, and the masks of foreground and valid pixels. ``(B, N)`` each."""
    logits, foreground, valid = _binary(logits, target, ignore_index)
    margin = -_slope(foreground, valid) * logits
    return torch.where(valid == 1, margin, 0), foreground, valid


def _rows(per_image: bool, reduction: Reduction, *tensors: Tensor) -> tuple[Tensor, ...]:
    """``(B, N)`` as it is, or the batch as one row ``(1, B * N)``."""
    if per_image:
        return tensors
    if reduction == "none":
        raise ValueError("reduction='none' is one value an image: it needs per_image=True")
    return tuple(t.reshape(1, -1) for t in tensors)


def _pixel_mean(values: Tensor, valid: Tensor, reduction: Reduction) -> Tensor:
    totals, counts = (values * valid).sum(1), valid.sum(1)
    if reduction == "none":
        return totals / counts.clamp(min=1)
    return totals.sum() / counts.sum().clamp(min=1)


def _image_mean(losses: Tensor, reduction: Reduction) -> Tensor:
    return losses if reduction == "none" else losses.mean()


def _weighted(logits: Tensor, target: Tensor, parts: Mapping[str, float]) -> Tensor:
    return torch.stack([w * LOSSES[name](logits, target) for name, w in parts.items()]).sum()


# What a YAML entry, a record and a report may call a loss.
LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "hinge": hinge,
    "soft_jaccard": partial(soft_jaccard, per_image=False),
    "soft_jaccard_per_image": soft_jaccard,
    "lovasz_hinge": lovasz_hinge,
    "lovasz_hinge_per_batch": partial(lovasz_hinge, per_image=False),
    "mixed": partial(_weighted, parts={"cross_entropy": 0.5, "lovasz_hinge": 0.5}),
}


def make_loss(spec: str | Mapping[str, float]) -> Loss:
    """A loss of (logits, target) from a YAML entry: a name, or weights of names."""
    names = [spec] if isinstance(spec, str) else list(spec)
    unknown = [name for name in names if name not in LOSSES]
    if unknown or not names:
        named = f"unknown loss {unknown[0]!r}" if unknown else "no loss is named"
        raise UserError(f"{named}: there are {', '.join(LOSSES)}")
    return LOSSES[spec] if isinstance(spec, str) else partial(_weighted, parts=dict(spec))
