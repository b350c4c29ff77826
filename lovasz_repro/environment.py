"""Environment variables that a command, and each of its processes, sets before its first tensor."""

from __future__ import annotations

import os

VARIABLES = {
    # Torch then asks Linux for huge pages where a tensor is large. Without them a training step on
    # a CPU spends a tenth of its time on page faults.
    "THP_MEM_ALLOC_ENABLE": "1",
    # Lightning sets both with the first deterministic training. A library that has looked before,
    # and processes started later, would not agree.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


def prepare() -> None:
    """Set the variables that the user has not set."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
