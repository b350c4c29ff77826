"""Jobs on an existing Ray cluster, for `study --launcher ray`.

Every node needs this package, and the folders of the runs, the data and the weights under the same
paths; the cache may be each node's own. Only this module imports Ray, and only when asked for.
"""

from __future__ import annotations

import logging
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lovasz_repro.config import Experiment
from lovasz_repro.errors import UserError
from lovasz_repro.study.launch import Job, Result, Workers, call, workspace_of
from lovasz_repro.study.workspace import Workspace

RETRIES = 5
"""How often a job is sent again when its worker or node was lost."""


class RayWorkers(Workers):
    """As many jobs at once as the cluster has room for, each with `runtime.cpus_per_cell` CPUs and
    `runtime.gpus_per_cell` GPUs.

    Args:
        address: of the cluster; None: the one that runs on this machine.

    Raises: UserError if Ray is not installed, there is no cluster, or no node has the room.
    """

    patient = True

    def __init__(self, workspace: Workspace, address: str | None) -> None:
        try:
            import ray as imported
        except ImportError as error:
            raise UserError(
                "--launcher ray needs Ray: pip install 'lovasz_repro[ray]' (or `pip install ray`), "
                "on every node"
            ) from error
        self.workspace = workspace
        ray: Any = imported
        self._ray = ray
        on_main_thread = threading.current_thread() is threading.main_thread()
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address or "auto", logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"at {address}" if address else "on this machine"
            raise UserError(
                f"--address: no Ray cluster {where} ({error}). `ray start --head` starts one, "
                "`ray start --address HOST:6379` adds another machine."
            ) from error
        if on_main_thread:
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would exit without a word
        runtime = workspace.config.runtime
        wanted = {"CPU": runtime.cpus_per_cell, "GPU": self._gpus()}
        rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(room.get(k, 0) >= v for k, v in wanted.items()) for room in rooms):
            ray.shutdown()
            there = "; ".join(f"{r.get('CPU', 0):g} and {r.get('GPU', 0):g}" for r in rooms)
            raise UserError(
                f"runtime.cpus_per_cell, runtime.gpus_per_cell: no node has {wanted['CPU']:g} CPUs "
                f"and {wanted['GPU']:g} GPUs; the nodes have {there}"
            )
        self._remote = ray.remote(
            num_cpus=wanted["CPU"], num_gpus=wanted["GPU"], max_retries=RETRIES
        )(_call)

    def _gpus(self) -> float:
        """GPUs of a job by `runtime.device`; auto takes a GPU if the cluster has any."""
        runtime = self.workspace.config.runtime
        there = self._ray.cluster_resources().get("GPU", 0) > 0
        wanted = runtime.device == "cuda" or (runtime.device == "auto" and there)
        return runtime.gpus_per_cell if wanted else 0

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()  # ends what still runs for this driver

    def alone(self, function: Callable[[Workspace, Job], Result], job: Job) -> Result:
        ((_, result),) = self.run(function, [job])
        return result

    def run(
        self, function: Callable[[Workspace, Job], Result], jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, Result]]:
        """As `Workers.run`. A job whose worker or node is lost runs again elsewhere.

        Raises: UserError if a job was lost too often.
        """
        ray = self._ray
        config = pickle.dumps(_anywhere(self.workspace.config))
        threads = max(1, int(self.workspace.config.runtime.cpus_per_cell))
        shared = (config, threads, self.workspace.digest, function)
        pending = {self._remote.remote(*shared, job): job for job in jobs}
        while pending:
            (ended,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ended)
            try:
                result = ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise error.cause or error from error  # what the function raised
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"{job}: lost {RETRIES + 1} times with its worker or node ({error}); the same "
                    "command goes on from here"
                ) from error
            yield job, result


def _anywhere(config: Experiment) -> Experiment:
    """The experiment with absolute paths, for processes that start in other folders."""
    data, network = config.data, config.network
    weights = network.weights and str(Path(network.weights).absolute())
    return replace(
        config,
        runs=str(Path(config.runs).absolute()),
        data=replace(
            data, root=str(Path(data.root).absolute()), cache=str(Path(data.cache).absolute())
        ),
        network=replace(network, weights=weights),
    )


def _call(
    config: bytes, threads: int, digest: str, function: Callable[[Workspace, Any], Any], job: Any
) -> Any:
    if workspace_of(config, threads).digest != digest:
        raise UserError(
            f"{socket.gethostname()} has another version of lovasz_repro, or other data lists or "
            "weights, than the machine where the study was started"
        )
    return call(config, threads, function, job)
