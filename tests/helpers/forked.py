"""Processes that start at once: forked from one that has everything imported, not spawned."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from types import ModuleType, SimpleNamespace

import pytest


def context() -> ForkServerContext:
    """Forks from the one process that `tests.faults.warm` has filled."""
    own = multiprocessing.get_context("forkserver")
    own.set_forkserver_preload(["tests.faults.warm"])
    return own


@contextmanager
def forking(module: ModuleType) -> Iterator[None]:
    """Let a module of ours fork where it spawns: each import takes some ten seconds."""
    own = SimpleNamespace(**{**vars(multiprocessing), "get_context": lambda method: context()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "multiprocessing", own)
        yield
