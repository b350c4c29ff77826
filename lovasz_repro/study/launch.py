"""Where jobs run: in this process, or in worker processes of it. On a cluster: `cluster.py`.

A job is a call `function(workspace, job)` that writes files: it does not matter which process runs
it, nor in which order jobs end.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from lovasz_repro import environment, files
from lovasz_repro.config import Experiment
from lovasz_repro.errors import UserError
from lovasz_repro.study.devices import end_with_parent
from lovasz_repro.study.workspace import Workspace

Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers:
    """`runtime.workers` processes that live as long as the `with` block; with one, this process.

    Attributes:
        patient: whether to wait for a folder that is in use. True for Ray: a job may be restarted
            while its lost worker still holds the folder's lock.
    """

    patient = False

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._pool: ProcessPoolExecutor | None = None
        if (count := workspace.config.runtime.workers) > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, end_with_parent)
            self._others = multiprocessing.active_children()  # of a program that calls `study`

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._pool is None:
            return
        if kind is not None:  # do not wait for running jobs
            for process in set(multiprocessing.active_children()) - set(self._others):
                process.kill()
        self._pool.shutdown(cancel_futures=True)

    def alone(self, function: Callable[[Workspace, Job], Result], job: Job) -> Result:
        """Run one job while no other runs."""
        return function(self.workspace, job)

    def run(
        self, function: Callable[[Workspace, Job], Result], jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, Result]]:
        """Yield each job with its result, as jobs end. The first error ends the rest.

        Raises: UserError if a worker process died.
        """
        if self._pool is None:
            for job in jobs:
                yield job, function(self.workspace, job)
            return
        config = pickle.dumps(self.workspace.config)
        threads = max(1, environment.cores() // self.workspace.config.runtime.workers)
        futures = {self._pool.submit(call, config, threads, function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as broken:
            raise UserError(
                "a worker process died (killed, or out of memory): the same command goes on from "
                "here; runtime.workers says how many run at once"
            ) from broken


def call(config: bytes, threads: int, function: Callable[[Workspace, Any], Any], job: Any) -> Any:
    """Run a job in a worker process.

    Args:
        config: the pickled experiment. threads: CPU threads, if it names no number.
    """
    return function(workspace_of(config, threads), job)


@lru_cache(maxsize=1)
def workspace_of(config: bytes, threads: int) -> Workspace:
    """The workspace of this worker process, kept from job to job."""
    environment.prepare()  # Ray starts its processes without these variables
    torch.set_num_threads(threads)
    experiment: Experiment = pickle.loads(config)  # of the process that started this one
    return Workspace(experiment)


class InUseError(UserError):
    """Another process works in the folder."""


@contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder. The lock is the system's: it ends with its process in any case.

    Args:
        wait: print the owner and wait until the folder is free.

    Raises: InUseError naming the owner if another process has locked it.
    """
    # Errors of writing that name no file are about this folder.
    with files.about(folder), _locked(folder, wait):
        files.sweep(folder)
        yield


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "owner.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        try:
            there = files.read_json(owner)
        except UserError:  # taken or released just now
            there = {}
        held_by = f"process {there.get('pid', '?')} on {there.get('host', '?')}"
        if not wait:
            raise InUseError(f"{folder} is in use by {held_by}") from error
        Console(stderr=True, markup=False).print(f"{folder} is in use by {held_by}; waiting for it")
        lock.acquire()
    try:
        files.write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
