"""Chooses between the two implementations of the Lovász extension: loops or tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor

from lovasz_repro.losses.extension import GRADIENTS, CompiledOperations, Method, Operations
from lovasz_repro.losses.labels import binary_masks, class_masks, on_cpu


def check_method(method: Method) -> None:
    """Raises: ValueError."""
    if method not in GRADIENTS:
        raise ValueError(f"method must be one of {', '.join(GRADIENTS)}, got {method!r}")


def lovasz_extension(
    scores: Tensor, labels: Tensor, ignored: int, method: Method
) -> tuple[Tensor, Tensor]:
    """The Lovász extension of the Jaccard loss. Returns losses and foreground flags, each (G, C).

    ``scores`` is ``(G, M, C, N)``: G groups of M images, C classes, N pixels. ``labels`` is
    ``(G, M, N)``. With C = 1 a score is a logit with the error ``max(0, 1 - s score)``; else it is
    a probability with the error ``|y - score|``.
    """
    check_method(method)
    groups, images, count, pixels = scores.shape
    if images * pixels >= 2**31:  # pixels are counted in int32
        raise ValueError(f"{images * pixels} pixels are too many for one image, batch or class")
    if on_cpu(scores):
        # Imported here: Numba imports slowly, and a GPU does not need it.
        from lovasz_repro.losses.loops import Loops

        losses, _, present = Loops.apply(scores, labels, ignored, method)
        return losses.view(groups, count), present
    if count == 1:
        masks = binary_masks(labels[:, :, None], ignored)
    else:
        masks = class_masks(labels, count, ignored)
    rows, foreground, valid = (x.transpose(1, 2).flatten(2).flatten(0, 1) for x in (scores, *masks))
    operations = CompiledOperations if torch.compiler.is_compiling() else Operations
    losses, _ = operations.apply(rows, foreground, valid, count > 1, method)
    return losses.view(groups, count), foreground.amax(1).view(groups, count)
