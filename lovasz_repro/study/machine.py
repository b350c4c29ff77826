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

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(PACKAGE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "commit": commit,
        "dirty": bool(changes) if changes is not None else None,
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
