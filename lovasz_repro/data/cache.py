"""Images, masks and frozen features as memory-mapped arrays: each is decoded or computed once.

An image lies at the top left of a square canvas, shrunk when it is larger, never enlarged; the
rest of the canvas is void. A cache's folder is named by a hash of its inputs. One process builds it
under another name while others wait, and renames it when it is complete.
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

from lovasz_repro.data.integrity import Digests, check_sums, write_sums
from lovasz_repro.data.voc import CATEGORIES, VOC, VOID
from lovasz_repro.environment import cores
from lovasz_repro.errors import UserError
from lovasz_repro.files import about

OUTSIDE = 254
"""The label of pixels outside the image in a view: always void, even if `void_in_empty` turns void
into background."""
_FORMAT = "1"  # raise when the arrays below change their meaning


@dataclass(frozen=True)
class ImageCache:
    """N images on canvases of S × S pixels.

    ids: N names, sorted. images: (N, 3, S, S) uint8 RGB. masks: (N, S, S) uint8, void outside the
    image. sizes: (N, 2) height and width on the canvas. native_sizes: (N, 2) in the file.
    counts: (N, K + 1) pixels per label in the file's own mask. native_masks: the masks at the
    file's size, one after the other; image i's starts at offsets[i].
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
    def open(cls, voc: VOC, contents: Digests, size: int, root: Path) -> ImageCache:
        """The cache of the images of `contents`, built if it does not exist.

        Raises: UserError naming an image or mask that cannot be read, or a damaged array.
        """
        ids = sorted(contents)
        hashes = [contents[name] for name in ids]
        own = [] if voc.classes == CATEGORIES else [len(voc.classes)]  # `counts` depends on them
        folder = root / f"images-{size}-{_digest(_FORMAT, size, ids, hashes, *own)}"
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


def on_canvas(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) shrunk so that its longest side is `size`; a smaller image as it is."""
    height, width = image.shape[:2]
    shrink = min(1.0, size / max(height, width))
    shape = max(1, round(width * shrink)), max(1, round(height * shrink))
    # PIL's bilinear filter is antialiased when it shrinks.
    return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR))


def _decode(voc: VOC, ids: list[str], size: int, folder: Path) -> None:
    count = len(ids)
    images = _array(folder / "images.npy", np.uint8, (count, 3, size, size))
    masks = _array(folder / "masks.npy", np.uint8, (count, size, size))
    sizes = np.zeros((count, 2), np.int64)
    native_sizes = np.zeros((count, 2), np.int64)
    labels = len(voc.classes) + 1
    counts = np.zeros((count, labels), np.int64)

    def one(index: int) -> NDArray[np.uint8]:
        image, mask = voc.pair(ids[index])
        height, width = mask.shape
        small = on_canvas(image, size)
        h, w = small.shape[:2]
        native_sizes[index] = height, width
        sizes[index] = h, w
        counts[index] = np.bincount(mask.ravel(), minlength=256)[:labels]
        images[index, :, :h, :w] = small.transpose(2, 0, 1)
        masks[index] = VOID
        masks[index, :h, :w] = np.asarray(
            Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST)
        )
        return mask

    pool = ThreadPoolExecutor(cores())
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


Arrays = dict[str, NDArray[Any]]


def computed(
    images: ImageCache, what: Sequence[Any], count: int,
    compute: Callable[[NDArray[np.int64]], Arrays], batch: int,
) -> Arrays:  # fmt: skip
    """Arrays of `count` rows that a network computes, read from disk if they are stored.

    Args:
        what: what the rows depend on besides the images: weights, precision, crops.
        compute: maps indices (B,) to the rows (B, ...) of each array, by name.
        batch: rows per call.
    """
    folder = images.folder.with_name(f"features-{_digest(images.folder.name, count, *what)}")

    @torch.inference_mode()
    def fill(building: Path) -> None:
        arrays: dict[str, Any] = {}
        for start in track(range(0, count, batch), "Computing features"):
            index = np.arange(start, min(start + batch, count))
            for name, rows in compute(index).items():
                if name not in arrays:
                    path, shape = building / f"{name}.npy", (count, *rows.shape[1:])
                    arrays[name] = _array(path, rows.dtype, shape)
                arrays[name][index] = rows
        for array in arrays.values():
            array.flush()

    _build(folder, fill)
    return {path.stem: _load(path) for path in sorted(folder.glob("*.npy"))}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _build(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder with `fill`, unless it exists. It gets its name only when it is complete.

    Raises: UserError naming a damaged file in an existing folder; only a sample is checked.
    """
    if folder.exists():
        check_sums(folder)
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
            write_sums(building, folder.name)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    """A new memory-mapped array, with its disk space allocated at once.

    Otherwise a later write to a full disk raises SIGBUS, which kills the process.
    """
    array = open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _load(path: Path) -> Any:
    """A memory-mapped array, or all arrays of an .npz by name.

    Raises: UserError naming a file that is missing, truncated or not an array.
    """
    try:
        loaded: Any = np.load(path, mmap_mode="r")
        return dict(loaded) if path.suffix == ".npz" else loaded
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); delete {path.parent} to have it made again"
        ) from error
