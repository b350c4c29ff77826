"""Atomic writes, and JSON files with a checksum.

Every file is written under a temporary name and renamed: a reader sees the old bytes or the new.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from lovasz_repro import schema
from lovasz_repro.errors import UserError

Json = schema.Json


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is flushed to disk and renamed to `path`.

    Raises: OSError naming `path` if it cannot be written.
    """
    # The host is named: machines that share the folder may use one process number. The suffix is
    # kept: np.savez and PIL choose the format by it. The stem is cut: file names are limited.
    own = f"{socket.gethostname()}-{os.getpid()}"
    temporary = path.with_name(f".{path.stem[:30]}.{own}.part{path.suffix}")
    with about(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that names no file, such as that of a failed write."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def sweep(folder: Path) -> None:
    """Delete the unfinished files of killed processes in a folder that nobody else writes to."""
    for path in folder.glob(".*.part*"):
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)


CHECKSUM = "checksum"
"""The key under which a JSON file holds the SHA-256 of its other values."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys and no NaN: equal values give equal bytes, readable anywhere."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """The bytes that `write_json` writes: the values and, under `CHECKSUM`, their SHA-256."""
    rest = {key: item for key, item in value.items() if key != CHECKSUM}
    return _dumped({**rest, CHECKSUM: sha256(_dumped(rest))})


def _dumped(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def read_json(path: Path, kind: Any = None) -> Json:
    """The values of a JSON file, see `parse_json`. Raises: UserError, also if it is missing."""
    try:
        content = regular(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return parse_json(content, path, kind)


def regular(path: Path) -> Path:
    """The path itself. Raises: UserError for a folder, a device, or a pipe, which would block."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: cannot be read (not a file)")
    return path


def parse_json(content: bytes, path: Path, kind: Any = None) -> Json:
    """The values of a JSON file, without its checksum.

    Args:
        kind: of `schema`; None: any object.

    Raises: UserError naming the file if it is not a JSON object, has another checksum, or is not of
        this kind.
    """
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it to make it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    if CHECKSUM in value and value.pop(CHECKSUM) != sha256(_dumped(value)):
        raise UserError(
            f"{path}: edited or damaged, its values have another sum than {CHECKSUM} says; "
            "delete it to make it again"
        )
    if kind is not None and (wrong := schema.problem(value, kind)):
        raise UserError(f"{path}: {wrong}")
    return value


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file with seven significant digits, the precision of float32."""
    text = table.to_csv(index=False, float_format="%.7g", lineterminator="\n")
    write_bytes(path, text.encode())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
