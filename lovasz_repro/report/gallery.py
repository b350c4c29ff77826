"""The few images whose predictions a report shows: chosen by a rule, stored small.

Per category, the val images that hold it are sorted by the Lovász hinge's gain in image-IoU over
cross-entropy (mean over the seeds that both have). Chosen are the largest gain, the median and the
largest loss. The pictures come from the first of those seeds that has predictions.

    gallery/gallery.json        {"images": [{category, id, rule, fold, seed, gain, width, height,
                                 image, truth, outline, overlays: {loss: file}, iou: {loss: iou},
                                 sha256: {file: sum}}]}
    gallery/<stem>.jpg          the photograph; records that a report keeps may lack it, and then
                                the key `image` too
    gallery/<stem>-truth.png    the truth, tinted, to be laid over it
    gallery/<stem>-outline.png  its outline
    gallery/<stem>-<loss>.png   a prediction, tinted in the colour of its loss

A stem is <category>-<id>-fold<k>: several partitions may score one image.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from lovasz_repro import schema
from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json, regular, sha256, write_bytes, write_json
from lovasz_repro.records import Cell, Json, Records, load
from lovasz_repro.records.agreement import GAIN, gallery_problem
from lovasz_repro.report.style import style

MASK_SIDE = 160  # of the canvas in predictions.npz
IMAGE_SIDE = 200
TINT_OPACITY = 150  # of 255
TRUTH_COLOR = "#ffd92f"

Mask = NDArray[np.bool_]


def write_gallery(runs: Path, voc: VOC) -> None:
    """Choose the images of a study's records and write them to `runs/gallery`.

    A study without both losses gets an empty gallery. The records of a report lack predictions: if
    no seed has them, the image's entry in an existing gallery is kept; an image without one is left
    out, with a warning.

    Raises: UserError naming the file if a cell's predictions are missing or lack an image.
    """
    records = load(runs, gallery=False)
    before = _before(records, runs / "gallery")
    entries: list[Json] = []
    pictures: dict[str, bytes] = {}
    choices = [x for category in records.grid.categories for x in choose(records.images, category)]
    for choice in choices:
        seed = _seed(records, runs, choice)
        if seed is not None or not before:
            shown = choice if seed is None else {**choice, "seed": seed}
            entry, files = _show(records, runs, voc, shown)
        elif _choice_of(choice) in before:
            entry, files = before[_choice_of(choice)]
        else:
            what = f"{choice['category']}, {choice['rule']}, {choice['id']}"
            print(f"gallery: not shown, for want of predictions: {what}", file=sys.stderr)
            continue
        entries.append(entry)
        pictures |= files
    folder = runs / "gallery"
    for name, content in pictures.items():
        write_bytes(folder / name, content)
    write_json(folder / "gallery.json", {"images": entries})
    for path in folder.iterdir():
        if path.name not in {*pictures, "gallery.json"}:
            path.unlink()


def choose(images: pd.DataFrame, category: str) -> list[Json]:
    """Up to three images of a category: `category`, `id`, `fold`, `seed`, `gain`, `rule`.

    Args:
        images: as in `Records`.
    """
    rows = images[(images["category"] == category) & (images["has_category"] == 1)]
    keys = ["fold", "id", "seed"]
    iou = rows.pivot_table(index=keys, columns="loss", values="iou").reindex(columns=list(GAIN))
    gains = (iou[GAIN[0]] - iou[GAIN[1]]).dropna().rename("gain").reset_index()
    if gains.empty:
        return []
    by_image = gains.groupby(["fold", "id"], as_index=False).agg(
        gain=("gain", "mean"), seed=("seed", "min")
    )
    ranked = by_image.sort_values(["gain", "id"], ascending=[False, True]).to_dict("records")
    last = len(ranked) - 1
    chosen: dict[int, Json] = {}
    for rule, place in {"largest gain": 0, "median": last // 2, "largest loss": last}.items():
        if place not in chosen:
            row = ranked[place]
            chosen[place] = {
                "category": category, "id": row["id"], "fold": int(row["fold"]),
                "seed": int(row["seed"]), "gain": round(float(row["gain"]), 6), "rule": rule,
            }  # fmt: skip
    return list(chosen.values())


def _seed(records: Records, runs: Path, choice: Json) -> int | None:
    """The first seed that has both losses of the gain, and predictions of all its finished cells;
    None if there is none."""
    for seed in sorted(records.grid.seeds):
        cells = {
            loss: cell
            for loss in records.grid.losses
            if (cell := Cell(choice["category"], loss, choice["fold"], seed)) in records.results
        }
        kept = all((runs / cell.path / "predictions.npz").exists() for cell in cells.values())
        if kept and cells.keys() >= set(GAIN):
            return seed
    return None


Choice = tuple[str, str, int, str]
"""Category, id, fold and rule."""


def _choice_of(entry: Json) -> Choice:
    return entry["category"], entry["id"], entry["fold"], entry["rule"]


def _before(records: Records, folder: Path) -> dict[Choice, tuple[Json, dict[str, bytes]]]:
    """The entries and pictures of an existing gallery; empty if it is not of these records."""
    try:
        entries = read_json(folder / "gallery.json", schema.Gallery)["images"]
        if gallery_problem(entries, records.images):
            return {}
        pictures = [
            {name: regular(folder / name).read_bytes() for name in entry.get("sha256", {})}
            for entry in entries
        ]
    except (UserError, OSError):
        return {}
    return {
        _choice_of(entry): (entry, files)
        for entry, files in zip(entries, pictures, strict=True)
        if files and {name: sha256(content) for name, content in files.items()} == entry["sha256"]
    }


def _show(records: Records, runs: Path, voc: VOC, choice: Json) -> tuple[Json, dict[str, bytes]]:
    """The entry of one chosen image, and its pictures by file name."""
    category, image_id = choice["category"], choice["id"]
    image = Image.fromarray(voc.image(image_id))
    stem = f"{category}-{image_id}-fold{choice['fold']}"
    width, height = scaled(image.size, MASK_SIDE)
    labels = Image.fromarray(voc.mask(image_id)).resize((width, height), Image.Resampling.NEAREST)
    truth = np.asarray(labels) == voc.classes.index(category) + 1  # (height, width)
    small, jpeg = scaled(image.size, IMAGE_SIDE), io.BytesIO()
    photograph = image.resize(small, Image.Resampling.LANCZOS)
    photograph.save(jpeg, format="JPEG", quality=80, optimize=True)
    files = {
        f"{stem}.jpg": jpeg.getvalue(),
        f"{stem}-truth.png": _tint(truth, TRUTH_COLOR),
        f"{stem}-outline.png": _outline(truth),
    }
    images = records.images
    images = images[(images["category"] == category) & (images["id"] == image_id)]
    overlays, iou = {}, {}
    for loss in records.grid.losses:
        cell = Cell(category, loss, choice["fold"], choice["seed"])
        if cell not in records.results:
            continue
        mask = _prediction(runs / cell.path / "predictions.npz", image_id)[:height, :width]
        overlays[loss] = f"{stem}-{loss}.png"
        files[overlays[loss]] = _tint(mask, style(loss).color)
        own = (images["loss"] == loss) & (images["fold"] == cell.fold)
        iou[loss] = float(images.loc[own & (images["seed"] == cell.seed), "iou"].iloc[0])
    size = dict(zip(("width", "height"), small, strict=True))
    names = dict(zip(("image", "truth", "outline"), files, strict=False))
    sums = {name: sha256(content) for name, content in files.items()}
    return {**choice, **size, **names, "overlays": overlays, "iou": iou, "sha256": sums}, files


def scaled(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of an image of `size` whose longest side is brought to `side` pixels."""
    longest = max(size)
    return max(1, round(size[0] * side / longest)), max(1, round(size[1] * side / longest))


