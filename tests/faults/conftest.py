"""What the faults need: commands to strike, an undisturbed run, a small disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from tests.faults.harness import Commands, Published, Study
from tests.helpers.archives import Server
from tests.helpers.studies import command


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp("said"))


@pytest.fixture(scope="module")
def options() -> list[str]:
    """What a module of tests adds to the command of its study."""
    return []


@pytest.fixture(scope="module")
def finished(
    run: Commands, shapes_root: Path, options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a study that nothing disturbed."""
    runs = tmp_path_factory.mktemp("undisturbed")
    ended = run([*command(shapes_root, runs), *options])
    assert ended.status == 0, ended.said
    return runs / "demo"


@pytest.fixture
def study(
    run: Commands, shapes_root: Path, options: list[str], finished: Path, tmp_path: Path
) -> Study:
    return Study(run, [*command(shapes_root, tmp_path), *options], tmp_path / "demo", finished)


@pytest.fixture
def published(server: Server) -> Published:
    """The archives of `server`, for a command in another process."""
    assert SBDataset.md5 is not None
    return Published(DATASET_YEAR_DICT["2012"], SBDataset.url, SBDataset.md5)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MiB in memory, under a path with a space and letters beyond ASCII."""
    folder = tmp_path / "a disk ä 数据"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"no small disk can be mounted here, which needs root: {said.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
