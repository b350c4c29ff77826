"""Segment images with a cell's network: masks, overlays and probabilities at the images' own size.

An image is processed like a val image: it is shrunk if it is larger than the cell's canvas, and the
logits are resized to its own size. But an EXIF rotation is applied; in a data set it is not, since
the masks were drawn without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.utils import draw_segmentation_masks

from lovasz_repro import files
from lovasz_repro.config import Optim, Runtime
from lovasz_repro.data.augment import normalise
from lovasz_repro.data.cache import on_canvas
from lovasz_repro.data.datamodule import Batch
from lovasz_repro.data.voc import save_mask, too_deep, voc_palette
from lovasz_repro.errors import UserError
from lovasz_repro.losses import cross_entropy
from lovasz_repro.study.kept import Trained, load_cell
from lovasz_repro.training.loop import device_type
from lovasz_repro.training.loop import predict as run
from lovasz_repro.training.segmenter import BinarySegmenter

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def predict(
    cell: Path, images: Path, out: Path, *, threshold: float | str = 0.0,
    probabilities: bool = False, device: str = "auto", batch: int = 8,
) -> tuple[int, list[str]]:  # fmt: skip
    """Write masks and overlays of an image, or of all images of a folder.

    Args:
        cell: folder of a finished cell with its weights.
        out: gets masks/<name>.png, overlays/<name>.png and probabilities/<name>.npy.
        threshold: on the logits, or "tuned": the one chosen on held-out training images.
        probabilities: also the sigmoid of the logits, float16 (H, W). Hinge losses do not train
            them to be probabilities.
        batch: images at once.

    Returns: the number of images written; a message for each image that cannot be read.

    Raises: UserError naming the file or folder that is missing or wrong.
    """
    paths = find_images(images)
    trained = load_cell(cell)
    chosen = trained.result["threshold"] if threshold == "tuned" else float(threshold)
    for name in ("masks", "overlays", *(["probabilities"] if probabilities else [])):
        with files.about(out / name):
            (out / name).mkdir(parents=True, exist_ok=True)
    module = BinarySegmenter(
        trained.network, cross_entropy, Optim(), lr=0.0, stride=trained.base.stride
    )
    canvases = Canvases(paths, trained)
    loader = DataLoader(canvases, batch_size=batch, collate_fn=lambda rows: _batch(rows, trained))
    precision = trained.settings["runtime"].precision
    runtime = Runtime(device=device_type(device, "--device"), precision=precision)
    run(module, loader, runtime, Writer(canvases, out, chosen, trained.label, probabilities))
    return len(paths) - len(canvases.broken), list(canvases.broken.values())


def find_images(path: Path) -> list[Path]:
    """The image, or the images of a folder in the order of their names.

    Raises: UserError if there is none, or if two would be written to one name.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such image or folder")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"{path}: no image in this folder; images are {', '.join(SUFFIXES)}")
    by_stem: dict[str, Path] = {}
    for image in found:
        if (other := by_stem.setdefault(image.stem, image)) != image:
            raise UserError(f"{path}: {other.name} and {image.name} would both be {image.stem}.png")
    return found


def read(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, upright. Raises: UserError if the file is not a whole image."""
    try:
        if not path.is_file():  # reading a pipe would block
            raise UserError(f"{path}: not a file")
        with Image.open(path) as image, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but an image
            if wrong := too_deep(image):
                raise UserError(f"{path}: {wrong}")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be decoded ({error})") from error


class Canvases(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Images on canvases: (3, S, S) uint8, size on the canvas, size in the file.

    An image that cannot be read becomes one black pixel.

    Attributes:
        broken: the error of each such image, by index.
        decoded: the others as they are in their files, until `Writer` takes them.
    """

    def __init__(self, paths: Sequence[Path], trained: Trained) -> None:
        self.paths = paths
        self.size: int = trained.settings["data"].image_size
        self.broken: dict[int, str] = {}
        self.decoded: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        try:
            image = self.decoded[index] = read(self.paths[index])
        except UserError as error:
            self.broken[index] = str(error)
            image = np.zeros((1, 1, 3), np.uint8)
        small = on_canvas(image, self.size).copy()  # torch wants it writable
        height, width = small.shape[:2]
        canvas = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
        canvas[:, :height, :width] = torch.from_numpy(small.transpose(2, 0, 1))
        return canvas, torch.tensor([height, width]), torch.tensor(image.shape[:2])


def _batch(rows: list[tuple[Tensor, Tensor, Tensor]], trained: Trained) -> Batch:
    """A batch without targets."""
    canvases, sizes, native = (torch.stack(column) for column in zip(*rows, strict=True))
    inputs = normalise(canvases, sizes, trained.base.mean, trained.base.std)
    height, width = native.amax(0).tolist()
    none = torch.zeros(len(rows), 0, 0, dtype=torch.uint8)
    shape = torch.zeros(1, dtype=torch.uint8).expand(len(rows), height, width)
    return Batch(inputs, none, sizes, torch.arange(len(rows)), shape, native)


class Writer(BasePredictionWriter):
    """Writes each image as it is predicted.

    Args:
        threshold: on the logits; a pixel above it is foreground.
        label: of the foreground in the masks. probabilities: whether they are written.
    """

    def __init__(
        self, canvases: Canvases, out: Path, threshold: float, label: int, probabilities: bool
    ) -> None:
        super().__init__("batch")
        self.canvases = canvases
        self.out = out
        self.threshold = threshold
        self.label = label
        self.probabilities = probabilities

    def write_on_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: list[Tensor],
        batch_indices: Sequence[int] | None, batch: Batch, batch_idx: int, dataloader_idx: int,
    ) -> None:  # fmt: skip
        assert batch_indices is not None
        for index, logits in zip(batch_indices, prediction, strict=True):
            if index not in self.canvases.broken:
                image = self.canvases.decoded.pop(index)
                self._write(self.canvases.paths[index], image, logits)

    def _write(self, path: Path, rgb: NDArray[np.uint8], logits: Tensor) -> None:
        """Write the files of one image. rgb: (H, W, 3); logits: (H, W)."""
        mask = logits > self.threshold
        name = f"{path.stem}.png"
        with files.atomic(self.out / "masks" / name) as temporary:
            save_mask(temporary, mask.byte().mul(self.label).numpy())
        image = torch.from_numpy(rgb.transpose(2, 0, 1).copy())
        if mask.any():
            colour = tuple(voc_palette()[3 * self.label : 3 * self.label + 3])
            image = draw_segmentation_masks(image, mask, alpha=0.5, colors=[colour])
        with files.atomic(self.out / "overlays" / name) as temporary:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary)
        if self.probabilities:
            with files.atomic(self.out / "probabilities" / f"{path.stem}.npy") as temporary:
                np.save(temporary, logits.sigmoid().half().numpy())
