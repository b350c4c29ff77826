"""DeepLab networks: a backbone, and a head that gives one score map per label.

A binary network for category c is the 21-way network with only channel c of its head, as in the
original, or with the log-odds of c as its score, see `LogOdds`.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections import OrderedDict
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights, deeplabv3_resnet101

from lovasz_repro.config import Network
from lovasz_repro.data.voc import CATEGORIES
from lovasz_repro.errors import UserError
from lovasz_repro.models.mobilenet import MobileNetHead, from_published, mobilenetv2
from lovasz_repro.words import count


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
        # Not @: it would copy the features into one matrix.
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
        """A head with the single output `label`; its weights are a copy."""
        head = AtrousHead(self.weight.shape[3], 1, self.rates)
        head.weight.data.copy_(self.weight.data[:, :, label : label + 1])
        head.bias.data.copy_(self.bias.data[label : label + 1])
        return head


class LogOdds(nn.Module):
    """The log-odds of one label under the softmax over all: z_c − log Σ_{k≠c} exp z_k.

    (B, C, h, w) -> (B, 1, h, w). Above 0 the label is likelier than all others together.
    """

    def __init__(self, head: nn.Module, label: int) -> None:
        super().__init__()
        self.head = head
        self.label = label

    def forward(self, features: Tensor) -> Tensor:
        logits = self.head(features).float()
        own = logits[:, self.label : self.label + 1]
        others = torch.cat([logits[:, : self.label], logits[:, self.label + 1 :]], 1)
        odds: Tensor = own - others.logsumexp(1, keepdim=True)
        return odds


def binary_head(head: nn.Module, label: int, score: str) -> nn.Module:
    """A head with one output, the score of `label`; its weights are a copy.

    score: see `config.Network`.
    """
    if score == "log_odds":
        return LogOdds(copy.deepcopy(head), label)
    if isinstance(head, AtrousHead):
        return head.channel(label)
    single = copy.deepcopy(head)
    # The last layer of the other heads is a 1 × 1 convolution to the labels.
    name, last = [part for part in single.named_modules() if isinstance(part[1], nn.Conv2d)][-1]
    assert isinstance(last, nn.Conv2d)
    channel = nn.Conv2d(last.in_channels, 1, 1)
    chosen = {key: value[label : label + 1] for key, value in last.state_dict().items()}
    channel.load_state_dict(chosen)
    single.set_submodule(name, channel)
    return single


class _LastFeature(nn.Module):
    """The deepest map of a timm backbone, which returns several."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        last: Tensor = self.model(images)[-1]
        return last


