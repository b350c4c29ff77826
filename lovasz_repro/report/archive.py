"""What a report keeps of a run: which of its files, with photographs or without, and the zip."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

from lovasz_repro.files import json_bytes
from lovasz_repro.records import Records
from lovasz_repro.records.cells import TABLES
from lovasz_repro.records.stored import Stored

FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows: equal records, equal bytes
GALLERY = "gallery/gallery.json"
RUN_FILES = ("study.json", "machine.json", "tuning.json", GALLERY)
BASE_FILES = ("result.json", "cost.json")
CELL_FILES = (
    *dict.fromkeys(name for tables in TABLES.values() for name in tables),
    *("cost.json", "result.json", "failed.json"),
)


def read_files(runs: Path, records: Records) -> dict[str, bytes]:
    """Every record file that there is, by its path below the run's folder; no networks, no full
    predictions. Gallery pictures are those that gallery.json names.

    Raises: UserError naming the file that cannot be read, or that leads out of the run's folder.
    """
    stored = Stored(runs)
    names = list(RUN_FILES)
    for entry in records.gallery:
        shown = [entry[key] for key in ("image", "truth", "outline") if key in entry]
        names += [f"gallery/{name}" for name in (*shown, *entry["overlays"].values())]
    names += [f"base/fold{fold}/{name}" for fold in records.grid.folds for name in BASE_FILES]
    # A cell that is finished meanwhile is not in the report either.
    cells = [cell for cell in records.grid.cells() if cell not in records.missing]
    names += [f"{cell.path}/{name}" for cell in cells for name in CELL_FILES]
    return {name: stored.read(name) for name in sorted(names) if name in stored}


def without_photographs(
    records: Records, files: dict[str, bytes]
) -> tuple[Records, dict[str, bytes]]:
    """The records and their files with masks alone: VOC's photographs may not be redistributed.

    gallery.json no longer names them, so what is built from these records later shows none either.
    """
    photographs = {entry["image"] for entry in records.gallery if "image" in entry}
    gallery = []
    for entry in records.gallery:
        kept = {key: value for key, value in entry.items() if key != "image"}
        sums = {k: v for k, v in entry.get("sha256", {}).items() if k not in photographs}
        gallery.append({**kept, "sha256": sums} if sums else kept)
    left = {k: v for k, v in files.items() if k.removeprefix("gallery/") not in photographs}
    if GALLERY in left:
        left[GALLERY] = json_bytes({"images": gallery})
    return replace(records, gallery=gallery), left


def pack(files: dict[str, bytes]) -> bytes:
    """A zip archive that depends on nothing but names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, FIXED_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # the same on Windows
            archive.writestr(info, files[name])
    return buffer.getvalue()
