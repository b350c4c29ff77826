"""Fetching, against small archives of the same layout and a server on this machine."""

import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy.io import savemat
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from lovasz_repro.data.fetch import fetch
from lovasz_repro.data.shapes import generate
from lovasz_repro.data.voc import VOC, check, save_mask
from lovasz_repro.errors import UserError

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
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def publish(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes) -> None:
    server.files[name] = content
    md5 = hashlib.md5(content).hexdigest()
    if name == VOC_TAR:
        entry = {**DATASET_YEAR_DICT["2012"], "url": f"{server.url}/{name}", "md5": md5}
        monkeypatch.setitem(DATASET_YEAR_DICT, "2012", entry)
    else:
        monkeypatch.setattr(SBDataset, "url", f"{server.url}/{name}")
        monkeypatch.setattr(SBDataset, "md5", md5)


def run(root: Path) -> str:
    printed = io.StringIO()
    fetch(root, Console(file=printed))
    return printed.getvalue()


def state(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in root.rglob("*")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_fetch_makes_a_whole_data_set(server: Server, root: Path) -> None:
    printed = run(root)
    voc = VOC(root)
    assert voc.ids("trainaug") == [image_id(number) for number in (0, 1, 6, 7)]
    assert "4 images in trainaug (VOC and SBD in full make 10582)" in printed
    for number in range(8):
        expected = VOC_LABEL if number in TRAIN + VAL else SBD_LABEL
        assert voc.mask_path(image_id(number)).parent.name == "SegmentationClassAug"
        assert (voc.mask(image_id(number)) == expected).all()
    for name in ("fold0", "fold1", *(f"repeat{k}" for k in range(6))):
        others = voc.ids(f"{name[:-1]}{int(name[-1]) ^ 1}_val")  # the partition's other fold
        assert len(others) == len(VAL) / 2
        assert voc.ids(f"{name}_train") == sorted(voc.ids("trainaug") + others)
        assert not set(others) & set(voc.ids(f"{name}_val"))
    assert check(root, Console(file=io.StringIO())) == []
    assert sorted(path.name for path in root.iterdir()) == [
        "VOCdevkit",
        VOC_TAR,
        SBD_TAR,
    ]


def test_a_second_fetch_does_nothing(server: Server, root: Path) -> None:
    run(root)
    before, asked = state(root), list(server.requests)
    run(root)
    run(root / "VOCdevkit" / "VOC2012")
    assert state(root) == before
    assert server.requests == asked


def test_archives_may_be_deleted_afterwards(server: Server, root: Path) -> None:
    run(root)
    (root / VOC_TAR).unlink()
    (root / SBD_TAR).unlink()
    asked = list(server.requests)
    run(root)
    assert server.requests == asked


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_download_goes_on_where_it_broke_off(
    server: Server, root: Path, knows_ranges: bool
) -> None:
    server.knows_ranges = knows_ranges
    server.break_after = 1000
    total = len(server.files[VOC_TAR])
    with pytest.raises(UserError, match=f"broke off at 1000 of {total} bytes"):
        run(root)
    assert [path.name for path in root.iterdir()] == [f"{VOC_TAR}.part"]
    run(root)
    assert server.requests[:2] == [(VOC_TAR, None), (VOC_TAR, "bytes=1000-")]
    assert (root / VOC_TAR).read_bytes() == server.files[VOC_TAR]


def test_part_file_that_is_already_whole(server: Server, root: Path) -> None:
    root.mkdir()
    (root / f"{VOC_TAR}.part").write_bytes(server.files[VOC_TAR])
    run(root)
    assert (root / VOC_TAR).read_bytes() == server.files[VOC_TAR]


def test_archive_put_there_by_hand_is_used(server: Server, root: Path) -> None:
    root.mkdir()
    for name in (VOC_TAR, SBD_TAR):
        (root / name).write_bytes(server.files.pop(name))
    run(root)
    assert server.requests == []


@pytest.mark.parametrize("name", [VOC_TAR, SBD_TAR])
def test_corrupt_archive_is_refused_by_name(server: Server, root: Path, name: str) -> None:
    root.mkdir()
    (root / name).write_bytes(server.files[name][:-600])
    with pytest.raises(UserError, match=f"{root / name}.*corrupt") as caught:
        run(root)
    assert "delete it" in str(caught.value)
    (root / name).unlink()
    run(root)


def test_corrupt_download_is_refused_and_the_next_starts_anew(server: Server, root: Path) -> None:
    good = server.files[SBD_TAR]
    server.files[SBD_TAR] = good[:100] + b"?" + good[101:]
    with pytest.raises(UserError, match=rf"{SBD_TAR}.*corrupt"):
        run(root)
    assert not list(root.glob(f"{SBD_TAR}*"))
    server.files[SBD_TAR] = good
    run(root)
    assert server.requests[-1] == (SBD_TAR, None)


def test_member_that_would_escape_is_refused(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO(server.files[VOC_TAR])
    with tarfile.open(fileobj=file, mode="a") as tar:
        add(tar, "../../escaped", b"escaped")
    publish(server, monkeypatch, VOC_TAR, file.getvalue())
    with pytest.raises(UserError, match=rf"{VOC_TAR}: refused.*escaped"):
        run(root)
    assert not (root / "VOCdevkit").exists()
    assert not list(root.parent.rglob("escaped"))


def test_link_to_the_outside_is_refused(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO(server.files[VOC_TAR])
    with tarfile.open(fileobj=file, mode="a") as tar:
        member = tarfile.TarInfo("VOCdevkit/VOC2012/link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(member)
    publish(server, monkeypatch, VOC_TAR, file.getvalue())
    with pytest.raises(UserError, match=rf"{VOC_TAR}: refused"):
        run(root)


def test_truncated_archive_with_the_right_sum_is_refused(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, SBD_TAR, server.files[SBD_TAR][:-300])
    with pytest.raises(UserError, match=rf"{SBD_TAR}: refused"):
        run(root)
    assert not (VOC(root).folder / "SegmentationClassAug").exists()


@pytest.mark.parametrize("step", ["extractall", "loadmat", "save_mask", "write_folds"])
def test_interrupted_step_is_redone(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    where = "tarfile.TarFile" if step == "extractall" else "lovasz_repro.data.fetch"
    with monkeypatch.context() as patch:
        patch.setattr(f"{where}.{step}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(root)
    run(root)
    assert check(root, Console(file=io.StringIO())) == []
    assert not [path for path in root.rglob(".*")]
    assert len(server.requests) == 2


def test_no_network_says_what_to_do_by_hand(server: Server, root: Path) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError) as caught:
        run(root)
    for part in (f"{server.url}/{VOC_TAR}", "refused", "by hand", str(root / VOC_TAR)):
        assert part in str(caught.value)


def test_missing_on_the_server(server: Server, root: Path) -> None:
    del server.files[SBD_TAR]
    with pytest.raises(UserError, match=rf"{SBD_TAR}.*404"):
        run(root)


def test_generated_shapes_are_not_taken_for_voc(tmp_path: Path) -> None:
    generate(tmp_path, train=1, val=2, size=(32, 32))
    with pytest.raises(UserError, match="generated shapes"):
        run(tmp_path)


def test_a_folder_in_the_way_is_named(server: Server, root: Path) -> None:
    (root / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    with pytest.raises(UserError, match="VOC2012 has no JPEGImages"):
        run(root)
    assert server.requests == []


def test_lists_that_exist_are_kept(server: Server, root: Path) -> None:
    run(root)
    voc = VOC(root)
    mine = voc.lists_folder / "trainaug.txt"
    mine.write_text(f"{image_id(6)}\n")
    shutil.rmtree(voc.folder / "SegmentationClassAug")
    run(root)
    assert mine.read_text() == f"{image_id(6)}\n"
