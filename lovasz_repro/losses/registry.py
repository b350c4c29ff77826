"""The losses by the names that a YAML entry, a record and a report give them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from lovasz_repro.losses.functional import (
    Loss,
    cross_entropy,
    hinge,
    lovasz_hinge,
    lovasz_softmax,
    soft_jaccard,
)
from lovasz_repro.losses.multiclass import softmax_cross_entropy, softmax_jaccard


def _weighted(
    logits: Tensor, target: Tensor, parts: Mapping[str, float], losses: Mapping[str, Loss]
) -> Tensor:
    return torch.stack([w * losses[name](logits, target) for name, w in parts.items()]).sum()


def _mixed(losses: dict[str, Loss], lovasz: str) -> dict[str, Loss]:
    parts = {"cross_entropy": 0.5, lovasz: 0.5}
    return {**losses, "mixed": partial(_weighted, parts=parts, losses=losses)}


LOSSES = _mixed(
    {
        "cross_entropy": cross_entropy,
        "hinge": hinge,
        "soft_jaccard": partial(soft_jaccard, per_image=False),
        "soft_jaccard_per_image": soft_jaccard,
        "lovasz_hinge": lovasz_hinge,
        "lovasz_hinge_per_batch": partial(lovasz_hinge, per_image=False),
    },
    "lovasz_hinge",
)
"""The losses that an experiment can name."""

MULTICLASS_LOSSES = _mixed(
    {
        "cross_entropy": softmax_cross_entropy,
        "lovasz_softmax": lovasz_softmax,
        "lovasz_softmax_per_image": partial(lovasz_softmax, per_image=True),
        "lovasz_softmax_all": partial(lovasz_softmax, classes="all"),
        "soft_jaccard": softmax_jaccard,
    },
    "lovasz_softmax",
)
"""The same for `task: multiclass`: logits (B, C, ...) and target (B, ...)."""


def make_loss(spec: str | Mapping[str, float], losses: Mapping[str, Loss] = LOSSES) -> Loss:
    """A loss of (logits, target) from a YAML entry: a name of `losses`, or weights of names."""
    names = [spec] if isinstance(spec, str) else list(spec)
    unknown = [name for name in names if name not in losses]
    if unknown or not names:
        named = f"unknown loss {unknown[0]!r}" if unknown else "no loss is named"
        raise ValueError(f"{named}: there are {', '.join(losses)}")
    if isinstance(spec, str):
        return losses[spec]
    return partial(_weighted, parts=dict(spec), losses=losses)
