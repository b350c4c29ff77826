"""Reading Pascal VOC from its own files: lists of ids, images, label masks; and checking a root.

A root is the folder that holds ``VOCdevkit/VOC2012``, or the ``VOC2012`` folder itself. Nothing is
kept in memory. A file that does not fit VOC's layout raises a
:class:`~lovasz_repro.errors.UserError` that names it.
"""

import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lovasz_repro.environment import cores
from lovasz_repro.errors import UserError
from lovasz_repro.words import count

# The default of data.classes, in VOC's order. A category's label is its position + 1; background
# is 0.
CATEGORIES: tuple[str, ...] = (
    "aeroplane", "bicycle", "bird", "boat", "bottle",
    "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person",
    "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOID = 255
VOC_FOLDER = Path("VOCdevkit") / "VOC2012"
SHAPES_MARKER = "SHAPES.json"

UInt8Array = npt.NDArray[np.uint8]


class VOC:
    """A VOC 2012 data set on disk.

    Args:
        root: the folder that holds ``VOCdevkit/VOC2012``, or the ``VOC2012`` folder itself.
        classes: names of the labels 1, 2, ... in its masks.

    Raises:
        UserError: there is no such data set under ``root``.
    """

    def __init__(self, root: Path, classes: Sequence[str] = CATEGORIES) -> None:
        self.classes = tuple(classes)
        if len(set(classes)) < len(classes):
            raise UserError(f"classes: a name is there twice in {', '.join(classes)}")
        folder = find_voc(root)
        if folder is None:
            raise UserError(
                f"No VOC 2012 data set in {root}: neither {root / VOC_FOLDER / 'JPEGImages'} nor "
                f"{root / 'JPEGImages'} exists. `lovasz-repro data fetch --root {root}` downloads "
                f"VOC 2012 trainval and SBD; `lovasz-repro data shapes --root {root}` generates "
                "a small data set of shapes in the same layout."
            )
        self.folder = folder
        self.lists_folder = self.folder / "ImageSets" / "Segmentation"

    @property
    def generated(self) -> bool:
        """Whether these are generated shapes, see :mod:`lovasz_repro.data.shapes`."""
        return (self.folder / SHAPES_MARKER).is_file()

    def list_names(self) -> list[str]:
        """Names of all lists, sorted: ``train``, ``val``, ``fold0_train``, ..."""
        paths = self.lists_folder.glob("[!.]*.txt")  # a killed process may leave hidden files
        return sorted(path.stem for path in paths)

    def ids(self, list_name: str) -> list[str]:
        """The image ids of a list, in the order of its file."""
        path = self.lists_folder / f"{list_name}.txt"
        if not path.is_file():
            there_are = ", ".join(self.list_names()) or "none"
            raise UserError(f"{path}: no such list. Lists there are: {there_are}.")
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        ids = [line.strip() for line in lines if line.strip()]
        if not ids:
            raise UserError(f"{path}: the list is empty; it must hold one image id a line.")
        seen: set[str] = set()
        for image_id in ids:
            if not re.fullmatch(r"[\w-]+", image_id, re.ASCII):
                raise UserError(f"{path}: {image_id!r} is not an image id; one id a line, alone.")
            if image_id in seen:
                raise UserError(f"{path}: {image_id} is listed twice.")
            seen.add(image_id)
        return ids

    def image_path(self, image_id: str) -> Path:
        """Where the image is, or should be."""
        return self.folder / "JPEGImages" / f"{image_id}.jpg"

    def mask_path(self, image_id: str) -> Path:
        """Where the mask is: ``SegmentationClassAug`` if it is there, or ``SegmentationClass``."""
        name = f"{image_id}.png"
        augmented = self.folder / "SegmentationClassAug" / name
        return augmented if augmented.is_file() else self.folder / "SegmentationClass" / name

    def image(self, image_id: str) -> UInt8Array:
        """The image as RGB, ``(H, W, 3)`` uint8, as stored: an EXIF rotation is not applied,
        because the masks were drawn without it."""
        path = self.image_path(image_id)
        decoded = _decode(path)
        if wrong := too_deep(decoded):
            raise UserError(f"{path}: {wrong}")
        return np.array(decoded.convert("RGB"))

    def mask(self, image_id: str) -> UInt8Array:
        """The label mask, ``(H, W)`` uint8: 0 background, 1 to K classes, 255 void."""
        path = self.mask_path(image_id)
        decoded = _decode(path)
        if decoded.mode not in ("P", "L"):
            raise UserError(
                f"{path}: the mask is stored as {decoded.mode}; "
                "it must be a palette or 8-bit greyscale PNG whose pixel values are labels."
            )
        labels = np.array(decoded)
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=VOID + 1))
        count = len(self.classes)
        wrong = [int(label) for label in present if count < label < VOID]
        if wrong:
            raise UserError(
                f"{path}: label {', '.join(map(str, wrong))} in the mask; "
                f"labels are 0 to {count} ({self.classes[-1]}), and {VOID} for void. Other classes "
                "than these are named in data.classes."
            )
        return labels

    def pair(self, image_id: str) -> tuple[UInt8Array, UInt8Array]:
        """Image ``(H, W, 3)`` and mask ``(H, W)``, of the same size or a UserError."""
        self.check_sizes(image_id)
        return self.image(image_id), self.mask(image_id)

    def check_sizes(self, image_id: str) -> None:
        """Raise a UserError that names the mask unless image and mask are of the same size.

        Only the headers are read, so that a huge mask is refused at no cost.
        """
        size, mask_size = _size(self.image_path(image_id)), _size(self.mask_path(image_id))
        if size and mask_size and size != mask_size:
            (width, height), (mask_width, mask_height) = size, mask_size
            raise UserError(
                f"{self.mask_path(image_id)}: the mask is {mask_width}x{mask_height}, "
                f"its image {self.image_path(image_id).name} is {width}x{height}."
            )


