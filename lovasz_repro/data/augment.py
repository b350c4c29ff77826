"""Random scale, flip and crop of a whole batch at once, on the device that the batch is on.

Resizing is linear and separable: an output row is a weighted mean of input rows, an output column
of input columns. One matrix per image and axis does scale, crop, flip and padding together,
`rows @ image @ columnsᵀ`. No loop over images is needed, and no shape depends on the draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lovasz_repro.data.voc import VOID


def normalise(images: Tensor, sizes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Canvases (B, 3, S, S) uint8 as network input: (x / 255 − mean) / std, 0 outside the image.

    sizes: (B, 2) height and width on the canvas. mean, std: (3,).
    """
    position = torch.arange(images.shape[-1], device=images.device)
    inside_y = position < sizes[:, :1]  # (B, S)
    inside_x = position < sizes[:, 1:]
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]  # (B, 1, S, S)
    shape = (1, 3, 1, 1)
    # In place: on a CPU fresh memory costs more than the arithmetic.
    scaled = images.float().mul_((1 / (255 * std)).view(shape)).sub_((mean / std).view(shape))
    return scaled.masked_fill_(~inside, 0)


def crop(
    images: Tensor,
    masks: Tensor,
    sizes: Tensor,
    scale: Tensor,
    flip: Tensor,
    offset: Tensor,
    size: int,
    outside: int = VOID,
) -> tuple[Tensor, Tensor]:
    """Scale each image, cut a `size` × `size` window, mirror it; pad image with 0, mask with
    `outside`.

    Equal to torchvision's `resize` (bilinear and antialiased; mask nearest-exact), `crop` and
    `hflip` of each image, up to rounding.

    Args:
        images: (B, 3, S, S) float, 0 outside the image. masks: (B, S, S) uint8.
        sizes: (B, 2) height and width on the canvas.
        scale: (B,). flip: (B,) bool. offset: (B, 2) in [0, 1).

    Returns: images (B, 3, size, size) and masks (B, size, size).
    """
    rows, from_rows, in_rows = _axis(sizes[:, 0], scale, offset[:, 0], size, images.shape[-2])
    cols, from_cols, in_cols = _axis(sizes[:, 1], scale, offset[:, 1], size, images.shape[-1])
    mirror = flip[:, None]
    cols = torch.where(mirror[..., None], cols.flip(1), cols)
    from_cols = torch.where(mirror, from_cols.flip(1), from_cols)
    in_cols = torch.where(mirror, in_cols.flip(1), in_cols)
    cropped = rows[:, None] @ images @ cols.mT[:, None]  # (B, 3, size, size)
    batch = torch.arange(len(masks), device=masks.device)[:, None, None]
    labels = masks[batch, from_rows[:, :, None], from_cols[:, None, :]]  # (B, size, size)
    inside = in_rows[:, :, None] & in_cols[:, None, :]
    return cropped, labels.masked_fill(~inside, outside)


def _axis(
    length: Tensor, scale: Tensor, offset: Tensor, size: int, canvas: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One axis: weights (B, size, canvas), nearest source (B, size), inside the image (B, size)."""
    device = length.device
    resized = (length * scale).round().clamp(min=1)
    first = (offset * ((resized - size).clamp(min=0) + 1)).floor()
    place = first[:, None] + torch.arange(size, device=device)  # (B, size)
    inside = place < resized[:, None]
    step = (length / resized)[:, None]  # source pixels per output pixel
    centre = (place + 0.5) * step
    source = torch.arange(canvas, device=device) + 0.5
    # The antialiased bilinear filter: a triangle that reaches one output pixel if it shrinks.
    reach = step.clamp(min=1)[..., None].float()
    distance = (source - centre[..., None]).float()  # large numbers are subtracted in float64
    weight = distance.abs_().div_(reach).neg_().add_(1).clamp_(min=0)
    weight *= (source < length[:, None, None]) & inside[..., None]
    weight /= weight.sum(-1, keepdim=True).clamp(min=1e-12)
    nearest = centre.floor().long().clamp(min=0)
    return weight, torch.minimum(nearest, length[:, None] - 1), inside
