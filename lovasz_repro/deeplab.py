"""DeepLab networks: a backbone, and a head that gives one score map per label.

A binary network for category c is the 21-way network with channel c of its head, nothing else
changed: what the original trains.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights, deeplabv3_resnet101

from lovasz_repro.cache import LABELS
from lovasz_repro.config import Network
from lovasz_repro.errors import UserError


class AtrousHead(nn.Module):
    """DeepLab v2's head: the sum of 3 × 3 convolutions with different dilations (their ASPP-L).

    (B, C, h, w) -> (B, K, h, w). With few outputs a convolution is mostly data movement, so it is
    computed as one product of all taps with the features, (4·9·K, C) @ (C, h·w), followed by adding
    the shifted results; measured 13 times faster than conv2d for K = 1 on a CPU.
    """

    def __init__(self, in_channels: int, labels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.rates = rates
        weight = torch.empty(len(rates), 9, labels, in_channels)
        self.weight = nn.Parameter(nn.init.normal_(weight, std=0.01))
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(self, features: Tensor) -> Tensor:
        size = features.shape[-2:]
        labels, channels = self.weight.shape[2:]
        taps = self.weight.reshape(-1, channels) @ features.flatten(2)  # (B, R·9·K, h·w)
        branches = taps.view(len(taps), len(self.rates), 9, labels, -1)  # (B, R, 9, K, h·w)
        total = self.bias.view(-1, 1, 1)
        for index, rate in enumerate(self.rates):
            columns = branches[:, index].transpose(1, 2).flatten(1, 2)  # (B, K·9, h·w)
            # fold adds each tap's map at its shift: the transposed view of a convolution.
            total = total + F.fold(columns, size, 3, dilation=rate, padding=rate)
        return total

    def channel(self, label: int) -> AtrousHead:
        """A head with the one output `label`, its weights copied."""
        head = AtrousHead(self.weight.shape[3], 1, self.rates)
        head.weight.data.copy_(self.weight.data[:, :, label : label + 1])
        head.bias.data.copy_(self.bias.data[label : label + 1])
        return head


class TorchvisionHead(nn.Sequential):
    """torchvision's DeepLab v3 classifier; its last layer is a 1 × 1 convolution to the labels."""

    def channel(self, label: int) -> TorchvisionHead:
        """A head with the one output `label`, its weights copied."""
        *body, last = copy.deepcopy(list(self))
        assert isinstance(last, nn.Conv2d)
        single = nn.Conv2d(last.in_channels, 1, 1)
        chosen = {name: value[label : label + 1] for name, value in last.state_dict().items()}
        single.load_state_dict(chosen)
        return TorchvisionHead(*body, single)


class _LastFeature(nn.Module):
    """The deepest map of a timm or torchvision backbone that returns several."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        maps: Any = self.model(images)
        last: Tensor = maps["out"] if isinstance(maps, dict) else maps[-1]
        return last


class DeepLab(nn.Module):
    """(B, 3, 8m + 1, 8n + 1) normalised images -> (B, K, h, w) logits on the network's grid.

    Grid cell (i, j) is centred on pixel (stride·i, stride·j): corners meet corners.

    Attributes:
        mean, std: (3,) of the images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, head: AtrousHead | TorchvisionHead, stride: int,
        mean: tuple[float, ...], std: tuple[float, ...], freeze_batchnorm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.stride = stride
        self.freeze_batchnorm = freeze_batchnorm
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> DeepLab:
        """Train mode, but for a frozen BatchNorm, which stays as it was loaded."""
        super().train(mode)
        if self.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
                    module.requires_grad_(False)
        return self

    def binary(self, label: int) -> DeepLab:
        """This network with the one channel `label` of its head; nothing is shared."""
        return DeepLab(
            copy.deepcopy(self.backbone), self.head.channel(label), self.stride,
            tuple(self.mean.tolist()), tuple(self.std.tolist()),
        )  # fmt: skip


