"""Published weights: downloaded from a server on this machine, converted, checked."""

import hashlib
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm.models
import torch
from rich.console import Console
from torch import Tensor

from lovasz_repro.__main__ import main
from lovasz_repro.errors import UserError
from lovasz_repro.models import weights
from lovasz_repro.models.weights import contents_digest, convert_deeplab, get_weights
from tests.helpers.archives import Server
from tests.helpers.places import REAL

TFLITE = "deeplabv3_mnv2_pascal_quant.tflite"
DEEPLAB = "deeplabv3_mobilenetv2_voc"
LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def published() -> Path:
    """The real published file, where it is; the conversion needs no smaller one."""
    path = REAL / "weights" / TFLITE
    if not path.is_file():
        pytest.skip(f"no ../shared/weights/{TFLITE}: the conversion is not tested here")
    pytest.importorskip("tflite", reason="no package tflite: the conversion is not tested here")
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves `TFLITE`, once a test has put it there, and a small state dict as timm's."""
    server = Server()
    monkeypatch.setattr(weights, "DEEPLAB_URL", f"{server.url}/{TFLITE}")
    content = saved({"conv_stem.weight": torch.arange(6.0).reshape(2, 3)})
    name = f"{LITE}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.files[name] = content
    config = SimpleNamespace(url=f"{server.url}/{name}")
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: config)
    with server.running():
        yield server


def saved(state: dict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def timm_file(server: Server) -> str:
    (name,) = (name for name in server.files if name.startswith(LITE))
    return name


def run(root: Path, *names: str) -> str:
    printed = io.StringIO()
    get_weights(names, root, Console(file=printed))
    return printed.getvalue()


def test_conversion_equals_an_independent_one_to_the_bit(published: Path) -> None:
    """The `.pth` beside the published file was made by another program."""
    expected = torch.load(published.with_name(f"{DEEPLAB}.pth"), weights_only=True)
    state = convert_deeplab(published)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], value), name


def test_the_known_digests_are_those_of_the_files_at_hand() -> None:
    folder = REAL / "weights"
    if not folder.is_dir():
        pytest.skip("no ../shared/weights")
    for name, digest in weights.CONTENTS.items():
        state = torch.load(folder / f"{name}.pth", weights_only=True)
        assert contents_digest(state) == digest


