"""Several devices for one training: a process for each, under Lightning's `devices` and `strategy`.

This process is rank 0 and writes the records. It starts and ends the others, which make the same
calls and write nothing. Lightning would start them by running the command again, whose locks,
stages and records are made for one process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from lovasz_repro.config import Experiment
from lovasz_repro.errors import UserError

if TYPE_CHECKING:
    from lovasz_repro.study.workspace import Workspace

Rest = TypeVarTuple("Rest")
Result = TypeVar("Result")

PATIENCE = 20.0
"""Seconds after which a process that waits for a dead one is ended. By itself it would wait for
minutes."""


def on_all(
    workspace: Workspace, function: Callable[[Workspace, Unpack[Rest]], Result],
    *arguments: *Rest,
) -> Result:  # fmt: skip
    """Call `function(workspace, …)` in one process per device of `runtime.devices`.

    Raises: UserError if the process of another device failed.
    """
    ranks = range(1, workspace.config.runtime.devices)
    if not ranks:
        return function(workspace, *arguments)
    with ExitStack() as stack:
        port = str(find_free_network_port())
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        stack.enter_context(_environment({**place, "LOCAL_RANK": "0"}))
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(
                target=_take_part, daemon=True,
                args=(rank, place, type(workspace), workspace.config, function, arguments),
            )
            for rank in ranks
        ]  # fmt: skip
        for process in others:
            process.start()
            stack.callback(process.kill)
        finished = threading.Event()
        stack.callback(finished.set)
        threading.Thread(target=_watch, args=(others, finished), daemon=True).start()
        stack.callback(_leave)
        try:
            return function(workspace, *arguments)
        except UserError:  # of this process: the others may have ended with the same one
            raise
        except Exception as error:
            if died := _died(others, wait=1.0):
                raise UserError(died) from error
            raise


def _take_part(
    rank: int, place: dict[str, str], workspace: type[Workspace], config: Experiment,
    function: Callable[..., Any], arguments: Sequence[Any],
) -> None:  # fmt: skip
    """Run the function as the process of another device."""
    os.environ |= {**place, "LOCAL_RANK": str(rank)}
    end_with_parent()
    try:
        function(workspace(config, rank), *arguments)
    finally:
        _leave()


def end_with_parent() -> None:
    """Exit when the parent dies. A killed parent cannot stop its children, which would keep writing
    without its lock."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _watch(others: Sequence[BaseProcess], finished: threading.Event) -> None:
    """End this process if it keeps waiting for one that has failed."""
    while not finished.wait(0.2):
        if _died(others):
            if not finished.wait(PATIENCE):
                print(f"lovasz-repro: {_died(others)}", file=sys.stderr, flush=True)
                os._exit(1)
            return


def _died(others: Sequence[BaseProcess], wait: float = 0.0) -> str | None:
    """The error message if a process has failed, after at most `wait` seconds; else None."""
    deadline = time.monotonic() + wait
    for rank, process in enumerate(others, 1):
        process.join(max(deadline - time.monotonic(), 0))
        if process.exitcode:
            return (
                f"runtime.devices: the process of device {rank} ended with {process.exitcode}; "
                "what it said is above, and the same command goes on from here"
            )
    return None


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set these environment variables, by which Lightning finds the other processes."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
