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
    soft_jaccard,
)


def _weighted(logits: Tensor, target: Tensor, parts: Mapping[str, float]) -> Tensor:
    return torch.stack([w * LOSSES[name](logits, target) for name, w in parts.items()]).sum()


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "hinge": hinge,
    "soft_jaccard": partial(soft_jaccard, per_image=False),
    "soft_jaccard_per_image": soft_jaccard,
    "lovasz_hinge": lovasz_hinge,
    "lovasz_hinge_per_batch": partial(lovasz_hinge, per_image=False),
    "mixed": partial(_weighted, parts={"cross_entropy": 0.5, "lovasz_hinge": 0.5}),
}
"""A loss that the experiments know is an entry here."""


def make_loss(spec: str | Mapping[str, float]) -> Loss:
    """A loss of (logits, target) from a YAML entry: a name, or weights of names."""
    names = [spec] if isinstance(spec, str) else list(spec)
    unknown = [name for name in names if name not in LOSSES]
    if unknown or not names:
        named = f"unknown loss {unknown[0]!r}" if unknown else "no loss is named"
        raise ValueError(f"{named}: there are {', '.join(LOSSES)}")
    return LOSSES[spec] if isinstance(spec, str) else partial(_weighted, parts=dict(spec))