def build(config: Network, *, pretrained: bool = True) -> DeepLab:
    """The 21-way network of an experiment.

    Args:
        pretrained: load the backbone's (or the whole network's) weights; False where a base's own
            weights are loaded over them anyway.

    Raises: UserError for an unknown backbone, or a weights file that is missing or does not fit.
    """
    weights = _read_weights(config.weights) if config.weights and pretrained else None
    if config.kind == "deeplabv3_resnet101":
        return _torchvision(weights, download=pretrained)
    if not timm.is_model(config.backbone):
        near = ", ".join(get_close_matches(config.backbone, timm.list_models(), 8))
        raise UserError(
            f"network.backbone: timm has no {config.backbone!r}; near: {near or 'nothing'}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm warns of classifier layers that it drops
        model: Any = timm.create_model(
            config.backbone, pretrained=False, features_only=True, out_indices=(-1,),
            output_stride=config.output_stride,
        )  # fmt: skip
    if weights is not None:
        _load(model, weights, str(config.weights))
    data = timm.get_pretrained_cfg(config.backbone)
    assert data is not None  # every model of timm has one
    channels = model.feature_info.channels()[-1]
    return DeepLab(
        _LastFeature(model), AtrousHead(channels, LABELS, config.rates), config.output_stride,
        data.mean, data.std, config.freeze_batchnorm,
    )  # fmt: skip


def _torchvision(weights: dict[str, Tensor] | None, download: bool) -> DeepLab:
    name = DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1
    if weights is None and download:
        try:
            weights = name.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the COCO weights could not be downloaded ({error}); fetch {name.url} by hand "
                "and name the file in network.weights"
            ) from error
    model = deeplabv3_resnet101(
        weights=None, weights_backbone=None, num_classes=LABELS, aux_loss=False
    )
    if weights is not None:
        kept = {key: value for key, value in weights.items() if not key.startswith("aux_")}
        _load(model, kept, "network.weights")
    preset = name.transforms()
    return DeepLab(
        _LastFeature(model.backbone), TorchvisionHead(*model.classifier), 8,
        tuple(preset.mean), tuple(preset.std),
    )  # fmt: skip


def _read_weights(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise UserError(f"network.weights: there is no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not a state dict
        raise UserError(f"network.weights: {path} is not a state dict ({error})") from error
    if not isinstance(state, dict):
        raise UserError(f"network.weights: {path} holds a {type(state).__name__}, not a state dict")
    return state


def _load(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load all of the model's tensors; a classifier in the file that the model lacks is left."""
    try:
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        raise UserError(f"{where}: does not fit the network ({error})") from error
    if missing:
        raise UserError(f"{where}: {len(missing)} tensors missing, {missing[0]} the first")


def state_digest(module: nn.Module) -> str:
    """SHA-256 of a module's weights and buffers, the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def grid_matrix(length: int, extent: int, grid: int, stride: int) -> Tensor:
    """(length, grid) weights that bring a grid to `length` pixels, bilinear, corners on corners.

    Args:
        length: pixels wanted. extent: pixels that the image has on the network's canvas.
        grid: cells of the grid; cell i is centred on canvas pixel stride·i.
    """
    pixel = torch.linspace(0, extent - 1, length, dtype=torch.float64) if length > 1 else (
        torch.full((1,), (extent - 1) / 2, dtype=torch.float64)
    )  # fmt: skip
    distance = pixel[:, None] / stride - torch.arange(grid, dtype=torch.float64)
    return (1 - distance.abs()).clamp(min=0).float()


def to_native(
    logits: Tensor, canvas: Sequence[int], native: Sequence[int], stride: int
) -> Tensor:
    """One image's logits (..., h, w) on the grid of its canvas -> (..., H, W) at the file's size.

    canvas: height and width of the image on the canvas. native: in the file.
    """
    rows = grid_matrix(native[0], canvas[0], logits.shape[-2], stride).to(logits.device)
    columns = grid_matrix(native[1], canvas[1], logits.shape[-1], stride).to(logits.device)
    return rows @ logits.float() @ columns.T
