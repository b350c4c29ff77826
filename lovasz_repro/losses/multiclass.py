"""Losses of softmax scores over C classes: logits (B, C, ...), target (B, ...).

Labels are 0 ... C-1, C >= 2, or ``ignore_index``. Ignored pixels are not read: their logits need
not be finite. Each loss is one number for the batch; half precision is computed in float32.

Raises: as the losses of `functional`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lovasz_repro.losses.functional import class_pixels
from lovasz_repro.losses.labels import class_masks


def softmax_cross_entropy(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Cross-entropy ``-log p_y`` in nats, the mean over all valid pixels of the batch.

    Not F.cross_entropy: on a GPU it raises for maps if torch must be deterministic.
    """
    logits, right, _ = _checked(logits, target, ignore_index)
    chosen = torch.where(right == 1, logits.log_softmax(1), 0)
    return -chosen.sum() / right.sum().clamp(min=1)


def softmax_jaccard(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Soft Jaccard loss ``1 - sum(p y) / sum(p + y - p y)`` of each class, summed over the batch,
    then averaged over the classes that have a pixel in it.

    Rahman & Wang (ISVC 2016), class by class. It is 0 if no pixel is valid.
    """
    logits, right, valid = _checked(logits, target, ignore_index)
    scores = logits.softmax(1) * valid  # (B, C, N)
    hit, there = (scores * right).sum((0, 2)), right.sum((0, 2))  # (C,)
    losses = 1 - hit / (scores.sum((0, 2)) + there - hit).clamp(min=1e-12)
    return torch.where(there > 0, losses, 0).sum() / (there > 0).sum().clamp(min=1)


def _checked(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, 0 on void, the pixels of each class, and the valid ones. (B, C, N) each."""
    logits, target = class_pixels(logits, target, ignore_index)
    right, valid = class_masks(target[None], logits.shape[1], ignore_index)
    return logits, right[0], valid[0]
