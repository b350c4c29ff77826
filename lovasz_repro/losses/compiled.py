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

# They have no types.
FunctionCache: Any = caching.FunctionCache
IndexDataCacheFile: Any = caching.IndexDataCacheFile
DIGEST_BYTES = hashlib.sha256().digest_size


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop in machine code, made at its first call and kept for later processes.

    A file that is damaged is made again. Where none can be kept (no folder, a full disk), each
    process compiles its own.
    """
    # "reassoc" lets a sum be taken in several parts at once.
    fast: Callable[..., Any] = numba.njit(loop, nogil=True, fastmath={"reassoc"})
    with contextlib.suppress(RuntimeError):  # there is no folder to keep it in
        fast._cache = _Cache(loop)  # type: ignore[attr-defined]
    return fast


class _Files(IndexDataCacheFile):
    """Numba's files of one loop, each with a SHA-256 at its end: Numba would run damaged code."""

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
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is not a file")
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
            raise ValueError(f"{path} is damaged")


class _Cache(FunctionCache):
    """Numba's cache of one loop; what goes wrong with its files only costs compiling again."""

    def __init__(self, loop: Callable[..., Any]) -> None:
        super().__init__(loop)
        there = self._impl
        stamp = there.locator.get_source_stamp()
        self._cache_file: _Files = _Files(self._cache_path, there.filename_base, stamp)

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)
        except Exception:  # what unpickling a damaged file raises may be anything
            with contextlib.suppress(OSError):
                Path(self._cache_file._index_path).unlink()
            return None

    def save_overload(self, *arguments: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().save_overload(*arguments)
