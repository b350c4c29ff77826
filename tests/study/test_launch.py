"""Where jobs run: on a Ray cluster of two nodes, of which one is lost, as in this process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lovasz_repro.__main__ import main
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json
from lovasz_repro.records import load
from lovasz_repro.study.launch import Workers, workspace_of
from lovasz_repro.study.workspace import room_for_data
from tests.helpers.studies import command, contents, tiny

ON_RAY = ["--launcher", "ray"]


def test_ray_that_is_not_installed_is_asked_for(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not there
    assert main([*command(shapes_root, tmp_path), *ON_RAY]) == 1
    assert "pip install 'lovasz_repro[ray]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--address", "somewhere:6379"], "needs --launcher ray"),
        (["--launcher", "slurm"], "slurm"),
        ([*ON_RAY, "--runtime.gpus_per_cell", "0"], "runtime.gpus_per_cell: 0.0 is not a positive"),
        ([*ON_RAY, "--runtime.cpus_per_cell", "1.5"], "neither whole nor below 1"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str], said: str, shapes_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main([*command(shapes_root, tmp_path), *options]) == 1
    assert said in capsys.readouterr().err


STATE = """
import logging, os
import pytorch_lightning, torch
from lightning_utilities.core.rank_zero import rank_zero_only

def state():
    return (
        dict(os.environ), rank_zero_only.rank, torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory, torch.get_num_threads(),
        float(torch.tensor(1e-40) * 1), torch.initial_seed(),
        [logging.getLogger(name).level for name in ("pytorch_lightning", "lightning_fabric")],
    )

before = state()
import lovasz_repro.__main__, lovasz_repro.bench.steps, lovasz_repro.study.grid
assert state() == before, (before, state())
import sys
sys.exit(lovasz_repro.__main__.main(sys.argv[1:]))
"""
"""Imports all of the package, which changes no global state, then runs a command."""


def test_a_process_of_slurm_is_no_rank_of_a_training(shapes_root: Path, tmp_path: Path) -> None:
    """The second process of a SLURM job, as Ray's on its second node is, logs like any other.
    Lightning takes its rank from SLURM when it is imported; our package leaves that as it is."""
    slurm = {
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "study", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "here",
    }  # fmt: skip
    run = [sys.executable, "-c", STATE, *command(shapes_root, tmp_path)]
    few = ["--tuning.lrs", "[]", "--cells.categories", "[bird]", "--cells.losses", "[hinge]"]
    done = subprocess.run(
        [*run, *few], env={**os.environ, **slurm}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(load(tmp_path / "demo").results) == 2
    assert list((tmp_path / "demo/tensorboard/bird/hinge/fold0-seed0").glob("events.*"))


def test_a_worker_process_has_the_variables_of_a_command(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts its processes without them; cuBLAS reads one at its first call."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    workspace_of(pickle.dumps(tiny(shapes_root, tmp_path)), 1)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_images_of_paper_stay_on_a_gpu_with_24_gib() -> None:
    """10,582 + 1,449 images of 513², three channels and a mask, beside a training's 7 GB."""
    size, free = 12_031 * 4 * 513**2, 23.2 * 2**30
    assert size < room_for_data(free) < free - 7e9
    assert room_for_data(8 * 2**30) == 4 * 2**30


def test_a_study_that_fails_leaves_other_processes_alone() -> None:
    """Those of the program that calls it."""
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    two: Any = SimpleNamespace(config=SimpleNamespace(runtime=SimpleNamespace(workers=2)))
    with pytest.raises(ValueError, match="fails"), Workers(two):
        raise ValueError("it fails")
    other.join(0.5)
    assert other.is_alive()
    other.kill()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster whose head takes no jobs."""
    pytest.importorskip("ray", reason="Ray is not installed: nothing runs on a cluster here")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    nodes: Any = Cluster(initialize_head=True, head_node_args=node(cpus=0))
    yield nodes
    nodes.shutdown()


def node(cpus: int = 1) -> dict[str, Any]:
    return {"num_cpus": cpus, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_study_outlives_its_driver_and_a_node(
    cluster: Any, shapes_root: Path, tmp_path: Path
) -> None:
    """kill -9 of the driver, then of the node with a cell on it, while another takes its place: the
    bytes of a local run."""
    # So that a cell is seen while it runs.
    slower = ["--tuning.lrs", "[]", "--optim.steps", "40", "--cells.categories", "[bird]"]
    assert main([*command(shapes_root, tmp_path / "local"), *slower]) == 0
    runs = tmp_path / "ray"
    arguments = [*command(shapes_root, runs), *slower, *ON_RAY, "--address", cluster.address]
    # An address of its own: a driver on the head's address connects to the head.
    doomed = cluster.add_node(**node(), node_ip_address="127.0.0.2")
    raylet = doomed.all_processes["raylet"][0].process.pid

    with driver(arguments, tmp_path) as first:
        cell_of(runs, raylet, first)
        first.kill()
    with driver(arguments, tmp_path) as second:
        pid, folder = cell_of(runs, raylet, second)
        workers = children(raylet)
        assert pid in workers
        for process in (raylet, *workers):
            os.kill(process, signal.SIGKILL)
        assert not (folder / "result.json").exists()
        cluster.add_node(**node(), node_ip_address="127.0.0.3")
        output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    assert "[3/3]" in output
    assert load(runs / "demo").missing == []
    assert contents(runs / "demo") == contents(tmp_path / "local" / "demo")


def driver(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lovasz_repro", *arguments], cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def cell_of(runs: Path, raylet: int, study: subprocess.Popen[str]) -> tuple[int, Path]:
    """Wait for a cell that runs on a node; its process and its folder."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and study.poll() is None:
        for owner in runs.glob("demo/cells/*/*/*/owner.json"):
            try:
                pid = read_json(owner)["pid"]
            except UserError:  # gone between the two
                continue
            if pid in children(raylet):
                return pid, owner.parent
        time.sleep(0.01)
    raise AssertionError(f"no cell ran on that node; the study's status is {study.returncode}")


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found
