"""The losses as `nn.Module`s, for code that keeps its loss in one.

Each calls the function of :mod:`lovasz_repro.losses.functional` that its docstring names; shapes,
labels and errors are described there. They hold no tensors. `torch.compile` takes them;
`torch.jit.script` does not.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lovasz_repro.losses.dispatch import check_method
from lovasz_repro.losses.extension import Method
from lovasz_repro.losses.functional import (
    Reduction,
    check_reduction,
    cross_entropy,
    hinge,
    lovasz_hinge,
    lovasz_softmax,
    soft_jaccard,
)


class _Loss(nn.Module):
    """Shows its settings, which are its attributes without an underscore."""

    def extra_repr(self) -> str:
        settings = {k: v for k, v in vars(self).items() if k != "training" and k[0] != "_"}
        return ", ".join(f"{key}={value!r}" for key, value in settings.items())


class CrossEntropy(_Loss):
    """`cross_entropy`, on logits and target (B, ...)."""

    def __init__(self, ignore_index: int = 255, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(True, reduction)
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            logits, target, ignore_index=self.ignore_index, reduction=self.reduction
        )


class Hinge(CrossEntropy):
    """`hinge`, on logits and target (B, ...)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return hinge(logits, target, ignore_index=self.ignore_index, reduction=self.reduction)


class SoftJaccard(CrossEntropy):
    """`soft_jaccard`, on logits and target (B, ...)."""

    def __init__(
        self, per_image: bool = True, ignore_index: int = 255, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(ignore_index, reduction)
        check_reduction(per_image, reduction)
        self.per_image = per_image

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return soft_jaccard(
            logits, target, ignore_index=self.ignore_index, reduction=self.reduction,
            per_image=self.per_image,
        )  # fmt: skip


class LovaszHinge(SoftJaccard):
    """`lovasz_hinge`, on logits and target (B, ...)."""

    def __init__(
        self, per_image: bool = True, ignore_index: int = 255, reduction: Reduction = "mean",
        method: Method = "sort",
    ) -> None:  # fmt: skip
        super().__init__(per_image, ignore_index, reduction)
        check_method(method)
        self.method: Method = method

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return lovasz_hinge(
            logits, target, ignore_index=self.ignore_index, reduction=self.reduction,
            per_image=self.per_image, method=self.method,
        )  # fmt: skip


class LovaszSoftmax(_Loss):
    """`lovasz_softmax`, on logits (B, C, ...) and target (B, ...)."""

    def __init__(
        self, classes: Literal["present", "all"] = "present", per_image: bool = False,
        ignore_index: int = 255, method: Method = "sort",
    ) -> None:  # fmt: skip
        super().__init__()
        check_method(method)
        if classes not in ("present", "all"):
            raise ValueError(f"classes must be present or all, got {classes!r}")
        self.classes: Literal["present", "all"] = classes
        self.per_image = per_image
        self.ignore_index = ignore_index
        self.method: Method = method

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return lovasz_softmax(
            logits, target, classes=self.classes, ignore_index=self.ignore_index,
            per_image=self.per_image, method=self.method,
        )  # fmt: skip
