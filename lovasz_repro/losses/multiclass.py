"""Losses of softmax scores over C classes: logits (B, C, ...), target (B, ...).

Labels are 0 ... C-1, or ``ignore_index``, which counts nowhere. Each is one number for the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_cross_entropy(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Cross-entropy ``-log p_y`` in nats, the mean over all valid pixels of the batch.

    Not F.cross_entropy: on a GPU that of maps raises where torch must be deterministic.
    """
    right, _ = _one_hot(logits, target, ignore_index)
    return -torch.where(right, logits.log_softmax(1), 0).sum() / right.sum().clamp(min=1)


def softmax_jaccard(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Soft Jaccard loss ``1 - sum(p y) / sum(p + y - p y)`` of each class, summed over the batch,
    and the mean over the classes that have a pixel in it.

    Rahman & Wang (ISVC 2016), class by class. It is 0 where no pixel is valid.
    """
    right, valid = _one_hot(logits, target, ignore_index)
    # Void is not read: a logit there that is not finite would make the gradient NaN.
    scores = torch.where(valid, logits, 0).softmax(1) * valid
    axes = [0, *range(2, logits.ndim)]
    hit, there = (scores * right).sum(axes), right.sum(axes)  # (C,)
    losses = 1 - hit / (scores.sum(axes) + there - hit).clamp(min=1e-12)
    return torch.where(there > 0, losses, 0).sum() / (there > 0).sum().clamp(min=1)


def _one_hot(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Where each class is right, (B, C, ...), and where the target is known, (B, 1, ...)."""
    if target.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"target {tuple(target.shape)} does not fit the logits {tuple(logits.shape)}"
        )
    labels = torch.arange(logits.shape[1], device=target.device)
    right = target[:, None] == labels.view(-1, *[1] * (logits.ndim - 2))
    return right, (target != ignore_index)[:, None]
