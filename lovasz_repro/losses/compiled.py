"""Loops that Numba compiles, kept in files that are checked before they are used."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

# Numba has no type hints for these.
FunctionCache: Any = caching.FunctionCache
IndexDataCacheFile: Any = caching.IndexDataCacheFile
DIGEST_BYTES = hashlib.sha256().digest_size


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop at its first call, and keep the machine code on disk for later processes.

    A damaged file is compiled again. If it cannot be stored (no folder, a full disk), every
    process compiles.
    """
    # "reassoc" lets the compiler reorder a sum, and so vectorise it.
    fast: Callable[..., Any] = numba.njit(loop, nogil=True, fastmath={"reassoc"})
    with contextlib.suppress(RuntimeError):  # no folder to store it in
        fast._cache = _Cache(loop)  # type: ignore[attr-defined]
    return fast


class _Files(IndexDataCacheFile):
    """Numba's cache files of one loop, each ending in a SHA-256: Numba itself runs damaged code."""

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())

    def _load_index(self) -> Any:
        _check(Path(self._index_path))
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        _check(Path(self._data_path(name)))
        return super()._load_data(name)


def _check(path: Path) -> None:
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise ValueError(f"{path} is not a file")
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
            raise ValueError(f"{path} is damaged")


class _Cache(FunctionCache):
    """Numba's cache of one loop. An error in its files only means compiling again."""

    def __init__(self, loop: Callable[..., Any]) -> None:
        super().__init__(loop)
        there = self._impl
        stamp = there.locator.get_source_stamp()
        self._cache_file: _Files = _Files(self._cache_path, there.filename_base, stamp)

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)
        except Exception:  # unpickling a damaged file may raise anything
            with contextlib.suppress(OSError):
                Path(self._cache_file._index_path).unlink()
            return None

    def save_overload(self, *arguments: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().save_overload(*arguments)
