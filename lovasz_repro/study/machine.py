"""Facts of the machine and the code that made a run: for the report's header."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import timm
import torch
import torchmetrics
import torchvision

from lovasz_repro.config import PACKAGE
from lovasz_repro.files import Json


def describe_machine(device: torch.device) -> Json:
    """Commit, versions, hardware, date: for the report's header."""
    commit, dirty = _commit()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "commit": commit,
        "dirty": dirty,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": version("pytorch_lightning"),
        "torchmetrics": torchmetrics.__version__,
        "timm": timm.__version__,
        "processor": name,
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "started": now,
    }


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the package's files, and whether they were changed since; None where git does
    not track them: an installed package may lie within another project's repository."""
    if _git("ls-files", "--error-unmatch", "--", "__init__.py") is None:
        return None, None
    changes = _git("status", "--porcelain", "--", ".")
    return _git("rev-parse", "HEAD"), None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """What git says in the package's folder; None where it fails or is not installed."""
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
