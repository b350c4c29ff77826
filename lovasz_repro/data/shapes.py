"""A small generated data set in VOC layout: textured, overlapping shapes with void borders.

It replaces VOC where VOC is not available, and lets the whole pipeline run in minutes. Six shapes
take the names of six VOC categories. The outline determines the category; texture and colour mostly
match it. Other shapes, of any colour, belong to the background, so that a small network gets only
part of it right. It is no benchmark: a marker file says that it is generated.
"""

import colorsys
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.progress import track
from scipy.ndimage import maximum_filter

from lovasz_repro.data.folds import write_folds
from lovasz_repro.data.voc import (
    CATEGORIES,
    SHAPES_MARKER,
    VOC,
    VOC_FOLDER,
    VOID,
    UInt8Array,
    save_mask,
)
from lovasz_repro.errors import UserError

FloatArray = npt.NDArray[np.float64]
Distance = Callable[[FloatArray, FloatArray], FloatArray]

VOID_HALF_WIDTH = 1.25  # pixels of void to either side of an outline
MIN_VISIBLE = 0.3  # a shape with a smaller visible share is void


def _disc(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.hypot(x, y) - 0.8


def _box(x: FloatArray, y: FloatArray, width: float, height: float) -> FloatArray:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _ring(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.abs(np.hypot(x, y) - 0.68) - 0.24


def _polygon(x: FloatArray, y: FloatArray, corners: int, inner_radius: float) -> FloatArray:
    """Signed distance to a regular polygon: the plane is folded onto one of its sides."""
    sector = 2 * np.pi / corners
    angle = (np.arctan2(y, x) + sector / 2) % sector - sector / 2
    return np.hypot(x, y) * np.cos(angle) - inner_radius


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.minimum(_box(x, y, 0.95, 0.27), _box(x, y, 0.27, 0.95))


def _crescent(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.maximum(np.hypot(x, y) - 0.8, 0.65 - np.hypot(x - 0.45, y))


# Signed distances, negative inside, in units of the shape's radius.
SHAPES: dict[str, Distance] = {
    "aeroplane": lambda x, y: _polygon(x, y, 3, 0.52),
    "bird": _disc,
    "bottle": lambda x, y: _box(x, y, 0.98, 0.3),
    "car": lambda x, y: _box(x, y, 0.7, 0.7),
    "cat": _ring,
    "chair": _cross,
}
DISTRACTORS: tuple[Distance, ...] = (_crescent, lambda x, y: _polygon(x, y, 6, 0.75))


def generate(
    root: Path, *, train: int = 200, val: int = 80, size: tuple[int, int] = (97, 160), seed: int = 0
) -> None:
    """Write a data set of shapes under ``root``, in VOC 2012's layout.

    What image *i* of a split shows depends on ``(seed, split, i)`` alone. The same call again does
    nothing; a call that was interrupted starts over.

    Args:
        root: the folder that is to hold ``VOCdevkit/VOC2012``.
        train: number of training images.
        val: number of val images, divided into two folds.
        size: smallest and largest height or width of an image in pixels.
        seed: seed of everything drawn.

    Raises:
        UserError: ``root`` holds another data set, or a number is out of range.
    """
    if train < 1 or val < 2 or not 32 <= size[0] <= size[1] or seed < 0:
        raise UserError(
            f"Shapes: train={train}, val={val}, size={size}, seed={seed} cannot be drawn: train "
            "must be at least 1, val at least 2, size two numbers from 32 up in order, seed 0 or "
            "more."
        )
    parameters = {"train": train, "val": val, "size": list(size), "seed": seed}
    folder = root / VOC_FOLDER
    if folder.exists():
        _require_same(folder, parameters)
        return
    # Built aside and renamed: no half-written folder is ever taken for a data set.
    partial = folder.with_name(".VOC2012-partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (partial / name).mkdir(parents=True)
    tasks = [("train", index) for index in range(train)] + [("val", index) for index in range(val)]
    for split, index in track(tasks, description="Drawing shapes"):
        image, mask = draw(split, index, size=size, seed=seed)
        name = f"{split}_{index:06d}"
        Image.fromarray(image).save(partial / "JPEGImages" / f"{name}.jpg", quality=92)
        save_mask(partial / "SegmentationClass" / f"{name}.png", mask)
    for split, count in (("train", train), ("val", val)):
        lines = "".join(f"{split}_{index:06d}\n" for index in range(count))
        (partial / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(lines)
    write_folds(VOC(partial), train_list="train")
    (partial / SHAPES_MARKER).write_text(json.dumps(parameters, indent=2) + "\n")
    partial.rename(folder)


def _require_same(folder: Path, parameters: dict[str, object]) -> None:
    marker = folder / SHAPES_MARKER
    if not marker.is_file():
        raise UserError(
            f"{folder} exists and is not generated ({SHAPES_MARKER} is missing); "
            "give the shapes another --root."
        )
    there = json.loads(marker.read_text())
    if there != parameters:
        raise UserError(
            f"{marker}: shapes were generated there with {there}, asked for are {parameters}; "
            "give another --root, or delete that folder first."
        )


def draw(
    split: str, index: int, *, size: tuple[int, int] = (97, 160), seed: int = 0
) -> tuple[UInt8Array, UInt8Array]:
    """Draw one image.

    Returns:
        The image ``(H, W, 3)`` and its label mask ``(H, W)``, both uint8.
    """
    rng = np.random.default_rng([seed, ("train", "val").index(split), index])
    height, width = (int(side) for side in rng.integers(size[0], size[1] + 1, 2))
    canvas = _background(rng, height, width)  # (H, W, 3)
    names: list[str | None] = [None] * int(rng.integers(0, 3))
    names += list(rng.choice(list(SHAPES), int(rng.integers(1, 4))))
    rng.shuffle(names)
    distances = [_paint(rng, canvas, name) for name in names]
    canvas += rng.normal(0, 0.03, canvas.shape)
    image = (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)
    return image, _label(names, distances)


def _label(names: Sequence[str | None], distances: Sequence[FloatArray]) -> UInt8Array:
    """The mask ``(H, W)`` of shapes painted in this order, from their signed distances."""
    on_top = np.full(distances[0].shape, -1)  # (H, W), which shape is seen
    outline = np.zeros(distances[0].shape, bool)
    for number, distance in enumerate(distances):
        outline &= distance > 0
        outline |= np.abs(distance) <= VOID_HALF_WIDTH
        on_top[distance <= 0] = number
    mask = np.zeros(on_top.shape, np.uint8)
    for number, name in enumerate(names):
        seen = on_top == number
        # What is left of a mostly hidden shape cannot be recognised by its outline: void.
        hidden = seen.sum() < MIN_VISIBLE * (distances[number] <= 0).sum()
        if name:
            mask[seen] = VOID if hidden else CATEGORIES.index(name) + 1
    # No void around shapes without a category: they are background, too.
    touches_category = maximum_filter(mask, size=2 * math.ceil(VOID_HALF_WIDTH) + 1) > 0
    mask[outline & touches_category] = VOID
    return mask


def _paint(rng: np.random.Generator, canvas: FloatArray, name: str | None) -> FloatArray:
    """Paint one shape of category ``name`` (None: of no category) onto the canvas ``(H, W, 3)``.

    Returns the signed distance ``(H, W)`` in pixels to its outline, negative inside.
    """
    height, width, _ = canvas.shape
    radius = min(height, width) * np.exp(rng.uniform(np.log(0.12), np.log(0.45)))
    centre_x, centre_y = rng.uniform(0.1, 0.9, 2) * (width, height)
    turn = rng.uniform(0, 2 * np.pi)
    stretch = np.exp(rng.normal(0, 0.08))
    rows, columns = np.ogrid[:height, :width]
    dx, dy = (columns + 0.5 - centre_x) / radius, (rows + 0.5 - centre_y) / radius
    x = (np.cos(turn) * dx + np.sin(turn) * dy) * stretch
    y = (np.cos(turn) * dy - np.sin(turn) * dx) / stretch
    outline = SHAPES[name] if name else DISTRACTORS[rng.integers(len(DISTRACTORS))]
    distance: FloatArray = outline(x, y) * radius  # (H, W)
    shadow = 0.45 * np.exp(-np.maximum(outline(x - 0.08, y - 0.08) * radius, 0) / 3)
    canvas *= 1 - np.where(distance > 0, shadow, 0)[..., None]
    inside = np.clip(0.5 - distance, 0, 1)[..., None]  # (H, W, 1), soft at the outline
    canvas += inside * (_surface(rng, dx * radius, dy * radius, radius, name) - canvas)
    return distance


def _surface(
    rng: np.random.Generator, x: FloatArray, y: FloatArray, radius: float, name: str | None
) -> FloatArray:
    """Colour, texture and shading of a shape, ``(H, W, 3)``, leaning towards its category."""
    kind = list(SHAPES).index(name) if name else rng.uniform(0, len(SHAPES))
    light, dark = _two_colours(rng, hue=kind / len(SHAPES) + rng.normal(0, 0.045))
    texture = int(kind) % 4 if rng.random() < 0.8 else int(rng.integers(4))
    frequency = 2 * np.pi / rng.uniform(5, 10)
    turn = rng.uniform(0, np.pi)
    along = (np.cos(turn) * x + np.sin(turn) * y) * frequency  # (H, W)
    across = (np.cos(turn) * y - np.sin(turn) * x) * frequency  # (H, W)
    if texture == 0:  # stripes
        pattern = np.sin(along)
    elif texture == 1:  # checks
        pattern = 1.4 * np.sin(along) * np.sin(across)
    elif texture == 2:  # dots
        pattern = 2 * np.maximum(np.cos(along) + np.cos(across) - 0.6, 0) - 1
    else:  # mottled
        pattern = 2 * _noise(rng, along.shape, cells=12) - 1
    weight = (np.clip(pattern * 1.5, -1, 1)[..., None] + 1) / 2  # (H, W, 1)
    shading = 1 + 0.2 * np.clip(-(x + y) / radius, -1, 1)[..., None]  # (H, W, 1)
    surface: FloatArray = (light * weight + dark * (1 - weight)) * shading
    return surface


def _two_colours(rng: np.random.Generator, hue: float) -> tuple[FloatArray, FloatArray]:
    saturation, value = rng.uniform(0.35, 0.8), rng.uniform(0.6, 0.95)
    light = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    dark = colorsys.hsv_to_rgb((hue + rng.normal(0, 0.05)) % 1, saturation, value * 0.6)
    return np.array(light), np.array(dark)


def _background(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Two pale colours mixed by smooth noise, with a finer grain, ``(H, W, 3)``."""
    first, second = (
        np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        for hue, saturation, value in rng.uniform((0, 0.1, 0.3), (1, 0.5, 0.9), (2, 3))
    )
    mix = _noise(rng, (height, width), cells=4)[..., None]  # (H, W, 1)
    grain = _noise(rng, (height, width), cells=24)[..., None] - 0.5  # (H, W, 1)
    return first * mix + second * (1 - mix) + 0.12 * grain


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> FloatArray:
    """Smooth noise in 0..1 with ``cells`` random values a side, ``(H, W)``."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    height, width = shape
    fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(fine, np.float64), 0, 1)
