"""The batched crop against torchvision, image by image."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from lovasz_repro.data.augment import crop, normalise
from lovasz_repro.data.voc import VOID

S, SIZE = 65, 49


def batch(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(20, S + 1, (count, 2), generator=generator)
    images = torch.zeros(count, 3, S, S)
    masks = torch.full((count, S, S), VOID, dtype=torch.uint8)
    for i, (height, width) in enumerate(sizes.tolist()):
        images[i, :, :height, :width] = torch.randn(3, height, width, generator=generator)
        masks[i, :height, :width] = torch.randint(
            0, 3, (height, width), generator=generator, dtype=torch.uint8
        )
    return images, masks, sizes


def reference(
    image: Tensor, mask: Tensor, size: list[int], scale: float, flip: bool, offset: list[float]
) -> tuple[Tensor, Tensor]:
    image, mask = image[:, : size[0], : size[1]], mask[: size[0], : size[1]]
    new = [max(1, round(length * scale)) for length in size]
    image = tv.resize(image, new, tv.InterpolationMode.BILINEAR, antialias=True)
    mask = tv.resize(mask[None], new, tv.InterpolationMode.NEAREST_EXACT)[0]
    right, below = (max(SIZE - length, 0) for length in (new[1], new[0]))
    image = tv.pad(image, [0, 0, right, below], fill=0)
    mask = tv.pad(mask[None], [0, 0, right, below], fill=VOID)[0]
    top, left = (
        int(o * (max(length - SIZE, 0) + 1)) for o, length in zip(offset, new, strict=True)
    )
    image, mask = (
        image[:, top : top + SIZE, left : left + SIZE],
        mask[top : top + SIZE, left : left + SIZE],
    )
    return (image.flip(-1), mask.flip(-1)) if flip else (image, mask)


@pytest.mark.parametrize("scale", [0.5, 0.77, 1.0, 1.31, 1.5])
def test_as_torchvision_image_by_image(scale: float) -> None:
    images, masks, sizes = batch()
    flip = torch.arange(len(images)) % 2 == 0
    offset = torch.rand(len(images), 2, generator=torch.Generator().manual_seed(1)).double()
    scales = torch.full((len(images),), scale, dtype=torch.float64)
    got_images, got_masks = crop(images, masks, sizes, scales, flip, offset, SIZE)
    for i in range(len(images)):
        image, mask = reference(
            images[i], masks[i], sizes[i].tolist(), scale, bool(flip[i]), offset[i].tolist()
        )
        torch.testing.assert_close(got_images[i], image, atol=2e-5, rtol=1e-5)
        assert torch.equal(got_masks[i], mask)


def test_outside_the_image_is_zero_and_the_mean_is_taken_off_inside() -> None:
    images = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    got = normalise(images, torch.tensor([[2, 3]]), torch.full((3,), 0.5), torch.full((3,), 0.25))
    assert got[0, 0].tolist() == [[2, 2, 2, 0], [2, 2, 2, 0], [0] * 4, [0] * 4]
