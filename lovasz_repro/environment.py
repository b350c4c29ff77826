"""Settings that a command, and each of its processes, makes before its first tensor."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = {
    # Torch then asks Linux for huge pages for large tensors. Without them a training step on a CPU
    # spends a tenth of its time on page faults.
    "THP_MEM_ALLOC_ENABLE": "1",
    # Lightning sets both at the first deterministic training: too late for libraries that have
    # read them already.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


def prepare() -> None:
    """Set the variables that the user has not set."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries without garbage collection: their objects stay, and collecting takes a
    quarter of a command's start."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def cores() -> int:
    """How many cores this process may use: a cluster may give it a part of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let this process reuse the memory that it frees.

    glibc returns large blocks to the system at once. Every step would then get fresh pages, which
    the system fills with zeros first: a tenth of a step of `head`.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the highest that glibc accepts
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
