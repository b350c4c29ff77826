"""Fetching, against small archives of the same layout and a server on this machine."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from lovasz_repro.data.fetch import fetch
from lovasz_repro.data.shapes import generate
from lovasz_repro.data.voc import VOC, check
from lovasz_repro.errors import UserError
from tests.helpers.archives import (
    SBD_LABEL,
    SBD_TAR,
    TRAIN,
    VAL,
    VOC_LABEL,
    VOC_TAR,
    Server,
    add,
    image_id,
    publish,
)  # fmt: skip


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