def test_downloads_and_converts(
    server: Server, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files[TFLITE] = published.read_bytes()
    assert main(["data", "weights", "--root", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [TFLITE, f"{DEEPLAB}.pth", f"{LITE}.pth"]
    )
    assert (tmp_path / f"{LITE}.pth").read_bytes() == server.files[timm_file(server)]
    loaded = torch.load(tmp_path / f"{DEEPLAB}.pth", weights_only=True)
    assert loaded["blocks.16.depthwise.weight"].shape == (960, 1, 3, 3)
    assert contents_digest(loaded) == weights.CONTENTS[DEEPLAB]
    assert f"{DEEPLAB}.pth is complete" in capsys.readouterr().out.replace("\n", "")
    asked = list(server.requests)
    run(tmp_path)
    assert server.requests == asked == [(TFLITE, None), (timm_file(server), None)]


def test_only_what_is_named(server: Server, tmp_path: Path) -> None:
    assert main(["data", "weights", LITE, "--root", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{LITE}.pth"]


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no 'resnet'; there is {DEEPLAB}, {LITE}"):
        run(tmp_path, "resnet")


def test_goes_on_where_it_broke_off(server: Server, published: Path, tmp_path: Path) -> None:
    server.files[TFLITE] = published.read_bytes()
    server.break_after = 100_000
    with pytest.raises(UserError, match="broke off at 100000 of 2193224 bytes"):
        run(tmp_path, DEEPLAB)
    assert [path.name for path in tmp_path.iterdir()] == [f"{TFLITE}.part"]
    run(tmp_path, DEEPLAB)
    assert server.requests == [(TFLITE, None), (TFLITE, "bytes=100000-")]
    assert (tmp_path / f"{DEEPLAB}.pth").is_file()


def test_published_file_put_there_by_hand_is_used(
    server: Server, published: Path, tmp_path: Path
) -> None:
    shutil.copyfile(published, tmp_path / TFLITE)
    run(tmp_path, DEEPLAB)
    assert server.requests == []


@pytest.mark.parametrize("damage", ["truncated", "altered", "another"])
def test_damaged_or_other_published_file_is_refused_by_name(
    server: Server, published: Path, tmp_path: Path, damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    content = published.read_bytes()
    (tmp_path / TFLITE).write_bytes({
        "truncated": content[:-1000],
        "altered": content[:9000] + bytes([content[9000] ^ 1]) + content[9001:],
        "another": b"<html>Not found</html>",
    }[damage])  # fmt: skip
    assert main(["data", "weights", DEEPLAB, "--root", str(tmp_path)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / TFLITE) in said
    assert weights.DEEPLAB_SHA256 in said
    assert not (tmp_path / f"{DEEPLAB}.pth").exists()


@pytest.mark.parametrize("name", [DEEPLAB, LITE])
@pytest.mark.parametrize("damage", ["truncated", "another", "no tensors"])
def test_damaged_or_other_state_dict_is_refused_by_name(
    server: Server, tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = saved({"conv_stem.weight": torch.zeros(2, 3)})
    path = tmp_path / f"{name}.pth"
    path.write_bytes({
        "truncated": whole[:-100], "another": whole, "no tensors": saved({"epoch": 3}),  # type: ignore[dict-item]
    }[damage])  # fmt: skip
    assert main(["data", "weights", name, "--root", str(tmp_path)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert str(path) in said
    assert "delete it" in said
    assert server.requests == []


def test_state_dict_that_was_saved_again_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(io.BytesIO(server.files[timm_file(server)]), weights_only=True)
    monkeypatch.setitem(weights.CONTENTS, LITE, contents_digest(state))
    torch.save(
        {"bn1.num_batches_tracked": torch.tensor(7), **state},  # a counter of newer files
        tmp_path / f"{LITE}.pth",
    )
    run(tmp_path, LITE)
    assert server.requests == []


def test_contents_digest_sees_names_shapes_and_values() -> None:
    state = {"a": torch.arange(6.0), "b": torch.ones(1)}
    others: list[dict[str, Tensor]] = [
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)},
        {"a": torch.arange(6.0), "c": torch.ones(1)},
        {"a": torch.arange(6.0), "b": torch.full((1,), 1.0000001)},
        {"a": torch.arange(6.0)},
    ]
    assert len({contents_digest(each) for each in [state, *others]}) == 5
    assert contents_digest(dict(reversed(state.items()))) == contents_digest(state)


def test_corrupt_download_is_refused(server: Server, published: Path, tmp_path: Path) -> None:
    server.files[TFLITE] = published.read_bytes()[:-1] + b"?"
    with pytest.raises(UserError, match=f"{TFLITE}: what .* sent is corrupt"):
        run(tmp_path, DEEPLAB)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [DEEPLAB, LITE])
def test_no_network_says_what_to_do_by_hand(
    server: Server, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(weights, "_schema", lambda: None)
    server.http.shutdown()
    server.http.server_close()
    assert main(["data", "weights", name, "--root", str(tmp_path)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    file = TFLITE if name == DEEPLAB else timm_file(server)
    goal = tmp_path / (TFLITE if name == DEEPLAB else f"{LITE}.pth")
    for part in (f"{server.url}/{file}", "by hand", f"copy it to {goal}"):
        assert part in said


def test_missing_package_is_said_before_anything_is_downloaded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "tflite", None)
    assert main(["data", "weights", DEEPLAB, "--root", str(tmp_path)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "pip install 'lovasz_repro[weights]'" in said
    assert server.requests == []


def test_real_addresses() -> None:
    """timm's own entry still names a file with its hash, and ours the public repository."""
    config = timm.models.get_pretrained_cfg(LITE)
    assert config is not None
    assert str(config.url).endswith("-0aa007d2.pth")
    assert weights.DEEPLAB_URL.startswith("https://github.com/google-coral/test_data/")
    assert weights.DEEPLAB_URL.endswith(f"/{TFLITE}")
