"""Independent rows shared out over as many threads as torch uses.

The threads are Python's and sleep between calls; OpenMP's would spin beside torch's. The loops that
they run release the GIL.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

# With fewer elements, waking a thread costs more than it saves.
ELEMENTS_PER_THREAD = 1 << 16
# Elements of one call, which fit a second-level cache; small rows share a call.
ELEMENTS_PER_CALL = 1 << 16

_pool: ThreadPoolExecutor | None = None


def _forget() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a forked process has none of the threads


def share(work: Callable[[int, int], None], rows: int, elements: int) -> None:
    """Call ``work(first, last)`` for rows first ... last - 1, of ``elements`` elements each.

    Every row is processed once, in any order. Too little work stays on this thread.
    """
    threads = min(torch.get_num_threads(), rows, rows * elements // ELEMENTS_PER_THREAD)
    step = max(1, ELEMENTS_PER_CALL // elements)
    starts = itertools.count(0, step)  # no two threads get the same number

    def take() -> None:
        while (first := next(starts)) < rows:
            work(first, min(first + step, rows))

    helpers = _start(take, threads - 1) if threads > 1 else []
    try:
        take()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _start(take: Callable[[], None], helpers: int) -> list[Future[Any]]:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), "lovasz")
    # torch.set_flush_denormal is per thread, so each helper sets it.
    flush = sys.float_info.min / 2 == 0
    submitted: list[Future[Any]] = []

    def help_out() -> None:
        torch.set_flush_denormal(flush)
        take()

    # At interpreter exit, or if no thread can be started, the caller does all the work.
    with contextlib.suppress(RuntimeError):
        submitted += [_pool.submit(help_out) for _ in range(helpers)]
    return submitted
