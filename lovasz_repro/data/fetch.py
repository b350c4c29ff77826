"""Download VOC 2012 trainval and SBD, and make the paper's training set from them.

A step's result gets its final name only when it is complete, and a step whose result exists is
skipped: `fetch` may be stopped at any time and called again.

    VOCtrainval_11-May-2012.tar -> VOCdevkit/VOC2012
    benchmark.tgz (SBD)         -> VOCdevkit/VOC2012/SegmentationClassAug
                                -> ImageSets/Segmentation/{trainaug,fold<k>_train,fold<k>_val}.txt

Addresses, file names and MD5 sums are those of torchvision's data sets.
"""

import hashlib
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import wrap_file
from scipy.io import loadmat
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from lovasz_repro.data.download import CHUNK_BYTES, Download
from lovasz_repro.data.folds import write_folds
from lovasz_repro.data.voc import VOC, VOC_FOLDER, find_voc, save_mask
from lovasz_repro.errors import UserError
from lovasz_repro.files import about, write_bytes

TRAINAUG_SIZE = 10_582


def fetch(root: Path, console: Console | None = None) -> None:
    """Download, unpack and prepare VOC 2012 and SBD under ``root``; existing files are kept.

    Takes about 3.4 GB of downloads (the archives stay in ``root`` and may be deleted afterwards)
    and 2 GB unpacked.

    Raises:
        UserError: no network, a corrupt archive, or another data set in ``root``; the message says
            what to do by hand.
    """
    console = console or Console()
    root.mkdir(parents=True, exist_ok=True)
    voc2012 = DATASET_YEAR_DICT["2012"]
    if find_voc(root) is None:
        if (root / VOC_FOLDER).exists():
            raise UserError(f"{root / VOC_FOLDER} has no JPEGImages in it; move it out of the way.")
        archive = Download(voc2012["url"], root / voc2012["filename"], voc2012["md5"])
        archive.get(console)
        _unpack_voc(archive, root, console)
    voc = VOC(root)
    if voc.generated:
        raise UserError(f"{voc.folder} holds generated shapes; give VOC another --root.")
    masks = voc.folder / "SegmentationClassAug"
    if not masks.exists():
        archive = Download(SBDataset.url, root / SBDataset.filename, SBDataset.md5)
        archive.get(console)
        _build_masks(archive, voc, masks, console)
    if "trainaug" not in voc.list_names():
        _write_trainaug(voc, masks)
    count = len(voc.ids("trainaug"))
    note = "" if count == TRAINAUG_SIZE else f" (VOC and SBD in full make {TRAINAUG_SIZE})"
    write_folds(voc)
    write_folds(voc, partitions=3, name="repeat")
    console.print(f"{voc.folder} is complete: {count} images in trainaug{note}.", soft_wrap=True)


class _Digested:
    """A file whose MD5 sum is taken as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.md5 = hashlib.md5(usedforsecurity=False)

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.md5.update(content)
        return content


@contextmanager
def _members(archive: Download, console: Console, description: str) -> Iterator[tarfile.TarFile]:
    """Open an archive for one reading from front to back, with a progress bar.

    Raises: UserError if it is corrupt or has changed since it was checked: without the
        check a truncated tar would look like one with fewer files.
    """
    path = archive.path
    try:
        with (
            path.open("rb") as file,
            wrap_file(
                file, path.stat().st_size, description=description, console=console
            ) as watched,
        ):
            digested: Any = _Digested(watched)
            with tarfile.open(fileobj=digested, mode="r|*") as tar:
                yield tar
            while digested.read(CHUNK_BYTES):
                pass
            if digested.md5.hexdigest() != archive.digest:
                raise tarfile.ReadError("it has changed since it was checked")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: refused, {error}; delete it and run the command again."
        ) from error


def _unpack_voc(archive: Download, root: Path, console: Console) -> None:
    """Unpack aside and rename, so that a half-unpacked folder is never taken for VOC."""
    aside = root / ".VOC2012-unpacking"
    shutil.rmtree(aside, ignore_errors=True)
    with _members(archive, console, "Unpacking VOC 2012") as tar, about(aside):
        # Refuses absolute paths, "..", links to the outside and devices.
        tar.extractall(aside, filter="data")
    (root / VOC_FOLDER).parent.mkdir(parents=True, exist_ok=True)
    (aside / VOC_FOLDER).rename(root / VOC_FOLDER)
    shutil.rmtree(aside)


def _build_masks(archive: Download, voc: VOC, masks: Path, console: Console) -> None:
    """Make ``SegmentationClassAug`` of VOC's masks and, for other images, SBD's.

    SBD's archive is read without unpacking it. Only its label maps are used: its images are VOC's.
    """
    aside = masks.with_name(f".{masks.name}-building")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for mask in (voc.folder / "SegmentationClass").glob("*.png"):
        shutil.copyfile(mask, aside / mask.name)
    with _members(archive, console, "Converting SBD masks") as tar, about(aside):
        for member in tar:
            name = re.fullmatch(r"benchmark_RELEASE/dataset/cls/(\w+)\.mat", member.name)
            file = tar.extractfile(member) if name else None
            if name and file and not (mask := aside / f"{name[1]}.png").exists():
                labels = loadmat(io.BytesIO(file.read()))["GTcls"][0]["Segmentation"][0]
                save_mask(mask, np.asarray(labels, np.uint8))
    aside.rename(masks)


def _write_trainaug(voc: VOC, masks: Path) -> None:
    """Write trainaug: every image that has a mask and is not in VOC's val."""
    ids = {mask.stem for mask in masks.glob("*.png")} - set(voc.ids("val"))
    lines = "".join(f"{i}\n" for i in sorted(ids))
    write_bytes(voc.lists_folder / "trainaug.txt", lines.encode())