class DeepLab(nn.Module):
    """(B, 3, 8m + 1, 8n + 1) normalised images -> (B, K, h, w) logits on the network's grid.

    Grid cell (i, j) is centred on pixel (stride·i, stride·j): corners are aligned. The trained part
    of a network (`split`) takes the frozen part's output instead of images.

    Attributes:
        mean, std: (3,) of the images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, head: nn.Module, stride: int, mean: tuple[float, ...],
        std: tuple[float, ...], freeze_batchnorm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        # A fifth faster on a CPU, and the layout that a GPU's convolutions use.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.head = head
        self.stride = stride
        self.freeze_batchnorm = freeze_batchnorm
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.train()  # freeze BatchNorm now: optimisers and DDP look only once

    def forward(self, images: Tensor) -> Tensor:
        if not isinstance(self.backbone, nn.Identity):  # the head on features
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> DeepLab:
        """Train mode, except for a frozen BatchNorm, which stays in eval mode."""
        super().train(mode)
        if self.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
                    module.requires_grad_(False)
        return self

    def binary(self, label: int, score: str) -> DeepLab:
        """A copy of this network with the score of one label as its output."""
        return self._with(copy.deepcopy(self.backbone), binary_head(self.head, label, score))

    def split(self, train: str, block: str) -> tuple[nn.Module | None, DeepLab]:
        """The frozen part, and the network trained on its output. Both share this one's weights.

        Args:
            train, block: as `config.Network.train` and `split`.

        Raises: UserError if the backbone has no such block.
        """
        if train == "all":
            return None, self
        if train == "head":
            return self.backbone, self._with(nn.Identity(), self.head)
        assert isinstance(self.backbone, nn.Sequential)
        names = [name.replace("-", ".") for name, _ in self.backbone.named_children()]
        if block not in names[1:]:
            raise UserError(f"network.split: no block {block!r}; there is {', '.join(names[1:])}")
        first = names.index(block)
        return self.backbone[:first], self._with(self.backbone[first:], self.head)

    def _with(self, backbone: nn.Module, head: nn.Module) -> DeepLab:
        mean, std = tuple(self.mean.tolist()), tuple(self.std.tolist())
        return DeepLab(backbone, head, self.stride, mean, std)


VOC_LABELS = len(CATEGORIES) + 1


def build(
    config: Network, fold: int = 0, *, labels: int = VOC_LABELS, pretrained: bool = True,
    complete: bool = False,
) -> DeepLab:  # fmt: skip
    """The network that a fold starts from, with a score per label: 21-way for VOC.

    Args:
        labels: number of outputs, the background included. If the published weights have another
            number, the last layer is drawn at random.
        fold: replaces {fold} in the name of the weights file.
        pretrained: load the backbone's (or the whole network's) weights; False if a base's weights
            are loaded afterwards anyway.
        complete: the weights must be those of the whole network, not of its backbone alone.

    Raises: UserError for an unknown backbone, or a weights file that is missing or does not fit.
    """
    path = config.weights_of(fold)
    weights = _read_weights(path) if path and pretrained else None
    if config.kind == "deeplabv3_resnet101":
        return _torchvision(weights, labels, pretrained, complete)
    if config.kind == "deeplabv3_mobilenetv2":
        return _mobilenet(weights, labels, str(path), complete)
    return _timm(config, weights, labels, str(path), complete)


def _timm(
    config: Network, weights: dict[str, Tensor] | None, labels: int, path: str, complete: bool
) -> DeepLab:
    """`deeplab_v2`: a timm backbone and the summed atrous head."""
    import timm  # slow to import, and the other networks do not need it

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
            f"base.train: none needs a whole {labels}-way network in network.weights; {path} has "
            "no head"
        )
    if weights is not None and not whole:
        _load(model, weights, path, extra=True)  # the published backbones hold a classifier
    data = timm.get_pretrained_cfg(config.backbone)
    assert data is not None  # every model of timm has one
    channels = model.feature_info.channels()[-1]
    network = DeepLab(
        _LastFeature(model), AtrousHead(channels, labels, config.rates), config.output_stride,
        data.mean, data.std, config.freeze_batchnorm,
    )  # fmt: skip
    if weights is not None and whole:
        _load(network, weights, path, complete)
    return network


def _torchvision(
    weights: dict[str, Tensor] | None, labels: int, download: bool, complete: bool
) -> DeepLab:
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
        weights=None, weights_backbone=None, num_classes=labels, aux_loss=False
    )
    if weights is not None:
        kept = {
            key.replace("head.", "classifier.", 1) if key.startswith("head.") else key: value
            for key, value in weights.items()  # torchvision's, or those of a base network
            if not key.startswith("aux_") and key not in ("mean", "std")
        }
        _load(model, kept, "network.weights", complete)
    preset = name.transforms()
    return DeepLab(
        nn.Sequential(OrderedDict(model.backbone.named_children())), model.classifier, 8,
        tuple(preset.mean), tuple(preset.std),
    )  # fmt: skip


def _mobilenet(
    weights: dict[str, Tensor] | None, labels: int, where: str, complete: bool
) -> DeepLab:
    half = (0.5, 0.5, 0.5)
    network = DeepLab(mobilenetv2(), MobileNetHead(labels), 16, half, half)
    if weights is not None:
        if "stem.weight" in weights:
            weights = from_published(weights) | {"mean": network.mean, "std": network.std}
        _load(network, weights, where, complete)
    return network


def _read_weights(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise UserError(f"network.weights: there is no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not a state dict
        # Not its text: torch's suggests a way of loading that executes what is in the file.
        kind = type(error).__name__
        raise UserError(f"network.weights: {path} is not a state dict ({kind})") from error
    if not isinstance(state, dict):
        raise UserError(f"network.weights: {path} holds a {type(state).__name__}, not a state dict")
    return state


def _load(
    model: nn.Module,
    weights: dict[str, Tensor],
    where: str,
    complete: bool = False,
    extra: bool = False,
) -> None:
    """Load all of the model's tensors; tensors that the model lacks are refused, or with `extra`
    ignored.

    The last layer of a network for VOC's labels is left out if the model has other labels, unless
    the weights must be complete.
    """
    others = _for_other_labels(model, weights)
    if others and complete:
        raise UserError(
            f"base.train: none needs a network for the labels of data.classes; {where} has VOC's "
            f"{VOC_LABELS}. Train one with base.train: head or all"
        )
    weights = weights | {name: model.state_dict()[name] for name in others}
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"{where}: does not fit the network ({error})") from error
    if missing:
        raise UserError(f"{where}: {count(len(missing), 'tensor')} missing, {missing[0]} the first")
    if unexpected and not extra:
        raise UserError(
            f"{where}: {count(len(unexpected), 'tensor')} that the network lacks, "
            f"{unexpected[0]} the first"
        )


def _for_other_labels(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Names of the tensors whose shapes differ only in the number of labels."""
    return [
        name
        for name, own in model.state_dict().items()
        if name in weights
        and weights[name].shape != own.shape
        and [m for m, n in zip(weights[name].shape, own.shape, strict=False) if m != n]
        == [VOC_LABELS]
    ]


def not_finite(network: nn.Module) -> str | None:
    """The name of the first parameter or buffer that is not finite; None if all are."""
    broken = (name for name, value in network.state_dict().items() if not value.isfinite().all())
    return next(broken, None)


def state_digest(module: nn.Module) -> str:
    """The start of the SHA-256 of a module's weights and buffers, the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def grid_matrix(lengths: Tensor, extents: Tensor, grid: int, stride: int, longest: int) -> Tensor:
    """(B, longest, grid) weights that resample grids to pixels: bilinear, corners aligned.

    Args:
        lengths: (B,) output pixels; rows beyond them are 0.
        extents: (B,) pixels of the image on the network's canvas.
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
        shape: H and W, no smaller than any image; 0 beyond an image's own size.

    In float32 even under autocast: bfloat16 would move the outlines.
    """
    rows = grid_matrix(native[:, 0], canvas[:, 0], logits.shape[-2], stride, shape[0])
    columns = grid_matrix(native[:, 1], canvas[:, 1], logits.shape[-1], stride, shape[1])
    device = logits.device.type
    has_autocast = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
        return rows[:, None] @ logits.float() @ columns.mT[:, None]
