"""Small archives in the layout of VOC and SBD, and a server on this machine that holds them."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from lovasz_repro.data.voc import save_mask

VOC_TAR = "VOCtrainval_11-May-2012.tar"
SBD_TAR = "benchmark.tgz"
# Images 0 and 1 are VOC's train, 2 to 5 its val; SBD has masks of 1, 2, 6 and 7.
TRAIN, VAL, SBD = (0, 1), (2, 3, 4, 5), (1, 2, 6, 7)
VOC_LABEL, SBD_LABEL = 3, 8


def image_id(number: int) -> str:
    return f"2008_{number:06d}"


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def png(label: int, folder: Path) -> bytes:
    path = folder / "mask.png"
    save_mask(path, np.full((32, 48), label, np.uint8))
    return path.read_bytes()


def mat(label: int) -> bytes:
    """A file as SBD's cls folder holds them: GTcls.Segmentation is the label map."""
    file = io.BytesIO()
    boundaries = np.zeros((20, 1), object)
    segmentation = np.full((32, 48), label, np.uint8)
    savemat(file, {"GTcls": {"Boundaries": boundaries, "Segmentation": segmentation}})
    return file.getvalue()


class Server:
    """Serves what is in ``files``; breaks off once after ``break_after`` bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: int | None = None
        self.knows_ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.http.serve_forever)
        thread.start()
        yield
        self.http.shutdown()
        self.http.server_close()
        thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, range_asked = handler.path[1:], handler.headers["Range"]
        self.requests.append((name, range_asked))
        if name not in self.files:
            handler.send_error(404)
            return
        start = 0
        if range_asked and self.knows_ranges:
            start = int(range_asked.removeprefix("bytes=").removesuffix("-"))
        content = self.files[name][start:]
        if not content:
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: self.break_after])
        self.break_after = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Both archives, served under torchvision's names with sums that torchvision seems to hold."""
    server = Server()
    base = "VOCdevkit/VOC2012"
    voc_file, sbd_file = io.BytesIO(), io.BytesIO()
    jpeg_path = tmp_path / "image.jpg"
    Image.new("RGB", (48, 32)).save(jpeg_path)
    with tarfile.open(fileobj=voc_file, mode="w") as tar:
        for number in range(8):
            add(tar, f"{base}/JPEGImages/{image_id(number)}.jpg", jpeg_path.read_bytes())
        for number in TRAIN + VAL:
            add(tar, f"{base}/SegmentationClass/{image_id(number)}.png", png(VOC_LABEL, tmp_path))
        for name, numbers in {"train": TRAIN, "val": VAL, "trainval": TRAIN + VAL}.items():
            lines = "".join(f"{image_id(number)}\n" for number in numbers)
            add(tar, f"{base}/ImageSets/Segmentation/{name}.txt", lines.encode())
    with tarfile.open(fileobj=sbd_file, mode="w:gz") as tar:
        for number in SBD:
            add(tar, f"benchmark_RELEASE/dataset/cls/{image_id(number)}.mat", mat(SBD_LABEL))
            add(tar, f"benchmark_RELEASE/dataset/img/{image_id(number)}.jpg", b"")
        add(tar, "benchmark_RELEASE/dataset/train.txt", b"")
    publish(server, monkeypatch, VOC_TAR, voc_file.getvalue())
    publish(server, monkeypatch, SBD_TAR, sbd_file.getvalue())
    with server.running():
        yield server


def publish(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes) -> None:
    server.files[name] = content
    md5 = hashlib.md5(content).hexdigest()
    if name == VOC_TAR:
        entry = {**DATASET_YEAR_DICT["2012"], "url": f"{server.url}/{name}", "md5": md5}
        monkeypatch.setitem(DATASET_YEAR_DICT, "2012", entry)
    else:
        monkeypatch.setattr(SBDataset, "url", f"{server.url}/{name}")
        monkeypatch.setattr(SBDataset, "md5", md5)
