"""Pixel and Jaccard losses for segmentation, as pure functions of (logits, target).

The binary losses take logits and target of one shape ``(B, ...)``: a batch of images with any
number of pixel axes. A single image is ``image[None]``. A label is 0, 1 or ``ignore_index`` (void),
and may be of any real dtype.
``reduction="mean"`` gives the scalar to train on, ``reduction="none"`` a ``(B,)`` vector, one
value an image. All of them follow these rules:

- Half precision is computed and returned in float32; float64 stays float64.
- Void is ``ignore_index``; where there is none, leave it at 255 or give any value but 0 and 1.
- Void pixels are never read: they add neither loss nor gradient, even where their logit is NaN. An
  image that has only void pixels has loss 0, and counts as an image in a mean over images.
- NaN at a valid pixel gives NaN. An infinite logit on the right side has loss 0. On the wrong side
  cross-entropy and hinge are inf, and a Lovász error counts as the largest finite number.
- Logits that are not floating point raise TypeError; shapes, devices or labels that do not fit
  raise ValueError. The labels are checked at every call: at once on a CPU, on a GPU and in
  compiled code by an assertion on the device, which costs no synchronisation.
- The binary losses support `torch.func.vmap`; on a CPU `lovasz_softmax` does, too. Forward-mode
  derivatives (`torch.func.jvp`) are those of the backward pass along the tangent.

Notation: f a logit, s = +1 on foreground and -1 on background, margin s f, margin error 1 - s f.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lovasz_repro.losses.dispatch import lovasz_extension
from lovasz_repro.losses.extension import Method
from lovasz_repro.losses.labels import binary_masks, equal, error_slope, is_wrapped, on_cpu

Loss = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["mean", "none"]


def cross_entropy(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross-entropy ``log(1 + exp(-s f))``, in nats.

    The mean runs over all valid pixels of the batch; ``reduction="none"`` averages per image.
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
    foreground has loss 1 and gradient 0 for any logits, unless every p is 0 in floating point:
    then the union is empty and the loss 0.
    """
    margin, foreground, valid = _margin(logits, target, ignore_index)
    check_reduction(per_image, reduction)
    if not per_image:
        margin, foreground, valid = (x.reshape(1, -1) for x in (margin, foreground, valid))
    # sigmoid(-s f) is the probability of the wrong label. As a ratio of sums of it, the loss has no
    # cancellation where p is near y, and is exactly 1 without foreground.
    wrong = torch.sigmoid(-margin)
    missed = (foreground * wrong).sum(1)
    false_alarm = ((valid - foreground) * wrong).sum(1)
    union = foreground.sum(1) + false_alarm
    losses = (missed + false_alarm) / union.clamp(min=torch.finfo(union.dtype).tiny)
    return losses if reduction == "none" else losses.mean()


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
    ``_gradient_by_bins`` in :mod:`lovasz_repro.losses.extension`. A pixel with a margin of 1 or
    more has no gradient.
    """
    logits, target = _binary(logits, target, ignore_index)
    check_reduction(per_image, reduction)
    groups, images = (len(logits), 1) if per_image else (1, len(logits))
    scores, labels = logits.reshape(groups, images, 1, -1), target.view(groups, images, -1)
    losses, _ = lovasz_extension(scores, labels, ignore_index, method)  # (G, 1)
    return losses.mean() if reduction == "mean" else losses[:, 0]


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
    logits, target = class_pixels(logits, target, ignore_index)
    scores = logits.softmax(1)  # (B, C, N)
    groups = (scores[:, None], target[:, None]) if per_image else (scores[None], target[None])
    losses, present = lovasz_extension(*groups, ignore_index, method)  # (G, C)
    if classes == "all":
        return losses.mean()
    return ((losses * present).sum(1) / present.sum(1).clamp(min=1)).mean()


def class_pixels(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Logits (B, C, N), 0 on void, and labels (B, N). Raises: ValueError, TypeError."""
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (B, C, ...) with C >= 2, got {tuple(logits.shape)}")
    logits, target = _checked(logits, target, logits[:, 0].shape)
    logits, target = logits.reshape(*logits.shape[:2], -1), target.view(len(target), -1)
    return _without_void(logits, 1 - equal(target, ignore_index)[:, None]), target


def _without_void(logits: Tensor, valid: Tensor) -> Tensor:
    """Set the logits of void pixels to 0: one that is not finite would make the gradient NaN."""
    if on_cpu(valid) and not is_wrapped(valid) and valid.all():
        return logits
    return torch.where(valid == 1, logits, 0)


def _checked(logits: Tensor, target: Tensor, expected: torch.Size) -> tuple[Tensor, Tensor]:
    """Check dtype, shape and device. Logits in float32 or float64, and contiguous labels."""
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        kinds = f"{type(logits).__name__} and {type(target).__name__}"
        raise TypeError(f"logits and target must be tensors, got {kinds}")
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
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), target.contiguous()


def _binary(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Logits and labels, checked."""
    if ignore_index in (0, 1):
        raise ValueError(f"ignore_index must not be a label, got {ignore_index}")
    return _checked(logits, target, logits.shape)


def _margin(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """The margin s f, 0 on void, and the masks of foreground and valid pixels. ``(B, N)`` each."""
    logits, target = _binary(logits, target, ignore_index)
    logits, target = logits.reshape(len(logits), -1), target.view(len(target), -1)
    foreground, valid = binary_masks(target, ignore_index)
    margin = -error_slope(foreground, valid) * _without_void(logits, valid)
    return margin, foreground, valid


def check_reduction(per_image: bool, reduction: Reduction) -> None:
    """Raises: ValueError."""
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be mean or none, got {reduction!r}")
    if reduction == "none" and not per_image:
        raise ValueError("reduction='none' is one value an image: it needs per_image=True")


def _pixel_mean(values: Tensor, valid: Tensor, reduction: Reduction) -> Tensor:
    check_reduction(True, reduction)
    totals, counts = (values * valid).sum(1), valid.sum(1)
    if reduction == "none":
        return totals / counts.clamp(min=1)
    return totals.sum() / counts.sum().clamp(min=1)
