"""What several tests share: small generated data sets, and whether the real sample is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lovasz_repro.data.folds import write_folds
from lovasz_repro.data.shapes import generate
from lovasz_repro.data.voc import VOC
from tests.helpers.archives import server as server
from tests.helpers.batches import source as source
from tests.helpers.places import REAL
from tests.helpers.undrawn import nothing_drawn

# The processes of a suite that runs in several share the cores.
torch.set_num_threads(
    max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
)


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """A study may set how many threads torch has; the next module's tests have what they had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 12 val images of shapes."""
    root = tmp_path_factory.mktemp("shapes")
    generate(root, train=24, val=12, size=(60, 80))
    return root


@pytest.fixture(scope="session")
def real_root() -> Path:
    """The sample of real VOC beside the project, where it is."""
    root = REAL / "voc"
    if not root.is_dir():
        pytest.skip("no ../shared/voc: nothing is tested on real images here")
    return root


@pytest.fixture(scope="session")
def partitioned_root(real_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample of real VOC with the lists of three partitions beside its own."""
    folder = tmp_path_factory.mktemp("partitioned") / "VOCdevkit" / "VOC2012"
    there = VOC(real_root)
    for path in there.folder.iterdir():
        if path.name != "ImageSets":
            (folder / path.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.name).symlink_to(path.resolve())
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for path in there.lists_folder.iterdir():
        (folder / "ImageSets" / "Segmentation" / path.name).write_bytes(path.read_bytes())
    root = folder.parents[1]
    write_folds(VOC(root), partitions=3, name="repeat")
    return root


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Reports with empty figures: drawing takes seconds."""
    with nothing_drawn():
        yield
