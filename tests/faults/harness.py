"""How a fault is declared, and how a command is struck by one at an exact place.

Commands run in processes forked from one that has everything imported, so a strike costs no more
than the command itself. What strikes is real: a SIGKILL, a full disk, one that is read-only.
"""

from __future__ import annotations

import contextlib
import datetime
import glob
import importlib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

from tests.helpers.forked import context
from tests.helpers.studies import contents

Test = TypeVar("Test", bound=Callable[..., None])


@dataclass(frozen=True)
class Fault:
    """A row of the README's table, and what its test holds the code to.

    name: what goes wrong. seen: what the user sees. lost: nothing that was said to be done, and
    else? resume: what to do then.
    """

    name: str
    seen: str
    lost: str
    resume: str = "the same command"


FAULTS: dict[str, list[Fault]] = {}
"""By the module of their tests."""


def shows(*faults: Fault) -> Callable[[Test], Test]:
    """Say of a test which faults it shows."""

    def declare(test: Test) -> Test:
        FAULTS.setdefault(test.__module__, []).extend(faults)
        return test

    return declare


@dataclass(frozen=True)
class Strike:
    """What happens at the `nth` call of a function, before it does anything.

    where: module and attribute, "lovasz_repro.records.cells:write_json".
    does: kill, terminate or interrupt (Ctrl-C) the process; fill the disk `path`; truncate the
        file that the pattern `path` finds; make what this and every later call returns not a
        number.
    on: only calls count whose first argument, a path, holds this regular expression.
    """

    where: str
    nth: int = 1
    on: str = ""
    does: Literal["kill", "terminate", "interrupt", "fill", "truncate", "nan"] = "kill"
    path: str = ""

    def arm(self) -> None:
        """Put the strike in place, in this process."""
        module, _, attributes = self.where.partition(":")
        *owners, name = attributes.split(".")
        owner: Any = importlib.import_module(module)
        for attribute in owners:
            owner = getattr(owner, attribute)
        original = getattr(owner, name)
        calls = 0

        def struck(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            counts = not self.on or re.search(self.on, str(arguments[0])) is not None
            calls += counts
            if self.does == "nan":
                value = original(*arguments, **options)
                return value * float("nan") if calls >= self.nth else value
            if counts and calls == self.nth:
                self._happen()
            return original(*arguments, **options)

        setattr(owner, name, struck)

    def _happen(self) -> None:
        match self.does:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            case "interrupt":
                # A shell's background jobs, this one perhaps, ignore it.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.kill(os.getpid(), signal.SIGINT)
            case "fill":
                fill(Path(self.path))
            case "truncate":
                (path,) = glob.glob(self.path)
                os.truncate(path, os.path.getsize(path) // 2)


@dataclass(frozen=True)
class Published:
    """Lets `data fetch` ask a server of the test's for archives with these sums."""

    voc: dict[str, Any]
    sbd_url: str
    sbd_md5: str

    def arm(self) -> None:
        from torchvision.datasets import SBDataset
        from torchvision.datasets.voc import DATASET_YEAR_DICT

        from lovasz_repro.data import download

        DATASET_YEAR_DICT["2012"] = self.voc
        SBDataset.url, SBDataset.md5 = self.sbd_url, self.sbd_md5
        download.CHUNK_BYTES = 1 << 12  # several to an archive


@dataclass(frozen=True)
class Clock:
    """Sets the clock of a command, as far as it asks for the date."""

    days: int

    def arm(self) -> None:
        from lovasz_repro.study import machine

        shift = datetime.timedelta(days=self.days)

        class Shifted(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Shifted:
                there = datetime.datetime.now(tz) + shift
                return cls.fromisoformat(there.isoformat())

        really = time.time
        time.time = lambda: really() + shift.total_seconds()
        vars(machine)["datetime"] = SimpleNamespace(datetime=Shifted, UTC=datetime.UTC)


@dataclass(frozen=True)
class Undrawn:
    """Leaves the figures of a report empty."""

    def arm(self) -> None:
        from lovasz_repro.report import drawing

        vars(drawing)["_svg"] = lambda draw: b"<svg/>"


Armed = Strike | Published | Clock | Undrawn


BALLAST = "ballast"


def fill(disk: Path) -> None:
    """Write until the disk is full, to the last byte."""
    with (disk / BALLAST).open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, or minus the signal that killed it; what it said."""

    status: int
    said: str

    def is_one_line(self, *parts: str) -> None:
        """Assert that it failed with one line of ours that holds these parts."""
        assert self.status == 1, self.said
        assert "Traceback" not in self.said, self.said
        lines = [line for line in self.said.splitlines() if line.startswith("lovasz-repro: ")]
        assert len(lines) == 1, self.said
        for part in parts:
            assert part in lines[0], self.said


class Commands:
    """Runs commands in forked processes, struck or not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = context()
        self._count = 0

    def start(self, arguments: Sequence[str], *strikes: Armed) -> Running:
        self._count += 1
        said = self._folder / f"said-{self._count}.txt"
        process = self._context.Process(target=_command, args=(list(arguments), strikes, said))
        process.start()
        return Running(process, said)

    def __call__(self, arguments: Sequence[str], *strikes: Armed) -> Ended:
        return self.start(arguments, *strikes).wait()


@dataclass(frozen=True)
class Study:
    """A study of seconds in a folder of its own, and one that nothing disturbed."""

    run: Commands
    command: list[str]
    folder: Path
    undisturbed: Path

    def struck(self, *strikes: Armed) -> Ended:
        return self.run(self.command, *strikes)

    def goes_on(self) -> Ended:
        """Run the command again: it leaves what the undisturbed study left, to the byte."""
        ended = self.run(self.command)
        assert ended.status == 0, ended.said
        assert contents(self.folder) == contents(self.undisturbed)
        return ended


@dataclass(frozen=True)
class Running:
    process: Any
    said: Path

    def wait(self) -> Ended:
        self.process.join(120)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after two minutes: {self.said.read_text()}")
        return Ended(self.process.exitcode, self.said.read_text())


def _command(arguments: list[str], strikes: Sequence[Armed], said: Path) -> None:
    import torch

    from lovasz_repro.__main__ import main

    # A forked process has none of its parent's threads.
    torch.set_num_threads(1)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        for strike in strikes:
            strike.arm()
        status = 70
        try:
            status = main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    os._exit(status)
