"""The small files of a run: read from its folder or from the `records.zip` that a report keeps."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from lovasz_repro.records import Folder, Grid, Records

FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows: equal records, equal bytes
RUN_FILES = ("study.json", "machine.json", "learning_rates.json", "gallery/gallery.json")
BASE_FILES = ("result.json", "cost.json")
CELL_FILES = ("images.csv", "curve.csv", "cost.json", "result.json", "failed.json")


def read_files(runs: Path, records: Records) -> dict[str, bytes]:
    """Every record file that there is, by its path below the run's folder; no networks, no full
    predictions. Gallery pictures are those that gallery.json names."""
    root: Folder = zipfile.Path(runs) if runs.suffix == ".zip" else runs
    names = [*RUN_FILES, *_grid_files(records.grid), *_pictures(records)]
    return {name: (root / name).read_bytes() for name in sorted(names) if (root / name).is_file()}


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


def _grid_files(grid: Grid) -> list[str]:
    bases = [f"base/fold{fold}/{name}" for fold in grid.folds for name in BASE_FILES]
    return bases + [f"{cell.path}/{name}" for cell in grid.cells() for name in CELL_FILES]


def _pictures(records: Records) -> list[str]:
    return [
        f"gallery/{name}"
        for entry in records.gallery
        for name in (entry["image"], entry["truth"], entry["outline"], *entry["overlays"].values())
    ]
