"""What the cells of an experiment share, opened or made once: data, caches, base networks.

`study.json` in the run's folder says under which settings its records were made. Settings that
would change a number are refused there, so one folder never mixes two experiments.
"""

from __future__ import annotations

import datetime
import io
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import timm
import torch
import torchmetrics
import torchvision
from numpy.typing import NDArray
from rich.console import Console

from lovasz_repro import records
from lovasz_repro.binary import SamplePlan, balanced_selection, label_of
from lovasz_repro.cache import ImageCache, feature_cache
from lovasz_repro.config import PACKAGE, Experiment, Optim
from lovasz_repro.datamodule import DataModule, Source, Task
from lovasz_repro.deeplab import DeepLab, build, state_digest
from lovasz_repro.devices import on_all
from lovasz_repro.errors import UserError
from lovasz_repro.records import Cell, Json
from lovasz_repro.segmenter import BaseSegmenter
from lovasz_repro.training import test, train
from lovasz_repro.voc import CATEGORIES, VOC

console = Console(stderr=True)


class Workspace:
    """An experiment with its data and networks at hand. Everything is opened when first used.

    Args:
        rank: which of `runtime.devices` this process has; only 0 writes records.
    """

    def __init__(self, config: Experiment, rank: int = 0) -> None:
        self.config = config
        self.rank = rank
        self.folder = config.folder
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        self._sources: dict[str, Source] = {}
        self._bases: dict[int, tuple[DeepLab, str]] = {}

    @cached_property
    def device(self) -> torch.device:
        """Raises: UserError where CUDA is asked for and absent."""
        wanted = self.config.runtime.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise UserError("runtime.device: cuda asked for, but torch sees no CUDA GPU; use cpu")
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device("cuda", self.rank) if wanted == "cuda" else torch.device(wanted)

    @cached_property
    def voc(self) -> VOC:
        return VOC(Path(self.config.data.root))

    def list_ids(self, kind: str, fold: int) -> list[str]:
        """The ids of the `train` or `val` list of a fold."""
        name: str = getattr(self.config.data, f"{kind}_list")
        return self.voc.ids(name.format(fold=fold))

    @cached_property
    def folds(self) -> list[int]:
        """The folds that the data's lists make; [0] where the lists have no {fold}."""
        template = self.config.data.val_list
        if "{fold}" not in template:
            return [0]
        pattern = re.escape(template).replace(re.escape("{fold}"), r"(\d+)")
        matches = (re.fullmatch(pattern, name) for name in self.voc.list_names())
        folds = sorted(int(match[1]) for match in matches if match)
        if not folds:
            raise UserError(
                f"data.val_list: no list is called {template!r} in {self.voc.lists_folder}; "
                f"there is {', '.join(self.voc.list_names())}"
            )
        return folds

    @cached_property
    def data(self) -> Json:
        """What `study.json` says of the data: all folds' lists and the weights, with hashes.

        Raises: UserError where an image is in both lists of a fold.
        """
        lists = {}
        for fold in self.folds:
            train, val = (self.list_ids(kind, fold) for kind in ("train", "val"))
            if both := set(train) & set(val):
                raise UserError(
                    f"{len(both)} images are in the training and the val list of fold {fold}, "
                    f"{min(both)} the first: {self.voc.lists_folder}"
                )
            for kind, ids in (("train", train), ("val", val)):
                name = getattr(self.config.data, f"{kind}_list").format(fold=fold)
                digest = records.sha256("\n".join(ids).encode())
                lists[name] = {"images": len(ids), "sha256": digest}
        weights = []
        for path in dict.fromkeys(map(self.config.network.weights_of, self.folds)):
            if path is None:
                return {"lists": lists}
            if not Path(path).is_file():
                raise UserError(f"network.weights: there is no file {path}")
            digest = records.sha256(Path(path).read_bytes())
            weights.append({"file": Path(path).name, "sha256": digest})
        return {"lists": lists, "weights": weights}

    @cached_property
    def digest(self) -> str:
        return self.config.digest(self.data)

    @cached_property
    def images(self) -> ImageCache:
        config = self.config
        ids = {
            name
            for kind in ("train", "val")
            for fold in self.folds
            for name in self.list_ids(kind, fold)
        }
        return ImageCache.open(
            self.voc, sorted(ids), config.data.image_size, Path(config.data.cache)
        )

    def open(self, cells: Sequence[Cell]) -> None:
        """Take the run's folder for these cells: write `study.json` and `machine.json`.

        Cells that an earlier command named stay in the grid.

        Raises: UserError where it holds records of other settings.
        """
        path = self.folder / "study.json"
        study = {
            "experiment": self.config.name,
            "generated": self.voc.generated,
            "hash": self.digest,
            "grid": _grid(cells),
            "config": _settings(self.config),
            "data": self.data,
        }
        if path.exists():
            there = records.read_json(path)
            if there["hash"] != self.digest:
                raise UserError(
                    f"{self.folder} holds records of other settings ({_differences(there, study)})."
                    " Keep them apart with --name or --runs, or delete that folder."
                )
            study["grid"] = _grid(cells, there["grid"])
        records.write_json(path, study)
        machine = describe_machine(self.device)
        earlier = self.folder / "machine.json"
        if earlier.exists():
            machine["started"] = records.read_json(earlier).get("started", machine["started"])
        records.write_json(earlier, machine)

    def close(self) -> None:
        """Note in `machine.json` when the study was complete."""
        machine = records.read_json(self.folder / "machine.json")
        finished = datetime.datetime.now(datetime.UTC)
        seconds = (finished - datetime.datetime.fromisoformat(machine["started"])).total_seconds()
        seconds = max(round(seconds), 0)  # a clock may have been set back
        machine |= {"finished": finished.isoformat(timespec="seconds"), "seconds": seconds}
        records.write_json(self.folder / "machine.json", machine)

    def source(self, network: DeepLab, *, features: bool) -> Source:
        """The arrays to read from: images, or the features of `network`'s backbone."""
        stride = network.stride
        backbone = state_digest(network.backbone) if features else ""
        if (key := f"{stride}-{backbone}") not in self._sources:
            cache = self.images
            source = Source(
                cache, cache.images, cache.masks,
                np.ascontiguousarray(cache.masks[:, ::stride, ::stride]), None, stride,
                network.mean.cpu(), network.std.cpu(),
            )  # fmt: skip
            if features:
                network = network.to(self.device).eval()
                arrays = feature_cache(
                    cache, backbone, network.backbone,
                    lambda index: source.canvases(index).to(self.device),
                )  # fmt: skip
                source = replace(source, features=arrays)
            if self.device.type == "cuda":
                size = sum(rows.nbytes for rows in source.needed().values())
                free = torch.cuda.mem_get_info(self.device)[0] / self.config.runtime.workers
                if size < free / 2:  # room for the network
                    source = source.resident(self.device)
            self._sources[key] = source
        return self._sources[key]

    def features(self) -> None:
        """Compute the features that bases need, before several processes ask for them."""
        if self.config.base.train == "head":
            for fold in self.config.cells.folds:
                self.source(build(self.config.network, fold), features=True)
            self._sources.clear()  # what they hold of a GPU is for the processes that train
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def base_folder(self, fold: int) -> Path:
        return self.folder / "base" / f"fold{fold}"

    def base(self, fold: int) -> tuple[DeepLab, str]:
        """The 21-way network of a fold and its digest; made now if it is not there."""
        if fold not in self._bases:
            self._bases[fold] = self._load_base(fold)
        return self._bases[fold]

    def _load_base(self, fold: int) -> tuple[DeepLab, str]:
        folder = self.base_folder(fold)
        path = folder / "result.json"
        if not path.exists() or records.read_json(path).get("hash") != self.digest:
            on_all(self, Workspace._make_base, fold)
        network = build(self.config.network, fold, pretrained=False)
        try:
            state = torch.load(folder / "network.pt", map_location="cpu", weights_only=True)
            network.load_state_dict(state)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise UserError(
                # Not its text: torch's advises to load the file in a way that runs what is in it.
                f"{folder / 'network.pt'}: cannot be loaded ({type(error).__name__}); delete "
                f"{folder} to have it made again"
            ) from error
        digest = state_digest(network)
        if digest != records.read_json(path)["sha256"]:
            raise UserError(
                f"{folder / 'network.pt'}: not the network that result.json beside it describes; "
                f"delete {folder} to have it made again"
            )
        network.freeze_batchnorm = True  # the cells fine-tune with the base's statistics
        return network.eval(), digest

    def _make_base(self, fold: int) -> None:
        started = time.perf_counter()
        base, folder = self.config.base, self.base_folder(fold)
        if not self.rank:
            console.print(f"Base network of fold {fold}: not there yet, making it ({base.train})")
        pl.seed_everything(base.seed, verbose=False)
        network = build(self.config.network, fold, complete=base.train == "none")
        head_only = base.train == "head"
        source = self.source(network, features=head_only)
        trained = network.head if head_only else network
        module = BaseSegmenter(trained, base.optim, network.stride)
        plan = SamplePlan(
            base.seed, base.optim.batch_size, [(self.index("train", fold), 1.0)],
            self.config.data.scale, self.config.data.flip,
        )  # fmt: skip
        task = Task(None, "void")
        data = self.data_module(source, task, plan, self.index("val", fold), base.optim)
        trainer = train(
            module, data, self.config.runtime, self.device, folder, f"base fold {fold}",
            skip_training=base.train == "none",
        )  # fmt: skip
        test(trainer, module, data)
        if self.rank:
            return
        values = module.label_iou.tolist()
        network = network.cpu()
        content = io.BytesIO()  # torch writes a file's name into the file, here a temporary one
        torch.save(network.state_dict(), content)
        records.write_bytes(folder / "network.pt", content.getvalue())
        seconds = time.perf_counter() - started
        records.write_json(
            folder / "cost.json",
            {
                "train_seconds": module.train_seconds,
                "validate_seconds": module.validate_seconds,
                "total_seconds": seconds,
            },
        )
        records.write_json(
            folder / "result.json",
            {
                "fold": fold,
                "hash": self.digest,
                "sha256": state_digest(network),
                "steps": 0 if base.train == "none" else base.optim.steps,
                "miou": float(module.label_iou.nanmean()),
                # A label that is neither in the val masks nor predicted has no IoU.
                "iou": {n: v for n, v in zip(("background", *CATEGORIES), values, strict=True)
                        if v == v},
                "curve": module.curve,
            },
        )  # fmt: skip
        (folder / "resume.ckpt").unlink(missing_ok=True)
        console.print(f"Base network of fold {fold}: mIoU {float(module.label_iou.nanmean()):.3f}")

    def index(self, kind: str, fold: int) -> NDArray[np.int64]:
        """The images of a fold's list as indices into the cache."""
        return self.images.indices(self.list_ids(kind, fold))

    def present(self, category: str) -> NDArray[np.bool_]:
        """(N,) whether each image of the cache holds the category."""
        return self.images.counts[:, label_of(category)] > 0

    def selection(
        self, category: str, index: NDArray[np.int64], limit: int | None = None
    ) -> NDArray[np.int64]:
        """Of these images: those with the category and, drawn once, `data.negatives` without."""
        data = self.config.data
        present = self.present(category)[index]
        return index[balanced_selection(present, data.negatives, data.val_seed, limit)]

    def data_module(
        self, source: Source, task: Task, plan: SamplePlan, val_index: NDArray[np.int64],
        optim: Optim,
    ) -> DataModule:  # fmt: skip
        return DataModule(
            source, task, plan, val_index,
            epoch_steps=optim.validate_every,
            crop_size=self.config.data.crop_size,
            share=(self.rank, self.config.runtime.devices),
            eval_batch=self.config.runtime.eval_batch,
            # At the files' sizes one image fills a CPU's caches.
            test_batch=self.config.runtime.eval_batch if self.device.type == "cuda" else 1,
        )  # fmt: skip