def find_voc(root: Path) -> Path | None:
    """The ``VOC2012`` folder in ``root``, or ``root`` itself if it is one; else None."""
    folders = (root / VOC_FOLDER, root)
    return next((folder for folder in folders if (folder / "JPEGImages").is_dir()), None)


# Treat PIL's warning (above 89 megapixels) as an error; PIL itself fails only at twice that.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file with its header read. Raises: UserError naming it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            raise UserError(f"{path}: not a regular file.")
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{path}: the file is missing.") from error
    except (
        OSError, SyntaxError, ValueError, Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:  # fmt: skip
        raise UserError(f"{path}: cannot be decoded ({error}); copy or fetch it anew.") from error


def too_deep(image: Image.Image) -> str:
    """The error for an image of more than 8 bits a channel, which Pillow would clip; else ""."""
    if image.mode[0] in "IF":
        return f"the image is stored as {image.mode}; it must have 8 bits a channel"
    return ""


def _decode(path: Path) -> Image.Image:
    """Decode the whole file, so that a truncated one raises here."""
    with _opened(path) as image:
        image.load()
        return image


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height by the file's header; None if it cannot be read."""
    try:
        with _opened(path) as image:
            return image.size
    except UserError:
        return None


@cache
def voc_palette() -> list[int]:
    """VOC's 256 colours as a flat list r, g, b, r, ..., as in the VOC development kit: a label's
    bits go to r, g, b in turn, its lowest bits to the highest of the colour."""
    return [
        sum(((label >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for label in range(256)
        for channel in range(3)
    ]


def save_mask(path: Path, labels: UInt8Array) -> None:
    """Write ``(H, W)`` labels as a PNG in VOC's palette."""
    image = Image.fromarray(labels)
    image.putpalette(voc_palette())
    image.save(path)


def check(
    root: Path, console: Console | None = None, classes: Sequence[str] = CATEGORIES
) -> list[str]:
    """Check every file that a list of the data set names, and print images per category and list.

    Args:
        root, classes: see :class:`VOC`.
        console: where the table, the problems and a progress bar go; standard output by default.

    Returns:
        One line per problem, naming the file.

    Raises:
        UserError: there is no data set under ``root``.
    """
    console = console or Console()
    voc = VOC(root, classes)
    lists, problems = _read_lists(voc)
    ids = sorted(set().union(*lists.values()))
    labels: dict[str, frozenset[int]] = {}
    with ThreadPoolExecutor(cores()) as pool:
        inspected = pool.map(partial(_inspect, voc), ids)
        bar = track(inspected, "Checking", total=len(ids), console=console)
        for image_id, (found, wrong) in zip(ids, bar, strict=True):
            labels[image_id] = found
            listed_in = ", ".join(name for name in lists if image_id in lists[name])
            problems += [f"{line} (listed in {listed_in})" for line in wrong]
    console.print(_table(lists, labels, voc.classes))
    if labels and not problems and not any(labels.values()):
        problems.append(
            f"{voc.folder}: no listed mask holds a class: 0 is background, 255 void, and classes "
            "are 1, 2, ... (a foreground of 255 becomes 1 by `mask // 255`)"
        )
    for line in problems:
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    state = count(len(problems), "problem") if problems else "all is well"
    console.print(f"{voc.folder}: {len(ids)} images, {state}.", markup=False, soft_wrap=True)
    return problems


def _inspect(voc: VOC, image_id: str) -> tuple[frozenset[int], list[str]]:
    """The labels in an image's mask, and the problems of both files."""
    problems: list[str] = []
    labels: frozenset[int] = frozenset()
    try:
        voc.image(image_id)
    except UserError as error:
        problems.append(str(error))
    try:
        voc.check_sizes(image_id)
        labels = labels_in(voc.mask(image_id))
    except UserError as error:
        problems.append(str(error))
    return labels, problems


def _read_lists(voc: VOC) -> tuple[dict[str, set[str]], list[str]]:
    """All lists that can be read, and what is wrong with lists."""
    lists: dict[str, set[str]] = {}
    problems: list[str] = []
    for name in voc.list_names():
        try:
            lists[name] = set(voc.ids(name))
        except UserError as error:
            problems.append(str(error))
    if not lists and not problems:
        problems.append(f"{voc.lists_folder}: there is no list (a .txt file with ids) in it.")
    for name in lists:
        val_name = re.sub(r"train(aug)?$", "val", name)
        if val_name != name and val_name in lists:
            problems += [
                f"{voc.lists_folder / name}.txt: {image_id} is also in {val_name}.txt; "
                "remove it from one of the two."
                for image_id in sorted(lists[name] & lists[val_name])
            ]
    return lists, problems


def _table(
    lists: dict[str, set[str]], labels: dict[str, frozenset[int]], classes: Sequence[str]
) -> Table:
    """Images per category (rows) and list (columns), narrow enough for 80 characters."""
    table = Table("images with", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in lists:
        table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    for label, category in enumerate(classes, start=1):
        counts = [sum(label in labels[image_id] for image_id in ids) for ids in lists.values()]
        table.add_row(category, *map(str, counts))
    table.add_section()
    table.add_row("all images", *(str(len(ids)) for ids in lists.values()))
    return table


def labels_in(mask: UInt8Array) -> frozenset[int]:
    """The classes' labels that occur in a mask, without background and void."""
    counts = np.bincount(mask.ravel(), minlength=VOID)
    return frozenset(np.flatnonzero(counts[1:VOID]) + 1)
