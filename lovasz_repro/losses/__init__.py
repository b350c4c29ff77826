"""Pixel and Jaccard losses for segmentation, for any training loop.

They import nothing else of this package.
"""

from lovasz_repro.losses.extension import Method
from lovasz_repro.losses.functional import (
    Loss,
    Reduction,
    cross_entropy,
    hinge,
    lovasz_hinge,
    lovasz_softmax,
    soft_jaccard,
)
from lovasz_repro.losses.modules import (
    CrossEntropy,
    Hinge,
    LovaszHinge,
    LovaszSoftmax,
    SoftJaccard,
)
from lovasz_repro.losses.multiclass import softmax_cross_entropy, softmax_jaccard
from lovasz_repro.losses.registry import LOSSES, MULTICLASS_LOSSES, make_loss

__all__ = [
    "LOSSES",
    "MULTICLASS_LOSSES",
    "CrossEntropy",
    "Hinge",
    "Loss",
    "LovaszHinge",
    "LovaszSoftmax",
    "Method",
    "Reduction",
    "SoftJaccard",
    "cross_entropy",
    "hinge",
    "lovasz_hinge",
    "lovasz_softmax",
    "make_loss",
    "soft_jaccard",
    "softmax_cross_entropy",
    "softmax_jaccard",
]  # fmt: skip
