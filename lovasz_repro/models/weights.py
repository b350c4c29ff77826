"""Published weights: download them, and convert them to state dicts that the experiments load.

    deeplabv3_mnv2_pascal_quant.tflite -> deeplabv3_mobilenetv2_voc.pth (converted)
    timm's tf_efficientnet_lite0       -> tf_efficientnet_lite0.pth     (as published)

Both are under the Apache License 2.0. An existing state dict is checked by its tensors, not by its
bytes, which depend on torch's version and on the file's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.hub import HASH_REGEX

from lovasz_repro.data.download import Download
from lovasz_repro.errors import UserError
from lovasz_repro.files import atomic, regular

DEEPLAB_URL = (
    "https://github.com/google-coral/test_data/raw/master/deeplabv3_mnv2_pascal_quant.tflite"
)
DEEPLAB_SHA256 = "350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398"

CONTENTS = {
    "deeplabv3_mobilenetv2_voc": "6428572470a0b7b94066583aadc45a5edce187133192305e76541438d02c6c69",
    "tf_efficientnet_lite0": "d0ffa0c1a78090979116266d4aa77281779814be0b2807f023155a42ac693773",
}
"""The weights by name, and the `contents_digest` of each."""


def get_weights(names: Sequence[str], root: Path, console: Console | None = None) -> None:
    """Make ``<name>.pth`` in ``root`` for each name, or all of `CONTENTS`; valid ones are kept.

    Raises:
        UserError: an unknown name, no network, a corrupt file, or no package to convert with; the
            message says what to do.
    """
    console = console or Console()
    for name in names:
        if name not in CONTENTS:
            raise UserError(f"weights: there is no {name!r}; there is {', '.join(CONTENTS)}")
    root.mkdir(parents=True, exist_ok=True)
    for name in names or CONTENTS:
        path = root / f"{name}.pth"
        if name == "tf_efficientnet_lite0":
            _get_timm(name, path, console)
        else:
            _get_deeplab(path, console)
        console.print(f"{path} is complete.", soft_wrap=True)


def _get_timm(name: str, path: Path, console: Console) -> None:
    """Download timm's own file, which is a state dict, under the name of the network."""
    from timm.models import get_pretrained_cfg

    url = getattr(get_pretrained_cfg(name), "url", None)
    digits = HASH_REGEX.search(url or "")
    if not url or not digits:
        raise UserError(f"timm has no address with a hash for {name}; put a state dict at {path}")
    published = Download(url, path, digits[1], "SHA-256")
    if path.exists() and not published.whole:
        _check(path, CONTENTS[name])  # the same tensors, saved again
    else:
        published.get(console)


def _get_deeplab(path: Path, console: Console) -> None:
    expected = CONTENTS["deeplabv3_mobilenetv2_voc"]
    if path.exists():
        _check(path, expected)
        return
    _schema()  # before the download, since the package may be missing
    published = path.with_name(DEEPLAB_URL.rpartition("/")[2])
    Download(DEEPLAB_URL, published, DEEPLAB_SHA256, "SHA-256").get(console)
    state = convert_deeplab(published)
    if contents_digest(state) != expected:
        raise UserError(
            f"{published}: the tensors read from it are not those expected; "
            "is the package tflite another than 2.18?"
        )
    with atomic(path) as temporary:
        torch.save(state, temporary)


def _check(path: Path, expected: str) -> None:
    """Raises: UserError if the file is not a state dict with the expected tensors."""
    regular(path)
    try:
        found = contents_digest(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a file that is not a state dict
        found = type(error).__name__
    if found != expected:
        raise UserError(
            f"{path}: the file is corrupt, incomplete or another one (SHA-256 of its tensors: "
            f"{found}, expected {expected}); delete it and run the command again."
        )


def contents_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, shapes and values of a state dict's floating-point tensors.

    BatchNorm's counters are left out: they play no part, and older files lack them.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if value.is_floating_point():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _schema() -> Any:
    """The generated readers of TensorFlow Lite's file format."""
    try:
        import tflite
    except ImportError as error:
        raise UserError(
            f"To convert a .tflite file: pip install 'lovasz_repro[weights]' ({error})"
        ) from error
    return tflite


def convert_deeplab(path: Path) -> dict[str, Tensor]:
    """Dequantise the published DeepLab v3 on MobileNetV2 (BatchNorm is folded in already).

    Args:
        path: the published file; its hash was checked.

    Returns:
        float32 tensors ``<layer>.weight`` (out, in / groups, height, width) and ``<layer>.bias``
        (out,), where a layer is ``stem``, ``blocks.<i>.{expand,depthwise,project}``,
        ``image_pooling``, ``aspp0``, ``concat_projection`` or ``logits``.
    """
    tflite = _schema()
    model = tflite.Model.GetRootAs(path.read_bytes())
    graph = model.Subgraphs(0)
    state = {}
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        kind = model.OperatorCodes(operator.OpcodeIndex()).DeprecatedBuiltinCode()
        depthwise = kind == tflite.BuiltinOperator.DEPTHWISE_CONV_2D
        if not depthwise and kind != tflite.BuiltinOperator.CONV_2D:
            continue
        weight, bias = (graph.Tensors(operator.Inputs(k)) for k in (1, 2))
        layer = _layer(weight.Name().decode())
        values = _dequantised(tflite, model, weight)
        # (1, height, width, channels) or (out, height, width, in)
        values = values.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        state[f"{layer}.weight"] = torch.from_numpy(np.ascontiguousarray(values))
        state[f"{layer}.bias"] = torch.from_numpy(_dequantised(tflite, model, bias))
    return state


def _layer(name: str) -> str:
    """`MobilenetV2/expanded_conv_3/expand/…` is blocks.3.expand, `MobilenetV2/Conv/…` the stem; the
    head's layers come with their own names."""
    if block := re.match(r"MobilenetV2/expanded_conv(?:_(\d+))?/(\w+)/", name):
        return f"blocks.{block[1] or 0}.{block[2]}"
    return "stem" if name.startswith("MobilenetV2/Conv/") else name.split("/")[0]


def _dequantised(tflite: Any, model: Any, tensor: Any) -> NDArray[np.float32]:
    """scale · (stored − zero point), float32, in the file's layout."""
    dtype = {tflite.TensorType.UINT8: np.uint8, tflite.TensorType.INT32: np.int32}[tensor.Type()]
    content = model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
    stored = np.frombuffer(content, np.dtype(dtype).newbyteorder("<"))
    quantisation = tensor.Quantization()
    scale, zero_point = np.float32(quantisation.Scale(0)), quantisation.ZeroPoint(0)
    values: NDArray[np.float32] = (stored.astype(np.int64) - zero_point).astype(np.float32) * scale
    return values.reshape(tensor.ShapeAsNumpy().tolist())
