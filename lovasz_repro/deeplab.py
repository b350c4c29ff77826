"""DeepLab networks: a backbone, and a head that gives one score map per label.

A binary network for category c is the 21-way network with channel c of its head, nothing else
changed: what the original trains.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from contextlib import nullcontext
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
        # Not @, which would copy the features to bring them into one matrix.
        weight = self.weight.reshape(-1, channels).expand(len(features), -1, -1)
        taps = torch.bmm(weight, features.flatten(2))  # (B, R·9·K, h·w)
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
        # A fifth faster on a CPU, and what a GPU's convolutions want.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.head = head
        self.stride = stride
        self.freeze_batchnorm = freeze_batchnorm
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.train()  # optimisers, and processes that share gradients, ask once what is frozen

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
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


def build(
    config: Network, fold: int = 0, *, pretrained: bool = True, complete: bool = False
) -> DeepLab:
    """The 21-way network that a fold starts from.

    Args:
        fold: takes the place of {fold} in the name of the weights file.
        pretrained: load the backbone's (or the whole network's) weights; False where a base's own
            weights are loaded over them anyway.
        complete: the weights must be those of the whole network, not of its backbone alone.

    Raises: UserError for an unknown backbone, or a weights file that is missing or does not fit.
    """
    path = config.weights_of(fold)
    weights = _read_weights(path) if path and pretrained else None
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
    whole = weights is not None and "head.weight" in weights
    if complete and not whole:
        raise UserError(
            f"base.train: none needs a whole 21-way network in network.weights; {path} has no head"
        )
    if weights is not None and not whole:
        _load(model, weights, str(path))
    data = timm.get_pretrained_cfg(config.backbone)
    assert data is not None  # every model of timm has one
    channels = model.feature_info.channels()[-1]
    network = DeepLab(
        _LastFeature(model), AtrousHead(channels, LABELS, config.rates), config.output_stride,
        data.mean, data.std, config.freeze_batchnorm,
    )  # fmt: skip
    if weights is not None and whole:
        _load(network, weights, str(path))
    return network


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
        # Not its text: torch's advises to load the file in a way that runs what is in it.
        kind = type(error).__name__
        raise UserError(f"network.weights: {path} is not a state dict ({kind})") from error
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


def grid_matrix(lengths: Tensor, extents: Tensor, grid: int, stride: int, longest: int) -> Tensor:
    """(B, longest, grid) weights that bring grids to pixels, bilinear, corners on corners.

    Args:
        lengths: (B,) pixels wanted; the rows beyond are 0. extents: (B,) pixels that the image has
            on the network's canvas.
        grid: cells of the grid; cell i is centred on canvas pixel stride·i.
    """
    place = torch.arange(longest, dtype=torch.float64, device=lengths.device)
    last, reach = (lengths - 1)[:, None], (extents - 1)[:, None]  # (B, 1)
    pixel = torch.where(last > 0, place * reach / last.clamp(min=1), reach / 2)
    cells = torch.arange(grid, dtype=torch.float64, device=lengths.device)
    weight = (1 - (pixel[..., None] / stride - cells).abs()).clamp(min=0)
    return (weight * (place <= last)[..., None]).float()


def to_native(
    logits: Tensor, canvas: Tensor, native: Tensor, shape: tuple[int, int], stride: int
) -> Tensor:
    """Logits (B, K, h, w) on the grids of canvases -> (B, K, H, W) at the files' own sizes.

    Args:
        canvas: (B, 2) height and width of each image on its canvas. native: (B, 2) in its file.
        shape: H and W, no smaller than any image; what is beyond an image's own size is 0.

    In float32 whatever autocast says: bfloat16 would move the outlines.
    """
    rows = grid_matrix(native[:, 0], canvas[:, 0], logits.shape[-2], stride, shape[0])
    columns = grid_matrix(native[:, 1], canvas[:, 1], logits.shape[-1], stride, shape[1])
    device = logits.device.type
    has_autocast = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
        return rows[:, None] @ logits.float() @ columns.mT[:, None]
