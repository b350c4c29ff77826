"""Detect changed files: hashes of a data set's images and masks, checksums of a cache.

<cache>/contents-<data set>.json    {"files": {path: [size, mtime, ctime, SHA-256]}}
<cache>/<a cache>/checksums.json    {"files": {name: {"bytes": n, "crc32": [of each block]}}}
"""

from __future__ import annotations

import stat
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from lovasz_repro import schema
from lovasz_repro.data.voc import VOC
from lovasz_repro.environment import cores
from lovasz_repro.errors import UserError
from lovasz_repro.files import Json, read_json, sha256, write_json

BLOCK = 1 << 20
SAMPLE = 16
"""Blocks of each array that are read when a cache is opened."""
SUMS = "checksums.json"

Digests = Mapping[str, tuple[str, str]]
"""By id the SHA-256 of its image and of its mask, "" for a missing file."""


def digests(voc: VOC, ids: Iterable[str], cache: Path) -> Digests:
    """The hashes of these images and masks, by ascending id.

    A file is read only if its size or one of its times differs from the index in `cache`.

    Raises: UserError naming a path that is not a regular file.
    """
    ids = sorted(set(ids))
    index = cache / f"contents-{sha256(str(voc.folder.resolve()).encode())[:16]}.json"
    known = _known(index)
    paths = [path for name in ids for path in (voc.image_path(name), voc.mask_path(name))]
    keys = [path.relative_to(voc.folder).as_posix() for path in paths]
    states = [_state(path) for path in paths]
    changed = [i for i, key in enumerate(keys) if states[i] and known.get(key, [])[:3] != states[i]]
    if changed:
        title = "Reading images and masks"
        quiet = not sys.stdout.isatty()  # it takes a second or two
        with ThreadPoolExecutor(cores()) as pool:
            sums = pool.map(lambda i: sha256(paths[i].read_bytes()), changed)
            bar = track(sums, title, len(changed), disable=quiet)
            for i, digest in zip(changed, bar, strict=True):
                known[keys[i]] = [*states[i], digest]
        write_json(index, {"files": known})
    found = [known[key][3] if state else "" for key, state in zip(keys, states, strict=True)]
    return dict(zip(ids, zip(found[::2], found[1::2], strict=True), strict=True))


def content_digest(voc: VOC, ids: Iterable[str], contents: Digests) -> str:
    """One hash of the contents of these images and masks, which identifies a study's data.

    Args:
        contents: their hashes; others may be in it.

    Raises: UserError naming a file that is missing.
    """
    lines = []
    for name in sorted(set(ids)):
        paths = voc.image_path(name), voc.mask_path(name)
        for path, digest in zip(paths, contents[name], strict=True):
            if not digest:
                raise UserError(f"{path}: the file is missing.")
        lines.append(" ".join((name, *contents[name])))
    return sha256("\n".join(lines).encode())


def _known(index: Path) -> dict[str, list[Any]]:
    """The stored index; empty, so that every file is read again, if it is missing or invalid."""
    try:
        files = read_json(index)["files"] if index.exists() else {}
        return {key: [*map(int, entry[:3]), str(entry[3])] for key, entry in files.items()}
    except (UserError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        return {}


def _state(path: Path) -> list[int]:
    """Size, mtime and ctime (a copy can keep the mtime, but not the ctime); empty for no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return []
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: not a regular file.")
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def write_sums(folder: Path, name: str) -> None:
    """Write the checksums of a folder's files into it. name: the folder's final name."""
    files = {
        path.name: {"bytes": path.stat().st_size, "crc32": [zlib.crc32(b) for b in _blocks(path)]}
        for path in sorted(folder.iterdir())
    }
    write_json(folder / SUMS, {"folder": name, "files": files})


def check_sums(folder: Path, sample: int | None = SAMPLE) -> None:
    """Compare a folder's files with the checksums taken when they were written.

    Args:
        sample: number of blocks to read of each file, always the same ones; None: all.

    Raises: UserError naming the file that differs.
    """
    advice = f"delete {folder} to have it made again"
    sums = read_json(folder / SUMS, schema.Sums)
    if sums["folder"] != folder.name:
        raise UserError(f"{folder}: holds the arrays of {sums['folder']}; {advice}")
    files = sums["files"]
    there = {path.name for path in folder.iterdir()} - {SUMS}
    if unknown := there - files.keys():
        raise UserError(f"{folder / min(unknown)}: not in {SUMS}; {advice}")
    for name, entry in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != entry["bytes"] or len(entry["crc32"]) != -(-size // BLOCK):
                written = entry["bytes"]
                raise UserError(
                    f"{path}: cannot be read ({size} bytes, {written} were written); {advice}"
                )
            for number in _chosen(entry, sample):
                if zlib.crc32(_block(path, number)) != entry["crc32"][number]:
                    raise UserError(
                        f"{path}: damaged (not the bytes that were written, from {number} MiB on); "
                        + advice
                    )
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error}); {advice}") from error


def check_cache(cache: Path) -> list[str]:
    """Compare every byte of a folder's caches with the checksums. Returns: a line per problem."""
    if not cache.is_dir():
        raise UserError(f"{cache}: there is no such folder")
    found = [p for kind in ("images-*", "features-*") for p in sorted(cache.glob(kind))]
    # A cache that is being built has no checksums yet.
    folders = [path for path in found if path.is_dir() and path.suffix != ".part"]
    if not folders:
        raise UserError(f"{cache}: no cache in it (images-..., features-...)")
    problems = []
    for folder in track(folders, "Checking"):
        try:
            check_sums(folder, None)
        except UserError as error:
            problems.append(str(error))
    return problems


def _chosen(entry: Json, sample: int | None) -> list[int]:
    """The blocks to read: the first, which holds the header, and a fixed random choice."""
    count = len(entry["crc32"])
    if sample is None or count <= sample:
        return list(range(count))
    draw = np.random.Generator(np.random.Philox(key=[count, 0]))
    return [0, *sorted(1 + draw.choice(count - 1, sample - 1, replace=False))]


def _block(path: Path, number: int) -> bytes:
    with path.open("rb") as file:
        file.seek(number * BLOCK)
        return file.read(BLOCK)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
