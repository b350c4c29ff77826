"""The weights that a cell keeps: the trained part of its network, in `weights.safetensors`.

With the base network in the run's folder they give the whole network. `result.json` holds the
file's SHA-256 under `weights`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor, nn

from lovasz_repro import files, schema
from lovasz_repro.config import Data, Network, Runtime, check_settings
from lovasz_repro.errors import UserError
from lovasz_repro.files import sha256
from lovasz_repro.models.deeplab import DeepLab, build, not_finite, state_digest
from lovasz_repro.records import UNTRAINED, Cell, Json

FILE = "weights.safetensors"


def keep(folder: Path, network: nn.Module) -> str:
    """Write the network's tensors. Returns: the SHA-256 of the file."""
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    content = save(state)
    files.write_bytes(folder / FILE, content)
    return sha256(content)


def best_cells(run: Path, digest: str, category: str = "*") -> list[Cell]:
    """The trained cell with the best image-IoU of a category, or of each; the first of equals."""
    best: dict[str, tuple[float, Cell]] = {}
    for path in sorted(run.glob(f"cells/{category}/*/*/result.json")):
        result = files.read_json(path, schema.Result)
        cell = Cell(*(result[key] for key in ("category", "loss", "fold", "seed")))
        if result.get("hash") != digest or cell.loss == UNTRAINED:
            continue
        if cell.category not in best or result["image_iou"] > best[cell.category][0]:
            best[cell.category] = (result["image_iou"], cell)
    return [cell for _, cell in best.values()]


def drop_others(run: Path, category: str, digest: str) -> None:
    """Delete the weights of a category's finished cells, except those of the best one.

    Several processes may do so at once. The files are listed before the best cell is chosen, so
    that a cell which finishes in between is left to its own process.
    """
    finished = [
        path
        for path in run.glob(f"cells/{category}/*/*/{FILE}")
        if (path.parent / "result.json").exists()
    ]
    kept = {run / cell.path for cell in best_cells(run, digest, category)}
    for path in finished:
        if path.parent not in kept:
            path.unlink(missing_ok=True)


class Settings(TypedDict):
    """The part of `study.json` that says how a cell's network is built and what it is fed."""

    network: Network
    data: Data
    runtime: Runtime


class Config(TypedDict):
    config: Settings


@dataclass(frozen=True)
class Trained:
    """A cell's network, ready to predict.

    Attributes:
        network: normalised canvases (B, 3, S, S) -> logits (B, 1, h, w) on the grid, which is
            coarser by `base.stride`. `study.predict` feeds it files, and enlarges the logits.
        base: the base network; its `mean`, `std` and `stride` are those of the input and the grid.
        settings: of the experiment, as `study.json` has them.
        result: the cell's `result.json`. label: the category's in the masks.
    """

    network: nn.Module
    base: DeepLab
    settings: Settings
    result: Json
    label: int


def load_cell(folder: str | Path) -> Trained:
    """The network of a finished cell.

    Args:
        folder: runs/<experiment>/cells/<category>/<loss>/fold<k>-seed<s>.

    Raises: UserError if the cell is not finished, kept no weights, or a file is damaged.
    """
    folder = Path(folder).resolve()
    if len(folder.parents) < 4 or not (folder / "result.json").is_file():
        raise UserError(f"--cell: {folder} is not the folder of a finished cell (no result.json)")
    run = folder.parents[3]
    study = files.read_json(run / "study.json", schema.Study)
    if study["config"].get("task") == "multiclass":
        raise UserError(f"{folder}: a multi-class cell keeps no weights to predict with")
    settings = _settings(run / "study.json", study)
    result = files.read_json(folder / "result.json", schema.Result)
    here = Cell(*(result[key] for key in ("category", "loss", "fold", "seed")))
    if run / here.path != folder or result["hash"] != study["hash"]:
        raise UserError(f"{folder}: result.json is of another cell, {here}, or of another study")
    network, classes = settings["network"], settings["data"].classes
    if here.category not in classes:
        raise UserError(f"{folder / 'result.json'}: category: study.json has no {here.category}")
    base, digest = stored_base(run / "base" / f"fold{result['fold']}", network, len(classes) + 1)
    if digest != result["base"]:
        raise UserError(f"{folder}: trained from another base network than the one in {run}/base")
    frozen, top = base.split(network.train, network.split)
    label = classes.index(result["category"]) + 1
    trained = top.binary(label, network.score)
    if result["loss"] != UNTRAINED:
        _load(trained, folder, result, study["experiment"])
    whole = trained if frozen is None else _Behind(frozen, trained)
    return Trained(whole.eval(), base, settings, result, label)


def _settings(path: Path, study: Json) -> Settings:
    """The settings in study.json. Raises: UserError naming a key of a wrong type, or the hash if
    another value was edited."""
    config = study["config"]
    # The network's weights are those of the base.
    network = {**config.get("network", {}), "weights": "of the base"}
    there = {"config": {**config, "network": network}}
    try:
        if wrong := schema.problem(there, Config):
            raise UserError(wrong)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    check_settings(study, path)
    settings: Settings = msgspec.convert(there, Config)["config"]
    return settings


def stored_base(folder: Path, network: Network, labels: int) -> tuple[DeepLab, str]:
    """The base network in a folder, and its digest.

    Raises: UserError if it is missing, damaged or not the one that `result.json` describes.
    """
    file = files.regular(folder / "network.pt")
    if not file.exists():
        raise UserError(
            f"{file}: missing (records.zip holds no networks); the study makes it again"
        )
    base = build(network, labels=labels, pretrained=False)
    try:
        base.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            # Not its text: torch's suggests a way of loading that executes what is in the file.
            f"{file}: cannot be loaded ({type(error).__name__}); delete {folder} to have it made "
            "again"
        ) from error
    digest = state_digest(base)
    if digest != files.read_json(folder / "result.json", schema.Base)["sha256"]:
        raise UserError(
            f"{file}: not the network that result.json beside it describes; delete {folder} to "
            "have it made again"
        )
    _check_finite(base, file)
    base.freeze_batchnorm = True  # the cells fine-tune with the base's statistics
    return base.eval(), digest


def _load(network: nn.Module, folder: Path, result: Json, experiment: str) -> None:
    path = files.regular(folder / FILE)
    if not path.exists():
        cell = {key: str(result[key]) for key in ("category", "loss", "fold", "seed")}
        options = " ".join(f"--{key} {shlex.quote(value)}" for key, value in cell.items())
        config = Path("experiments") / f"{experiment}.yaml"
        known = config.exists()
        raise UserError(
            f"{path}: this cell kept no weights; make them with lovasz-repro fit --config "
            f"{config if known else 'FILE'} {options} --runtime.keep_weights all --again"
            + ("" if known else " and the other options of that study")
        )
    content = path.read_bytes()
    if sha256(content) != result.get("weights"):
        raise UserError(f"{path}: not the file that result.json describes (truncated, replaced?)")
    try:
        network.load_state_dict(parse(content))
    except (SafetensorError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path}: does not fit the network ({said})") from error
    _check_finite(network, path)


def _check_finite(network: nn.Module, path: Path) -> None:
    if name := not_finite(network):
        raise UserError(f"{path}: {name} is not finite")


class _Behind(nn.Module):
    """A frozen part and the network trained on its output, which is rounded to half precision as in
    the cache that the cell was trained and scored from."""

    def __init__(self, frozen: nn.Module, trained: nn.Module) -> None:
        super().__init__()
        self.frozen = frozen
        self.trained = trained

    def forward(self, images: Tensor) -> Tensor:
        features = self.frozen(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.trained(features.half().float())
        return logits
