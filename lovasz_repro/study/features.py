"""The output of a network's frozen part for images and fixed views of them, computed once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lovasz_repro.config import Data, Runtime
from lovasz_repro.data.augment import crop
from lovasz_repro.data.binary import fixed_views
from lovasz_repro.data.cache import OUTSIDE, computed
from lovasz_repro.data.reading import Source
from lovasz_repro.environment import cores
from lovasz_repro.training.loop import autocast


def with_features(
    source: Source, frozen: nn.Module, digest: str, data: Data, runtime: Runtime,
    device: torch.device,
) -> Source:  # fmt: skip
    """`source` with the output of `frozen` for every image and, if `data.views` is set, view.

    Args:
        frozen: in eval mode, on `device`. digest: of its weights.
    """
    cache = source.cache
    what = [digest, source.stride, runtime.precision]
    batch = 2  # few images at once stay in a CPU's caches
    if device.type == "cuda":
        what.append("cuda")  # its features have other last digits
        batch = 64

    def forward(images: Tensor) -> NDArray[np.float16]:
        with autocast(runtime, device):
            maps: Tensor = frozen(images.contiguous(memory_format=torch.channels_last))
        # Contiguous: strided rows would be read one number at a time.
        array: NDArray[np.float16] = maps.to("cpu", torch.float16).contiguous().numpy()
        return array

    def there(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    def whole(index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {"features": forward(source.canvases(index, device))}

    def view(rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        index = rows // data.views
        draws = fixed_views(index, rows % data.views, data.scale, data.flip)
        images, labels = crop(
            source.canvases(index, device), there(cache.masks[index]), there(cache.sizes[index]),
            there(draws.scale), there(draws.flip), there(draws.offset), data.crop_size, OUTSIDE,
        )  # fmt: skip
        labels = labels[:, :: source.stride, :: source.stride]
        return {"features": forward(images), "labels": labels.cpu().numpy()}

    count = len(cache.ids)
    threads = torch.get_num_threads()
    torch.set_num_threads(cores())  # no other process works while this one does
    try:
        source = replace(source, features=computed(cache, what, count, whole, batch)["features"])
        if not data.views:
            return source
        what += ["views", data.views, data.crop_size, *data.scale, data.flip]
        arrays = computed(cache, what, count * data.views, view, batch)
    finally:
        torch.set_num_threads(threads)
    return replace(
        source, views=data.views, view_features=arrays["features"],
        view_labels=arrays["labels"],
    )  # fmt: skip
