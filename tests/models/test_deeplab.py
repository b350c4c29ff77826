"""The networks: the head against conv2d, the binary channel against the 21-way network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lovasz_repro.config import Network
from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.models.deeplab import AtrousHead, DeepLab, build, state_digest, to_native
from lovasz_repro.models.mobilenet import Dilated, MobileNetHead, mobilenetv2

SMALL = Network(kind="deeplab_v2", backbone="test_resnet", output_stride=8, rates=(1, 2, 3, 4))


def image(size: int = 65) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("labels", [1, 21])
def test_head_is_the_sum_of_dilated_convolutions(labels: int) -> None:
    torch.manual_seed(0)
    head = AtrousHead(8, labels, (1, 2, 5))
    torch.nn.init.normal_(head.bias)
    features = torch.randn(2, 8, 9, 11, requires_grad=True)
    expected = head.bias.view(1, -1, 1, 1).expand(2, -1, 9, 11)
    for rate, weight in zip(head.rates, head.weight, strict=True):
        # fold puts a tap's product where the tap points from: the kernel is mirrored.
        kernel = weight.permute(1, 2, 0).reshape(labels, 8, 3, 3).flip(2, 3)
        expected = expected + F.conv2d(features, kernel, padding=rate, dilation=rate)
    torch.testing.assert_close(head(features), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stride", [8, 16])
def test_grid_corners_meet_image_corners(stride: int) -> None:
    network = build(Network(kind="deeplab_v2", backbone="test_resnet", output_stride=stride))  # type: ignore[arg-type]
    assert network(image(65)).shape == (2, 21, 64 // stride + 1, 64 // stride + 1)


def test_binary_network_is_one_channel_of_the_base() -> None:
    base = build(SMALL).eval()
    binary = base.binary(8, "channel").eval()
    torch.testing.assert_close(binary(image())[:, 0], base(image())[:, 8])
    next(iter(binary.backbone.parameters())).data.add_(1)
    assert not torch.equal(binary(image())[:, 0], base(image())[:, 8])  # nothing is shared


def test_torchvision_binary_network_is_one_channel_of_the_base() -> None:
    base = build(Network(kind="deeplabv3_resnet101"), pretrained=False).eval()
    logits = base(image())
    assert logits.shape == (2, 21, 9, 9)
    single = base.binary(8, "channel").eval()(image())[:, 0]
    torch.testing.assert_close(single, logits[:, 8], rtol=1e-2, atol=1e-3)


def test_log_odds_are_those_of_the_softmax() -> None:
    base = build(SMALL).eval()
    odds = base.binary(8, "log_odds").eval()(image())[:, 0]
    p = base(image()).double().softmax(1)[:, 8]
    torch.testing.assert_close(odds.double(), (p / (1 - p)).log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [65, 81])
def test_phases_are_the_dilated_convolutions(size: int) -> None:
    """Value and gradient of the dilated blocks, grids of odd and of unequal sides."""
    torch.manual_seed(0)
    blocks = mobilenetv2()[-1].double()
    assert isinstance(blocks, Dilated)
    maps = torch.randn(2, 160, size // 16 + 1, 4, dtype=torch.float64, requires_grad=True)
    by_phases = blocks(maps)
    plain = blocks.one_by_one(maps)
    torch.testing.assert_close(by_phases, plain)
    weights = list(blocks.parameters())
    ours, theirs = (
        torch.autograd.grad(y.square().sum(), [maps, *weights]) for y in (by_phases, plain)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["deeplabv3_mobilenetv2", "deeplabv3_resnet101"])
def test_frozen_part_and_top_are_the_network(kind: str) -> None:
    network = (
        DeepLab(mobilenetv2(), MobileNetHead(21), 16, (0.5,) * 3, (0.5,) * 3)
        if kind == "deeplabv3_mobilenetv2"
        else build(Network(kind="deeplabv3_resnet101"), pretrained=False)
    ).eval()
    block = "blocks.7" if kind == "deeplabv3_mobilenetv2" else "layer4"
    frozen, top = network.split("top", block)
    assert frozen is not None
    assert torch.equal(top.eval()(frozen(image())), network(image()))
    backbone, head = network.split("head", "")
    assert backbone is not None
    assert torch.equal(head.eval()(backbone(image())), network(image()))
    with pytest.raises(UserError, match="no block 'nowhere'; there is .*" + block):
        network.split("top", "nowhere")


def test_published_network_says_what_it_said(real_root: Path) -> None:
    """How much of the labelled pixels of a few val images the published network finds."""
    path = real_root.parent / "weights/deeplabv3_mobilenetv2_voc.pth"
    network = build(
        Network(kind="deeplabv3_mobilenetv2", output_stride=16, weights=str(path))
    ).eval()
    voc = VOC(real_root)
    hit = union = 0
    for name in voc.ids("val")[:12]:
        pixels, mask = voc.pair(name)
        canvas = np.full((513, 513, 3), 127.5, np.float32)
        canvas[: mask.shape[0], : mask.shape[1]] = pixels
        batch = torch.from_numpy(canvas / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits = F.interpolate(network(batch), (513, 513), mode="bilinear", align_corners=True)
        said = logits[0].argmax(0).numpy()[: mask.shape[0], : mask.shape[1]]
        valid = mask != 255
        hit += int(((said == mask) & (mask > 0) & valid).sum())
        union += int((((said > 0) | (mask > 0)) & valid).sum())
    assert hit / union > 0.75


def test_frozen_batchnorm_does_not_move() -> None:
    network = build(SMALL).train()
    before = state_digest(network.backbone)
    network(image())
    assert state_digest(network.backbone) == before
    thawed = build(Network(**{**vars(SMALL), "freeze_batchnorm": False})).train()
    before = state_digest(thawed.backbone)
    thawed(image())
    assert state_digest(thawed.backbone) != before


def test_weights_file_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build(SMALL).backbone.get_submodule("model")
    path = tmp_path / "w.pth"
    torch.save({**model.state_dict(), "fc.weight": torch.zeros(2)}, path)
    torch.manual_seed(2)
    loaded = build(Network(**{**vars(SMALL), "weights": str(path)}))
    assert state_digest(loaded.backbone.get_submodule("model")) == state_digest(model)


def test_only_the_fold_is_replaced_in_the_weights_path() -> None:
    weights = replace(SMALL, weights="runs/{name}/fold{fold}/network.pt")
    assert weights.weights_of(3) == "runs/{name}/fold3/network.pt"


def test_bad_weights_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for content, message in ((b"nonsense", "not a state dict"), (None, "there is no file")):
        if content:
            path.write_bytes(content)
        else:
            path.unlink()
        with pytest.raises(UserError, match=f"{message}|w.pth"):
            build(Network(**{**vars(SMALL), "weights": str(path)}))
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="tensors missing"):
        build(Network(**{**vars(SMALL), "weights": str(path)}))


def test_a_whole_network_is_a_start_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = build(SMALL)
    torch.save(first.state_dict(), tmp_path / "network1.pt")
    weights = str(tmp_path / "network{fold}.pt")
    second = build(Network(**{**vars(SMALL), "weights": weights}), fold=1)
    assert state_digest(second) == state_digest(first)
    with pytest.raises(UserError, match=r"no file .*network0\.pt"):
        build(Network(**{**vars(SMALL), "weights": weights}), fold=0)
    torch.save(first.state_dict() | {"more": torch.zeros(1)}, tmp_path / "network0.pt")
    with pytest.raises(UserError, match=r"network0\.pt: 1 tensor that the network lacks, more"):
        build(Network(**{**vars(SMALL), "weights": weights}), fold=0)
    torch.save(first.backbone.get_submodule("model").state_dict(), tmp_path / "network0.pt")
    with pytest.raises(UserError, match=r"network0\.pt has no head"):
        build(Network(**{**vars(SMALL), "weights": weights}), fold=0, complete=True)


def test_unknown_backbone_lists_what_is_near() -> None:
    with pytest.raises(UserError, match="resnet101"):
        build(Network(kind="deeplab_v2", backbone="resnet1001"))


def test_to_native_is_bilinear_with_corners_on_corners() -> None:
    grid = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(grid[None, None], (65, 65), mode="bilinear", align_corners=True)[0, 0]
    canvas = torch.tensor([[65, 65], [40, 65], [65, 65], [1, 65]])
    native = torch.tensor([[65, 65], [40, 65], [33, 33], [1, 65]])  # the third: each second pixel
    batch = to_native(grid.expand(4, 1, 9, 9), canvas, native, (65, 65), 8)[:, 0]
    torch.testing.assert_close(batch[0], expected)
    torch.testing.assert_close(batch[1, :40], expected[:40])
    torch.testing.assert_close(batch[2, :33, :33], expected[::2, ::2])
    torch.testing.assert_close(batch[3, :1], expected[:1])
    assert batch[1, 40:].eq(0).all()
    assert batch[2, :, 33:].eq(0).all()


def test_digest_tells_networks_apart() -> None:
    torch.manual_seed(0)
    one: DeepLab = build(SMALL)
    other = build(SMALL)
    assert state_digest(one) == state_digest(one)
    assert state_digest(one) != state_digest(other)


def test_to_native_is_float32_under_autocast() -> None:
    grid, size = torch.randn(2, 3, 9, 9), torch.tensor([[65, 65], [60, 50]])
    with torch.autocast("cpu", torch.bfloat16):
        under = to_native(grid, size, size, (65, 65), 8)
    assert torch.equal(under, to_native(grid, size, size, (65, 65), 8))
