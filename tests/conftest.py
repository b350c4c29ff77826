"""What several tests share: small generated data sets, and whether the real sample is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lovasz_repro.data.folds import write_folds
from lovasz_repro.data.shapes import generate
from lovasz_repro.data.voc import VOC, save_mask
from tests.helpers.archives import server as server
from tests.helpers.batches import source as source
from tests.helpers.places import REAL
from tests.helpers.undrawn import nothing_drawn

# The processes of a suite that runs in several share the cores.
torch.set_num_threads(
    max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
)


LONGEST = ("test_report", "test_stopped", "test_damaged", "test_devices", "test_cli", "test_launch",
           "test_study", "test_losses", "test_run_all", "test_notebook")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: else one of several processes has the last alone."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def unflushed() -> Iterator[None]:
    """Files are not flushed to the disk, which takes milliseconds for each of thousands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


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
    """The sample of real VOC with the lists of three partitions beside its own. Of each mask only
    its labels are left, one pixel each, and of each image a black line: quick to read."""
    root = tmp_path_factory.mktemp("partitioned")
    there = VOC(real_root)
    shutil.copytree(there.lists_folder, root / "VOCdevkit/VOC2012/ImageSets/Segmentation")
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (root / "VOCdevkit/VOC2012" / folder).mkdir()
    voc = VOC(root)

    def reduce(name: str) -> None:
        labels = np.unique(there.mask(name))[None]  # (1, n)
        Image.new("RGB", (labels.size, 1)).save(voc.image_path(name))
        save_mask(root / there.mask_path(name).relative_to(real_root), labels)

    with ThreadPool() as pool:
        pool.map(reduce, {name for one in there.list_names() for name in there.ids(one)})
    write_folds(voc, partitions=3, name="repeat")
    return root


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Reports with empty figures: drawing takes seconds."""
    with nothing_drawn():
        yield
