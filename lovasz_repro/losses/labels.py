"""Check labels, and make masks of 0 and 1 from them, in uint8: a CPU vectorises its arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def on_cpu(x: Tensor) -> bool:
    """Whether values can be read at no cost and loops called: on a CPU, outside torch.compile."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def binary_masks(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Foreground and valid pixels, in the shape of ``target``. Labels: 0, 1 or ``ignore_index``."""
    if not is_wrapped(target):
        return _binary_masks(target, ignore_index)
    masks: tuple[Tensor, Tensor] = _BinaryMasks.apply(target, ignore_index)
    return masks


def is_wrapped(x: Tensor) -> bool:
    """Whether a transform of `torch.func`, such as vmap, may hide the tensor's values."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


class _BinaryMasks(torch.autograd.Function):
    """`_binary_masks` under `torch.func.vmap`: checks the labels of all mapped items at once."""

    @staticmethod
    def forward(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        return _binary_masks(target, ignore_index)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None], target: Tensor, ignore_index: int
    ) -> tuple[tuple[Tensor, Tensor], int]:
        return _BinaryMasks.apply(target, ignore_index), in_dims[0]


def _binary_masks(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    target = _bytes(target, ignore_index)
    foreground = equal(target, 1)
    valid = foreground | equal(target, 0)
    if not on_cpu(valid) or valid.amin() == 0:
        _check(target, valid | equal(target, ignore_index), f"0, 1 or {ignore_index}")
    return foreground, valid


def class_masks(target: Tensor, count: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Masks of each class and of valid pixels, (G, M, C, N) each, from (G, M, N) labels."""
    labels = torch.arange(count, device=target.device)[:, None]
    foreground = (target[:, :, None] == labels).to(torch.uint8)
    ignored = equal(target, ignore_index)[:, :, None]
    known = foreground.amax(2, keepdim=True)
    _check(target, known | ignored, f"0 ... {count - 1} or {ignore_index}")
    foreground *= 1 - ignored
    return foreground, (known * (1 - ignored)).expand_as(foreground)


def _bytes(target: Tensor, ignore_index: int) -> Tensor:
    """The labels; on a CPU in uint8 if they fit, which compares several times faster."""
    if target.dtype == torch.bool:
        return target.view(torch.uint8)
    wide = target.dtype in (torch.int64, torch.int32, torch.int16)
    if not wide or not on_cpu(target) or not 0 <= ignore_index <= 255:
        return target
    lowest, highest = target.aminmax()
    return target.to(torch.uint8) if lowest >= 0 and highest <= 255 else target


def equal(target: Tensor, label: int) -> Tensor:
    """1 where the target is the label, else 0. A label that the target's dtype cannot hold matches
    nothing; torch would wrap it around."""
    if not target.is_floating_point() and target.dtype != torch.bool:
        held = torch.iinfo(target.dtype)
        if not held.min <= label <= held.max:
            return torch.zeros_like(target, dtype=torch.uint8)
    if is_wrapped(target):
        return (target == label).to(torch.uint8)
    return torch.eq(target, label, out=torch.empty_like(target, dtype=torch.uint8))


def _check(target: Tensor, known: Tensor, allowed: str) -> None:
    if on_cpu(target):
        if known.amin() == 0:
            raise wrong_labels(target, allowed)
    else:
        # Not amin: torch 2.15's compiled uint8 amin rejects valid labels on a CPU.
        torch._assert_async((known == 1).all(), f"labels must be {allowed}")


def wrong_labels(target: Tensor, allowed: str) -> ValueError:
    """The error for a target with other labels; it shows a few of those that are there."""
    there = torch.unique(target)  # NaN is never equal to itself: keep one
    there = torch.cat([there[~there.isnan()], there[there.isnan()][:1]])
    floating = target.is_floating_point()
    shown = ", ".join(f"{label:.4g}" if floating else str(label) for label in there[:8].tolist())
    rest = f" and {len(there) - 8} more" if len(there) > 8 else ""
    hint = "; soft labels are not supported, and logits come first" if floating and rest else ""
    return ValueError(f"labels must be {allowed}, got {shown}{rest}{hint}")


def error_slope(foreground: Tensor, valid: Tensor) -> Tensor:
    """-s, an error's derivative in its score: -1 on foreground, +1 on background, 0 on void."""
    if is_wrapped(foreground):  # torch 2.11 cannot view a batch of vmap as another type
        return torch.sub(valid.to(torch.int8), foreground.to(torch.int8), alpha=2)
    return torch.sub(valid.view(torch.int8), foreground.view(torch.int8), alpha=2)