def _prediction(path: Path, image_id: str) -> Mask:
    """`(MASK_SIDE, MASK_SIDE)`: the foreground of one val image, at the top left of its canvas."""
    try:
        content = io.BytesIO(regular(path).read_bytes())  # np.load closes a damaged file
        with np.load(content) as arrays:
            ids, masks = arrays["ids"], arrays["masks"]
        rows = np.flatnonzero(ids == image_id)
        if not rows.size:
            raise UserError(f"{path}: no prediction for image {image_id}; run the cell again")
        return np.unpackbits(masks[rows[0]], axis=-1).astype(bool)
    except UserError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds for a damaged file
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: cannot be read ({said}); run the cell again") from error


def _tint(mask: Mask, color: str) -> bytes:
    """A palette PNG: `color`, half transparent, where the mask is true, and nothing elsewhere."""
    return palette_png(mask.astype(np.uint8), ["#000000", color], [0, TINT_OPACITY])


def _outline(mask: Mask) -> bytes:
    """A palette PNG: white on the mask's edge and black outside of it, to be seen on any image."""
    padded = np.pad(mask, 1)
    neighbours = np.stack(
        [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    )
    edge, outside = mask & ~neighbours.all(0), ~mask & neighbours.any(0)
    kinds = np.where(edge, 1, np.where(outside, 2, 0))
    return palette_png(kinds, ["#000000", "#ffffff", "#000000"], [0, 230, 110])


def palette_png(indices: NDArray[np.integer], colors: list[str], opacity: list[int]) -> bytes:
    """A PNG of colour indices. colors: by index; opacity: of the first ones, 255 for the others."""
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(b"".join(bytes.fromhex(color[1:]) for color in colors))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=bytes(opacity), bits=2, optimize=True)
    return buffer.getvalue()
