"""The losses as `nn.Module`s.

Each calls the function of :mod:`lovasz_repro.losses.functional` that its docstring names; shapes,
labels and errors are described there. They hold no tensors. `torch.compile` takes them;
`torch.jit.script` does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

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
    """A function of (logits, target) with its settings, which are attributes and in the `repr`."""

    def __init__(self, function: Callable[..., Tensor], **settings: Any) -> None:
        super().__init__()
        self._function = function
        self._names = tuple(settings)
        vars(self).update(settings)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self._function(logits, target, **self._settings())

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in self._settings().items())


class CrossEntropy(_Loss):
    """`cross_entropy`, on logits and target (B, ...)."""

    def __init__(self, ignore_index: int = 255, reduction: Reduction = "mean") -> None:
        check_reduction(True, reduction)
        super().__init__(cross_entropy, ignore_index=ignore_index, reduction=reduction)


class Hinge(_Loss):
    """`hinge`, on logits and target (B, ...)."""

    def __init__(self, ignore_index: int = 255, reduction: Reduction = "mean") -> None:
        check_reduction(True, reduction)
        super().__init__(hinge, ignore_index=ignore_index, reduction=reduction)


class SoftJaccard(_Loss):
    """`soft_jaccard`, on logits and target (B, ...)."""

    def __init__(
        self, per_image: bool = True, ignore_index: int = 255, reduction: Reduction = "mean"
    ) -> None:
        check_reduction(per_image, reduction)
        super().__init__(
            soft_jaccard, ignore_index=ignore_index, reduction=reduction, per_image=per_image
        )


class LovaszHinge(_Loss):
    """`lovasz_hinge`, on logits and target (B, ...)."""

    def __init__(
        self, per_image: bool = True, ignore_index: int = 255, reduction: Reduction = "mean",
        method: Method = "sort",
    ) -> None:  # fmt: skip
        check_reduction(per_image, reduction)
        check_method(method)
        super().__init__(
            lovasz_hinge, ignore_index=ignore_index, reduction=reduction, per_image=per_image,
            method=method,
        )  # fmt: skip


class LovaszSoftmax(_Loss):
    """`lovasz_softmax`, on logits (B, C, ...) and target (B, ...)."""

    def __init__(
        self, classes: Literal["present", "all"] = "present", per_image: bool = False,
        ignore_index: int = 255, method: Method = "sort",
    ) -> None:  # fmt: skip
        check_method(method)
        if classes not in ("present", "all"):
            raise ValueError(f"classes must be present or all, got {classes!r}")
        super().__init__(
            lovasz_softmax, classes=classes, per_image=per_image, ignore_index=ignore_index,
            method=method,
        )  # fmt: skip
