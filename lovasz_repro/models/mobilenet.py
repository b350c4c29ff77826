"""MobileNetV2 with DeepLab v3's head, as TensorFlow published it: BatchNorm is folded in.

Sandler et al., *MobileNetV2* (CVPR 2018), width 1.0, output stride 16; Chen et al., *Rethinking
atrous convolution* (2017), of whose head it keeps the 1 × 1 branch and the image pooling.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Output channels and stride of each block; from DILATED on, dilation replaces stride.
BLOCKS = (
    *((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1)),
    *((96, 1), (96, 1), (96, 1), (160, 1), (160, 1), (160, 1), (320, 1)),
)
EXPANSION = 6
DILATED = 14
STEM = 32
HEAD = 256


class InvertedResidual(nn.Module):
    """Expand by 1 × 1, filter each channel by 3 × 3, project by 1 × 1.

    (B, C, h, w) -> (B, C', h / stride, w / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, expand: bool) -> None:
        super().__init__()
        inner = inputs * (EXPANSION if expand else 1)
        self.expand = nn.Conv2d(inputs, inner, 1) if expand else None
        self.depthwise = nn.Conv2d(
            inner, inner, 3, stride, dilation, dilation=dilation, groups=inner
        )
        self.project = nn.Conv2d(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return self._add(x, y)

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y if self.residual else y

    def phases(self, x: Tensor, inside: Tensor) -> Tensor:
        """The block on a map's four phases, (B, 4, C, h, w), where dilation 2 becomes dilation 1.

        inside: (4, 1, h, w), 0 where a phase lies beyond the map, so that it reads zero padding.
        """
        assert self.expand is not None
        y = F.relu6(self.expand(x.flatten(0, 1)))
        y = y.reshape(*x.shape[:2], *y.shape[1:]) * inside
        filtered = F.conv2d(
            y.flatten(0, 1), self.depthwise.weight, self.depthwise.bias, padding=1,
            groups=self.depthwise.groups,
        )  # fmt: skip
        y = self.project(F.relu6(filtered))
        return self._add(x, y.reshape(*x.shape[:2], *y.shape[1:]))


class Dilated(nn.Sequential):
    """Blocks of dilation 2. On a CPU they run on the map's four phases, every other pixel of every
    other row: PyTorch's dilated depthwise convolution takes many times longer there."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return self.one_by_one(x)
        height, width = x.shape[-2:]
        phases = _split(x)  # (B, 4, C, h, w)
        inside = _split(x.new_ones(1, 1, height, width))[0]
        for block in self:
            assert isinstance(block, InvertedResidual)
            phases = block.phases(phases, inside)
        return _join(phases)[..., :height, :width]

    def one_by_one(self, x: Tensor) -> Tensor:
        """The blocks with their dilated convolutions."""
        for block in self:
            x = block(x)
        return x


def _split(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 4, C, ceil(H / 2), ceil(W / 2)), 0 beyond the map."""
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    x = x.permute(0, 3, 5, 1, 2, 4).reshape(4 * batch, channels, height // 2, width // 2)
    x = x.contiguous(memory_format=torch.channels_last)
    return x.reshape(batch, 4, *x.shape[1:])


def _join(phases: Tensor) -> Tensor:
    """The inverse of `_split`, padding included: (B, 4, C, h, w) -> (B, C, 2h, 2w)."""
    batch, _, channels, height, width = phases.shape
    x = phases.reshape(batch, 2, 2, channels, height, width).permute(0, 3, 4, 1, 5, 2)
    x = x.reshape(batch, channels, 2 * height, 2 * width)
    return x.contiguous(memory_format=torch.channels_last)


def mobilenetv2() -> nn.Sequential:
    """(B, 3, 16m + 1, 16n + 1) -> (B, 320, m + 1, n + 1).

    Its children are `stem`, `blocks-0` to `blocks-13`, and `blocks-14`: all dilated blocks.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["stem"] = nn.Sequential(nn.Conv2d(3, STEM, 3, 2, 1), nn.ReLU6())
    channels, dilated = STEM, []
    for index, (outputs, stride) in enumerate(BLOCKS):
        dilation = 2 if index >= DILATED else 1
        block = InvertedResidual(channels, outputs, stride, dilation, expand=index > 0)
        channels = outputs
        if index < DILATED:
            parts[f"blocks-{index}"] = block
        else:
            dilated.append(block)
    parts[f"blocks-{DILATED}"] = Dilated(*dilated)
    return nn.Sequential(parts)


class MobileNetHead(nn.Module):
    """Image pooling and a 1 × 1 branch, joined: (B, 320, h, w) -> (B, K, h, w)."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        inputs = BLOCKS[-1][0]
        self.image_pooling = nn.Conv2d(inputs, HEAD, 1)
        self.aspp0 = nn.Conv2d(inputs, HEAD, 1)
        self.concat_projection = nn.Conv2d(2 * HEAD, HEAD, 1)
        self.logits = nn.Conv2d(HEAD, labels, 1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = F.relu(self.image_pooling(features.mean((2, 3), keepdim=True)))
        branch = F.relu(self.aspp0(features))
        joined = torch.cat([pooled.expand_as(branch), branch], 1)
        logits: Tensor = self.logits(F.relu(self.concat_projection(joined)))
        return logits


def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published file's tensors (`blocks.7.expand.weight`, `logits.bias`, …) to those of
    a DeepLab of `mobilenetv2` and `MobileNetHead`."""
    renamed = {}
    for key, value in weights.items():
        part, *rest = key.split(".")
        if part == "stem":
            name = f"backbone.stem.0.{rest[0]}"
        elif part == "blocks":
            index = int(rest[0])
            inner = f".{index - DILATED}" if index >= DILATED else ""
            name = f"backbone.blocks-{min(index, DILATED)}{inner}.{'.'.join(rest[1:])}"
        else:
            name = f"head.{key}"
        renamed[name] = value
    return renamed
