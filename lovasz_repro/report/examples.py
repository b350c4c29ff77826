"""The gallery's pictures, from the run's files to what the page and the Markdown report show."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from PIL import Image

from lovasz_repro.claims import LOVASZ
from lovasz_repro.errors import UserError
from lovasz_repro.records import Json
from lovasz_repro.report.document import Example, Gallery, Prediction, percent, points
from lovasz_repro.report.style import style
from lovasz_repro.stats import REFERENCE


def gallery(entries: Sequence[Json], losses: Sequence[str], files: Mapping[str, bytes]) -> Gallery:
    """The pictures of gallery.json's entries among the run's files (by path), losses in that order.

    Raises: UserError naming a picture that is not there.
    """
    return Gallery([_example(entry, losses, files) for entry in entries])


def _example(entry: Json, losses: Sequence[str], files: Mapping[str, bytes]) -> Example:
    def content(name: str) -> bytes:
        path = f"gallery/{name}"
        if path not in files:
            raise UserError(
                f"{path}: gallery.json names it but it is not there; run the study again"
            )
        return files[path]

    predictions = [
        Prediction(
            loss, style(loss).label, percent(entry["iou"][loss]), content(entry["overlays"][loss])
        )
        for loss in losses
        if loss in entry["overlays"]
    ]
    by_loss = {prediction.loss: prediction for prediction in predictions}
    image, truth, outline = (content(entry[key]) for key in ("image", "truth", "outline"))
    return Example(
        anchor=f"example-{entry['category']}-{entry['id']}",
        category=entry["category"],
        title=f"{entry['category']}, {entry['rule']}",
        note=f"{entry['id']} · {points(entry['gain'])} points",
        width=entry["width"],
        height=entry["height"],
        image=image,
        truth=truth,
        outline=outline,
        predictions=predictions,
        before=by_loss.get(REFERENCE),
        after=by_loss.get(LOVASZ),
        strip=_strip(image, [[truth], *([p.overlay, outline] for p in predictions)]),
    )


def _strip(image: bytes, layers: Sequence[Sequence[bytes]], gap: int = 6) -> bytes:
    """The image and, to its right, a copy under each of the layers, as one JPEG."""
    plain = Image.open(io.BytesIO(image)).convert("RGB")
    tiles = [plain]
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
    strip.save(buffer, format="JPEG", quality=82, optimize=True)
    return buffer.getvalue()
