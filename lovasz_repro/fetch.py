"""Download VOC 2012 trainval and SBD, and make of them the data set the paper trains on.

Every step leaves its result under its final name only when it is complete, and is skipped when that
name is there. So `fetch` may be stopped at any moment and called again.

    VOCtrainval_11-May-2012.tar -> VOCdevkit/VOC2012
    benchmark.tgz (SBD)         -> VOCdevkit/VOC2012/SegmentationClassAug
                                -> ImageSets/Segmentation/{trainaug,fold<k>_train,fold<k>_val}.txt

Addresses, file names and MD5 sums are those that torchvision's data sets hold.
"""

import hashlib
import http.client
import io
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, wrap_file
from scipy.io import loadmat
from torchvision.datasets import SBDataset
from torchvision.datasets.utils import calculate_md5
from torchvision.datasets.voc import DATASET_YEAR_DICT

from lovasz_repro.errors import DISK, UserError
from lovasz_repro.folds import write_folds
from lovasz_repro.records import about, write_bytes
from lovasz_repro.voc import VOC, VOC_FOLDER, find_voc, save_mask

TRAINAUG_SIZE = 10_582
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Archive:
    """One file to download, and where it goes."""

    url: str
    md5: str
    path: Path


def fetch(root: Path, console: Console | None = None) -> None:
    """Download, unpack and prepare VOC 2012 and SBD under ``root``; what is there is kept.

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
        archive = Archive(voc2012["url"], voc2012["md5"], root / voc2012["filename"])
        _download(archive, console)
        _unpack_voc(archive, root, console)
    voc = VOC(root)
    if voc.generated:
        raise UserError(f"{voc.folder} holds generated shapes; give VOC another --root.")
    masks = voc.folder / "SegmentationClassAug"
    if not masks.exists():
        archive = Archive(SBDataset.url, SBDataset.md5, root / SBDataset.filename)
        _download(archive, console)
        _build_masks(archive, voc, masks, console)
    if "trainaug" not in voc.list_names():
        _write_trainaug(voc, masks)
    count = len(voc.ids("trainaug"))
    note = "" if count == TRAINAUG_SIZE else f" (VOC and SBD in full make {TRAINAUG_SIZE})"
    write_folds(voc)
    console.print(f"{voc.folder} is complete: {count} images in trainaug{note}.", soft_wrap=True)


def _download(archive: Archive, console: Console) -> None:
    """Download an archive, going on with what an earlier call left, and check its MD5 sum.

    The unfinished file is called ``<name>.part``. A file under the full name was put there by hand
    or by an earlier call; it is checked and used, and refused when it is corrupt.
    """
    part = archive.path.with_name(archive.path.name + ".part")
    if archive.path.exists():
        if calculate_md5(archive.path) != archive.md5:
            raise UserError(
                f"{archive.path}: the archive is corrupt or incomplete (its MD5 sum is not "
                f"{archive.md5}); delete it and run the command again."
            )
        return
    with _explained(archive):
        _receive(archive.url, part, console)
    if calculate_md5(part) != archive.md5:
        part.unlink()
        raise UserError(
            f"{archive.path}: what {archive.url} sent is corrupt (its MD5 sum is not "
            f"{archive.md5}) and was deleted; run the command again."
        )
    part.replace(archive.path)


@contextmanager
def _explained(archive: Archive) -> Iterator[None]:
    """Turn what goes wrong on a network into what to do about it."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in DISK:
            raise  # not the network's fault
        raise UserError(
            f"Could not download {archive.url} ({error}). Run the command again to go on from "
            f"where it stopped. Or, by hand: fetch that file on a machine that can reach it (MD5 "
            f"{archive.md5}), copy it to {archive.path}, and run the command again."
        ) from error


def _receive(url: str, part: Path, console: Console) -> None:
    """Append to ``part`` what it still lacks of ``url``, or all of it if the server must start
    over."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "lovasz-repro"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is lacking
        raise
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with response, Progress(*columns, console=console) as progress, about(part):
        goes_on = response.status == http.client.PARTIAL_CONTENT
        have = have if goes_on else 0
        total = have + response.length if response.length is not None else None
        task = progress.add_task(f"Downloading {part.stem}", total=total, completed=have)
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection broke off at {part.stat().st_size} of {total} bytes")


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
def _members(archive: Archive, console: Console, description: str) -> Iterator[tarfile.TarFile]:
    """Open an archive for one reading from front to back, with a progress bar.

    Raises: UserError where it is not what it was when it was checked: a tar that ends too early
        looks like one with fewer files.
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
            if digested.md5.hexdigest() != archive.md5:
                raise tarfile.ReadError("it has changed since it was checked")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: refused, {error}; delete it and run the command again."
        ) from error


def _unpack_voc(archive: Archive, root: Path, console: Console) -> None:
    """Unpack aside and rename, so that a half-unpacked folder is never taken for VOC."""
    aside = root / ".VOC2012-unpacking"
    shutil.rmtree(aside, ignore_errors=True)
    with _members(archive, console, "Unpacking VOC 2012") as tar, about(aside):
        # Refuses absolute paths, "..", links to the outside and devices.
        tar.extractall(aside, filter="data")
    (root / VOC_FOLDER).parent.mkdir(parents=True, exist_ok=True)
    (aside / VOC_FOLDER).rename(root / VOC_FOLDER)
    shutil.rmtree(aside)


def _build_masks(archive: Archive, voc: VOC, masks: Path, console: Console) -> None:
    """Make ``SegmentationClassAug`` of VOC's masks and, for other images, SBD's.

    SBD's archive is only read, nothing of it is unpacked: one label map per image is all that is
    taken from it, its images are VOC's.
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
    """(SBD train, SBD val, VOC train) without VOC val. These are the images that have a mask and
    are not in val: SBD has masks for its train and val alone, and so has VOC."""
    ids = {mask.stem for mask in masks.glob("*.png")} - set(voc.ids("val"))
    lines = "".join(f"{i}\n" for i in sorted(ids))
    write_bytes(voc.lists_folder / "trainaug.txt", lines.encode())
