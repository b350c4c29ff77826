"""The gallery's pictures, made from the run's files for the page and the Markdown report.

Masks are laid over the photograph. If the records lack it, a prediction is shown by its difference
to the truth, on a plain background.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.errors import UserError
from lovasz_repro.files import sha256
from lovasz_repro.records import UNTRAINED, Json
from lovasz_repro.report.document import Example, Gallery, Prediction, percent
from lovasz_repro.report.gallery import palette_png
from lovasz_repro.report.style import style
from lovasz_repro.words import points

MAX_SIDE = 2048
"""Limit of a picture's side; those of `gallery.py` have 200 pixels."""

SHOWN = (REFERENCE, LOVASZ, UNTRAINED)
"""The predictions that are shown at once; those of other losses need a click."""

COLORS = {"found": "#8b95a0", "missed": "#e5a800", "false": "#a626a4"}
"""Pixels on a plain background. No loss has these colours, and the colour-blind tell them apart."""

GROUND = "#e8ebee"


def gallery(entries: Sequence[Json], losses: Sequence[str], files: Mapping[str, bytes]) -> Gallery:
    """The gallery of gallery.json's entries. losses: in the order shown. files: the run's, by path.

    Raises: UserError naming a picture that is missing, damaged, or not the one recorded.
    """
    examples = [_example(entry, losses, files) for entry in entries]
    plain = any(example.image is None for example in examples)
    return Gallery(examples, list(COLORS.items()) if plain else [])


def _example(entry: Json, losses: Sequence[str], files: Mapping[str, bytes]) -> Example:
    content = partial(_content, entry, files)
    image = content(entry["image"]) if "image" in entry else None
    truth, outline = content(entry["truth"]), content(entry["outline"])
    mask_of = {loss: content(name) for loss, name in entry["overlays"].items()}
    predictions = [
        Prediction(
            loss,
            style(loss).label,
            percent(entry["iou"][loss]),
            mask_of[loss] if image else difference(truth, mask_of[loss]),
        )
        for loss in losses
        if loss in mask_of
    ]
    by_loss = {prediction.loss: prediction for prediction in predictions}
    shown = [p for p in predictions if p.loss in SHOWN] or predictions
    whole = truth if image else difference(truth, truth)
    return Example(
        anchor=f"example-{entry['category']}-{entry['id']}",
        category=entry["category"],
        title=f"{entry['category']}, {entry['rule']}",
        note=f"{entry['id']} · {points(entry['gain'])} points",
        width=entry["width"],
        height=entry["height"],
        image=image,
        truth=whole,
        outline=outline,
        predictions=shown,
        others=[p for p in predictions if p not in shown],
        before=by_loss.get(REFERENCE),
        after=by_loss.get(LOVASZ),
        strip=_strip(image, [[whole], *([p.picture, outline] for p in shown)]),
    )


def _content(entry: Json, files: Mapping[str, bytes], name: str) -> bytes:
    """A picture's file. Raises: UserError if it is missing, edited, or cannot be shown."""
    path = f"gallery/{name}"
    if path not in files:
        raise UserError(f"{path}: gallery.json names it but it is not there; run the study again")
    if entry.get("sha256", {}).get(name, "") not in ("", sha256(files[path])):
        raise UserError(
            f"{path}: damaged or edited, gallery.json has another SHA-256 of it; run the study "
            "again"
        )
    try:
        with Image.open(io.BytesIO(files[path]), formats=("JPEG", "PNG")) as picture:
            if max(picture.size) > MAX_SIDE:
                raise ValueError(f"{picture.width} × {picture.height} pixels are too many")
            picture.load()
    except Exception as error:  # PIL raises many kinds for a damaged file
        said = " ".join(str(error).split())
        raise UserError(f"{path}: not a picture ({said}); run the study again") from error
    return files[path]


def difference(truth: bytes, prediction: bytes) -> bytes:
    """A palette PNG of the truth's size: found, missed and false pixels, and nothing elsewhere.

    Args:
        truth, prediction: pictures that are opaque, or half so, where the mask is true.
    """
    with Image.open(io.BytesIO(truth)) as picture:
        size, wanted = picture.size, _opaque(picture)
    with Image.open(io.BytesIO(prediction)) as picture:
        found = _opaque(picture.convert("RGBA").resize(size, Image.Resampling.NEAREST))
    kinds = np.where(wanted, np.where(found, 1, 2), 3 * found)
    return palette_png(kinds, ["#000000", *COLORS.values()], [0])


def _opaque(picture: Image.Image) -> NDArray[np.bool_]:
    """(height, width)"""
    return np.asarray(picture.convert("RGBA"))[..., 3] > 0


def _strip(image: bytes | None, layers: Sequence[Sequence[bytes]], gap: int = 6) -> bytes:
    """The image (JPEG), or a plain background (PNG), under each stack of layers, side by side; the
    bare image comes first."""
    if image:
        plain = Image.open(io.BytesIO(image)).convert("RGB")
    else:
        plain = Image.new("RGB", Image.open(io.BytesIO(layers[0][0])).size, GROUND)
    tiles = [plain] if image else []
    for stack in layers:
        tile = plain.convert("RGBA")
        for layer in stack:
            top = Image.open(io.BytesIO(layer)).convert("RGBA")
            tile.alpha_composite(top.resize(plain.size, Image.Resampling.NEAREST))
        tiles.append(tile.convert("RGB"))
    width = len(tiles) * plain.width + (len(tiles) - 1) * gap
    strip = Image.new("RGB", (width, plain.height), "white")
    for place, tile in enumerate(tiles):
        strip.paste(tile, (place * (plain.width + gap), 0))
    buffer = io.BytesIO()
    kind: dict[str, Any] = {"format": "JPEG", "quality": 82} if image else {"format": "PNG"}
    strip.save(buffer, **kind, optimize=True)
    return buffer.getvalue()
