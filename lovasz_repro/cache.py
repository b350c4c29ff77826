"""Images, masks and frozen features as memory-mapped arrays: each is decoded or computed once.

An image lies at the top left of a square canvas, shrunk when it is larger, never enlarged; the
rest of the canvas is void. A cache's folder is named by a hash of what went in, built under another
name by one process while others wait, and renamed when complete: what is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from lovasz_repro.errors import UserError
from lovasz_repro.records import about
from lovasz_repro.voc import VOC, VOID

LABELS = 21
_FORMAT = "1"  # raise when the arrays below change their meaning


@dataclass(frozen=True)
class ImageCache:
    """N images on canvases of S × S pixels.

    ids: N names, sorted. images: (N, 3, S, S) uint8 RGB. masks: (N, S, S) uint8, void outside the
    image. sizes: (N, 2) height and width on the canvas. native_sizes: (N, 2) in the file.
    counts: (N, 21) pixels per label in the file's own mask. native_masks: the masks at the file's
    size, one after the other; image i's starts at offsets[i].
    """

    folder: Path
    ids: list[str]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    native_sizes: NDArray[np.int64]
    counts: NDArray[np.int64]
    native_masks: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def open(cls, voc: VOC, ids: Sequence[str], size: int, root: Path) -> ImageCache:
        """The cache of these images, built now if it is not there.

        Raises: UserError naming the file that cannot be read.
        """
        ids = sorted(set(ids))
        # A file's length stands for its content: a re-encoded image or another mask shows in it.
        lengths = [
            [path.stat().st_size if path.is_file() else -1 for path in (image, mask)]
            for image, mask in ((voc.image_path(name), voc.mask_path(name)) for name in ids)
        ]
        folder = root / f"images-{size}-{_digest(_FORMAT, size, ids, lengths)}"
        _build(folder, lambda building: _decode(voc, ids, size, building))
        return cls(
            folder=folder,
            ids=ids,
            images=_load(folder / "images.npy"),
            masks=_load(folder / "masks.npy"),
            native_masks=_load(folder / "native_masks.npy"),
            **_load(folder / "small.npz"),
        )

    def indices(self, ids: Sequence[str]) -> NDArray[np.int64]:
        position = {name: i for i, name in enumerate(self.ids)}
        return np.array([position[name] for name in ids], dtype=np.int64)

    def native_mask(self, index: int) -> NDArray[np.uint8]:
        """(H, W) uint8 labels at the file's own size."""
        height, width = self.native_sizes[index]
        start = self.offsets[index]
        return self.native_masks[start : start + height * width].reshape(height, width)


def _decode(voc: VOC, ids: list[str], size: int, folder: Path) -> None:
    count = len(ids)
    images = _array(folder / "images.npy", np.uint8, (count, 3, size, size))
    masks = _array(folder / "masks.npy", np.uint8, (count, size, size))
    sizes = np.zeros((count, 2), np.int64)
    native_sizes = np.zeros((count, 2), np.int64)
    counts = np.zeros((count, LABELS), np.int64)

    def one(index: int) -> NDArray[np.uint8]:
        image, mask = voc.pair(ids[index])
        height, width = mask.shape
        shrink = min(1.0, size / max(height, width))
        h, w = max(1, round(height * shrink)), max(1, round(width * shrink))
        native_sizes[index] = height, width
        sizes[index] = h, w
        counts[index] = np.bincount(mask.ravel(), minlength=256)[:LABELS]
        # PIL's bilinear filter is antialiased when it shrinks.
        small = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
        images[index, :, :h, :w] = small.transpose(2, 0, 1)
        masks[index] = VOID
        masks[index, :h, :w] = np.asarray(
            Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST)
        )
        return mask

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        decoded = track(pool.map(one, range(count)), "Decoding images", total=count)
        offsets = np.zeros(count + 1, np.int64)
        with (folder / "native.bin").open("wb") as file:
            for index, mask in enumerate(decoded):
                offsets[index + 1] = offsets[index] + mask.size
                file.write(mask.tobytes())
    finally:
        pool.shutdown(cancel_futures=True)
    native = _array(folder / "native_masks.npy", np.uint8, (int(offsets[-1]),))
    native[:] = np.memmap(folder / "native.bin", np.uint8, "r")
    (folder / "native.bin").unlink()
    for array in (images, masks, native):
        array.flush()
    np.savez(
        folder / "small.npz",
        sizes=sizes,
        native_sizes=native_sizes,
        counts=counts,
        offsets=offsets,
    )


def feature_cache(
    images: ImageCache,
    weights_digest: str,
    backbone: Callable[[Tensor], Tensor],
    load: Callable[[NDArray[np.int64]], Tensor],
    batch: int = 2,
) -> NDArray[np.float16]:
    """(N, C, h, w) float16 features of every canvas, computed now if they are not there.

    Args:
        weights_digest: what tells this backbone's weights from others'.
        backbone: (B, 3, S, S) -> (B, C, h, w).
        load: the normalised canvases of some indices, (B, 3, S, S), on the backbone's device.
        batch: images at once; few, so that their maps stay in a CPU's caches.
    """
    folder = images.folder.with_name(f"features-{_digest(images.folder.name, weights_digest)}")

    @torch.inference_mode()
    def compute(building: Path) -> None:
        features: Any = None
        count = len(images.ids)
        for start in track(range(0, count, batch), "Computing features"):
            index = np.arange(start, min(start + batch, count))
            values = backbone(load(index)).to("cpu", torch.float16).numpy()
            if features is None:
                shape = (count, *values.shape[1:])
                features = _array(building / "features.npy", np.float16, shape)
            features[index] = values
        features.flush()

    _build(folder, compute)
    loaded: NDArray[np.float16] = _load(folder / "features.npy")
    return loaded


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _build(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a folder that is not there; it takes its name only when that went well."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f"{folder.name}.part")
    with about(folder), FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.exists():  # another process made it meanwhile
            return
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
        building.mkdir()
        try:
            fill(building)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    """A new memory-mapped array whose room on the disk is taken at once.

    Without that a full disk would show at a write into memory, as SIGBUS, which kills the process.
    """
    array = open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _load(path: Path) -> Any:
    """An array memory-mapped, or all arrays of an .npz by their names.

    Raises: UserError naming the file where it is missing, truncated or not an array's.
    """
    try:
        loaded: Any = np.load(path, mmap_mode="r")
        return dict(loaded) if path.suffix == ".npz" else loaded
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); delete {path.parent} to have it made again"
        ) from error
