"""Pictures that nobody took: a VOC root and predictions for the images of `synthetic` records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lovasz_repro.data.voc import CATEGORIES, save_mask
from lovasz_repro.records import load

HEIGHT, WIDTH = 90, 120


def disc(shift: int, radius: int) -> NDArray[np.bool_]:
    """(HEIGHT, WIDTH): a disc, `shift` pixels right of the middle."""
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    return np.asarray((y - HEIGHT / 2) ** 2 + (x - WIDTH / 2 - shift) ** 2 < radius**2)


def write_voc(runs: Path, root: Path) -> Path:
    """A disc for every id in `runs` that holds a category, labelled as that category."""
    images = load(runs).images
    folder = root / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / "SegmentationClass").mkdir()
    ramp = np.linspace(60, 200, WIDTH)[None, :, None] * np.array([0.7, 0.9, 1.0])
    photo = np.broadcast_to(ramp, (HEIGHT, WIDTH, 3)).astype(np.uint8).copy()
    photo[disc(0, 25)] = (210, 180, 90)
    for image_id, rows in images[images["has_category"] == 1].groupby("id"):
        label = CATEGORIES.index(rows["category"].iloc[0]) + 1
        Image.fromarray(photo).save(folder / "JPEGImages" / f"{image_id}.jpg", quality=90)
        mask = np.where(disc(0, 25), label, 0).astype(np.uint8)
        save_mask(folder / "SegmentationClass" / f"{image_id}.png", mask)
    return root


def write_predictions(runs: Path) -> None:
    """For every finished cell a disc in every image, shifted by the loss."""
    records = load(runs)
    for cell in records.results:
        rows = records.images.query(
            "category == @cell.category and loss == @cell.loss and fold == @cell.fold "
            "and seed == @cell.seed"
        )
        shift = 4 * list(records.grid.losses).index(cell.loss)
        canvas = np.zeros((len(rows), 160, 160), bool)
        small = Image.fromarray(disc(shift, 24)).resize((160, 120))
        canvas[:, :120, :160] = np.asarray(small)
        np.savez_compressed(
            runs / cell.path / "predictions.npz",
            ids=rows["id"].to_numpy(str),
            masks=np.packbits(canvas, axis=-1),
        )