def describe_machine(device: torch.device) -> Json:
    """Commit, versions, hardware, date: for the report's header."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(PACKAGE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "commit": commit,
        "dirty": bool(changes) if changes is not None else None,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": version("pytorch_lightning"),
        "torchmetrics": torchmetrics.__version__,
        "timm": timm.__version__,
        "processor": name,
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "started": now,
    }


def _grid(cells: Sequence[Cell], earlier: Json | None = None) -> Json:
    """The smallest grid with all these cells, and an earlier grid's behind them."""
    return {
        plural: list(
            dict.fromkeys([*(vars(cell)[one] for cell in cells), *(earlier or {}).get(plural, [])])
        )
        for one, plural in (
            ("category", "categories"), ("loss", "losses"), ("fold", "folds"), ("seed", "seeds"),
        )
    }  # fmt: skip


def _settings(config: Experiment) -> Json:
    """The configuration without what belongs to this machine."""
    settings: Json = _plain(asdict(config))
    settings["runtime"] = config.runtime.numeric()
    del settings["runs"], settings["data"]["root"], settings["data"]["cache"]
    del settings["network"]["weights"]
    return settings


def _plain(value: Any) -> Any:
    """As JSON will give it back: tuples are lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _differences(there: Json, here: Json) -> str:
    """The configuration keys in which two studies differ, with both values."""
    old, new = _flat(there["config"]), _flat(here["config"])
    changed = [
        f"{key}: {old.get(key)} there, {new.get(key)} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(("cells.", "expected"))
    ]
    if there["data"] != here["data"]:
        changed.append("the data lists or the weights")
    return "; ".join(changed) or "another version of the numeric code"


def _flat(value: Json, prefix: str = "") -> Json:
    flat: Json = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat
