"""`machine.json`: the machine and the code that made a run, and how long it took.

Only a command that has work to do writes it.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
import torchmetrics
import torchvision

from lovasz_repro import schema
from lovasz_repro.errors import UserError
from lovasz_repro.files import Json, read_json, write_json
from lovasz_repro.study.launch import InUseError, held
from lovasz_repro.study.workspace import Workspace

FILE = "machine.json"
PACKAGE = Path(__file__).parents[1]


def note_machine(workspace: Workspace, _: object = None) -> None:
    """Write `machine.json` for this machine and code. The run's folder must be locked."""
    path = workspace.folder / FILE
    machine = describe_machine(workspace.device)
    if path.exists():
        machine = _continued(machine, read_json(path, schema.Machine))
    write_json(path, machine)


def _continued(machine: Json, there: Json) -> Json:
    """`machine` after an earlier machine.json: it keeps that one's times if commit, processor
    and device are the same, and else lists that one under `earlier`."""
    earlier = there.get("earlier", [])
    if all(there.get(key) == machine.get(key) for key in ("commit", "processor", "device")):
        times = ("started", "finished", "seconds")
        machine |= {key: there[key] for key in times if key in there}
    else:
        earlier = [*earlier, {key: value for key, value in there.items() if key != "earlier"}]
    return {**machine, "earlier": earlier} if earlier else machine


class Session:
    """A command's working time on a run, which is added to `machine.json`.

    Pauses between commands do not count; time that two commands share counts once. Use it as a
    context manager, which notes the time however the command ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._since: datetime.datetime | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if not self.begun:
            return
        if kind is None:
            with held(self._folder, wait=True):
                self.note()
        else:
            with suppress(OSError, UserError):  # keep the error that ended the command
                self.note_if_free()

    @property
    def begun(self) -> bool:
        return self._since is not None

    def begin(self) -> None:
        self._since = _now()

    def note(self) -> None:
        """Add the time since the last note. The run's folder must be locked."""
        if self._since is None:
            return
        machine = read_json(self._folder / FILE, schema.Machine)
        since, now = self._since, _now()
        if "finished" in machine:
            noted = datetime.datetime.fromisoformat(machine["finished"].upper())
            if noted <= now:  # else a clock was set back
                since = max(since, noted)  # by another process, which worked until then
        passed = max((now - since).total_seconds(), 0)
        machine["finished"] = now.isoformat(timespec="milliseconds")
        machine["seconds"] = round(machine.get("seconds", 0) + passed, 3)
        write_json(self._folder / FILE, machine)
        self._since = now

    def note_if_free(self) -> None:
        """Add the time since the last note, unless another process has locked the run's folder; the
        next note then adds it."""
        with suppress(InUseError), held(self._folder):
            self.note()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def describe_machine(device: torch.device) -> Json:
    """Commit, versions, hardware, date: for the report's header."""
    commit, dirty = _commit()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return {
        "commit": commit,
        "dirty": dirty,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": version("pytorch_lightning"),
        "torchmetrics": torchmetrics.__version__,
        "timm": version("timm"),
        "processor": name,
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "started": _now().isoformat(timespec="seconds"),
    }


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the package's files, and whether they differ from it; None if git does not
    track them: an installed package may be in another project's repository."""
    if _git("ls-files", "--error-unmatch", "--", "__init__.py") is None:
        return None, None
    changes = _git("status", "--porcelain", "--", ".")
    return _git("rev-parse", "HEAD"), None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """What git says in the package's folder; None if it fails or is not installed."""
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
