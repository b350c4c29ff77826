"""One cell: a category trained with a loss on one fold from one seed, evaluated, recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger
from torch import Tensor

from lovasz_repro import files, records
from lovasz_repro.config import Optim
from lovasz_repro.data.binary import balanced_plan
from lovasz_repro.data.datamodule import DataModule, Task
from lovasz_repro.data.reading import Source
from lovasz_repro.losses import cross_entropy
from lovasz_repro.records import UNTRAINED, Cell, Json
from lovasz_repro.schema import without_batch
from lovasz_repro.study.base import base_network
from lovasz_repro.study.kept import FILE, drop_others, keep
from lovasz_repro.study.pictures import log_pictures
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.callbacks import Stopwatch, shown
from lovasz_repro.training.logs import log_final
from lovasz_repro.training.loop import (
    autocast,
    deterministic,
    fit,
    make_trainer,
    test,
    validate,
)
from lovasz_repro.training.metrics import THRESHOLDS, threshold_of_best_image_iou
from lovasz_repro.training.segmenter import BinarySegmenter, NonFiniteError

HELD_OUT_IMAGES = 100
"""Held-out images with the category, at most, and as many without: they score a learning rate and
choose a cell's threshold."""


@dataclass(frozen=True)
class Choice:
    """How a cell trains: chosen by tuning, or the configuration's own."""

    lr: float
    steps: int


def run_cell(workspace: Workspace, cell: Cell, choice: Choice) -> Json:
    """Train, evaluate at the files' own sizes, and leave the cell's records.

    Returns: what `result.json` holds; nothing where another process of the same training writes it.

    Raises: NonFiniteError.
    """
    started = time.perf_counter()
    config = workspace.config
    folder = workspace.folder / cell.path
    setting = Setting(workspace, cell.category, cell.fold)
    loggers = workspace.loggers(cell.category, f"{cell.loss}/fold{cell.fold}-seed{cell.seed}")
    train_index, val_index, held_out = setting.indices()
    optim = setting.optim(choice.steps) if cell.loss != UNTRAINED else None
    module, trainer, data = setting.train(
        cell.loss, choice.lr, cell.seed, train_index, val_index, optim, folder, str(cell), loggers
    )
    module.threshold, _ = threshold_of_best_image_iou(*setting.predict(module, data, held_out))
    before = time.perf_counter()
    test(trainer, module, data)
    evaluated = time.perf_counter() - before
    if workspace.rank:
        return {}
    images = pd.DataFrame(module.rows)
    broken = images.columns[~np.isfinite(images.to_numpy(float)).all(0)].tolist()
    if broken:
        raise NonFiniteError(
            f"at the images' own sizes {', '.join(broken)} not finite, learning rate {choice.lr:g}"
        )
    images["id"] = [workspace.images.ids[i] for i in images["index"]]
    tp, fp, fn = (int(images[name].sum()) for name in ("tp", "fp", "fn"))
    result = setting.described(cell, choice, train_index, held_out) | {
        "threshold": module.threshold,
        "images": len(images),
        "image_iou": float(images["iou"].mean()),
        "tuned_image_iou": float(images["tuned_iou"].mean()),
        "dataset_iou": tp / max(tp + fp + fn, 1),
    }
    if config.runtime.keep_weights != "none" and cell.loss != UNTRAINED:
        result["weights"] = keep(folder, module.network)
    else:
        (folder / FILE).unlink(missing_ok=True)
    keys = ("category", "loss", "fold", "seed", "lr", "steps")
    finals = ("image_iou", "tuned_image_iou", "dataset_iou")
    log_pictures(loggers, module, data, config.runtime.overlays)
    log_final(
        loggers, {key: result[key] for key in keys},
        {f"final/{name}": result[name] for name in finals}, choice.steps,
    )  # fmt: skip
    with files.atomic(folder / "predictions.npz") as temporary:
        masks = np.packbits(torch.stack(module.thumbnails).numpy(), axis=-1)
        np.savez_compressed(temporary, ids=images["id"].to_numpy(dtype=str), masks=masks)
    ious = torch.stack(module.threshold_ious).numpy()
    present = images["has_category"].to_numpy() == 1
    curve = {"threshold": THRESHOLDS.numpy(), "present": ious[present].mean(0)}
    tables = {
        "images.csv": images,
        "curve.csv": pd.DataFrame(module.curve),
        "thresholds.csv": pd.DataFrame(curve | {"absent": ious[~present].mean(0)}),
    }
    records.write_cell(folder, tables, result, cost(trainer, result, started, evaluated))
    if config.runtime.keep_weights == "best":
        drop_others(workspace.folder, cell.category, workspace.digest)
    (folder / "resume.ckpt").unlink(missing_ok=True)
    return result


def cost(trainer: pl.Trainer, result: Json, started: float, evaluated: float) -> Json:
    """What `cost.json` holds. started: on the clock; evaluated: seconds."""
    watch = Stopwatch.of(trainer)
    return {
        "images": result["images"],
        "train_seconds": watch.train_seconds,
        "seconds_per_step": watch.train_seconds / max(result["steps"], 1),
        "validate_seconds": watch.validate_seconds,
        "evaluate_seconds": evaluated,
        "total_seconds": time.perf_counter() - started,
    }


class Start:
    """What the cells of a fold start from: the base network's trained part, and the arrays."""

    def __init__(self, workspace: Workspace, category: str, fold: int) -> None:
        self.workspace = workspace
        self.category = category
        self.what = f"{category}, fold {fold}"
        network = workspace.config.network
        self.fold = fold
        base, self.base_digest = base_network(workspace, fold)
        frozen, self.base = base.split(network.train, network.split)
        self.source: Source = workspace.source(base, frozen)
        self.stride = base.stride

    def origin(self, loss: str, seed: int) -> str:
        """What a checkpoint is bound to, in the parts that `make_trainer` asks for."""
        spec = self.workspace.config.mixtures.get(without_batch(loss), {})
        mixture = f" {json.dumps(spec, sort_keys=True)}" if spec else ""
        return f"base network {self.base_digest}; {self.what}; loss {loss}{mixture}; seed {seed}"

    def described(
        self, cell: Cell, choice: Choice, train_index: NDArray[np.int64],
        held_out: NDArray[np.int64],
    ) -> Json:  # fmt: skip
        """What `result.json` holds of any cell, binary or not."""
        mixtures = self.workspace.config.mixtures
        bare = without_batch(cell.loss)
        return {
            **vars(cell),
            "hash": self.workspace.digest,
            "base": self.base_digest,
            "lr": choice.lr,
            "steps": choice.steps,
            "train_images": len(train_index),
            "held_out_images": len(held_out),
            **({"mixture": mixtures[bare]} if bare in mixtures else {}),
        }

    def optim(self, steps: int, validate_every: int | None = None) -> Optim:
        """The configuration's schedule with so many steps, and validations so far apart."""
        optim = self.workspace.config.optim
        every = optim.validate_every if validate_every is None else validate_every
        return replace(optim, steps=steps, validate_every=every)


class Setting(Start):
    """A category on a fold: the base network's channel, the arrays, the task."""

    def __init__(self, workspace: Workspace, category: str, fold: int) -> None:
        super().__init__(workspace, category, fold)
        self.label = workspace.config.data.label(category)
        self.task = Task(self.label, workspace.config.data.void_in_empty)
        self._present = workspace.present(category)

    def indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The images to train on, those to score, and those on which things are chosen."""
        workspace, fold = self.workspace, self.fold
        val = workspace.selection(self.category, workspace.index("val", fold))
        held_out = workspace.selection(self.category, workspace.holdout(fold), HELD_OUT_IMAGES)
        return workspace.train_index(fold), val, held_out

    def train(
        self, loss: str, lr: float, seed: int, train_index: NDArray[np.int64],
        val_index: NDArray[np.int64], optim: Optim | None, folder: Path | None, title: str,
        loggers: Sequence[Logger] = (),
    ) -> tuple[BinarySegmenter, pl.Trainer, DataModule]:  # fmt: skip
        """Train a copy of the base's score of the category on some images, validating on others.

        Args:
            optim: None validates the network as it is.
        """
        config = self.workspace.config
        schedule = optim or config.optim
        plan = balanced_plan(
            train_index, self._present[train_index], config.data.positive_fraction, seed=seed,
            batch_size=schedule.batch_size, scale=config.data.scale, flip=config.data.flip,
            what=self.what,
        )  # fmt: skip
        data = self.workspace.data_module(self.source, self.task, plan, val_index, schedule)
        network = self.base.binary(self.label, config.network.score)
        objective = config.loss(loss) if optim else cross_entropy
        module = BinarySegmenter(network, objective, schedule, lr, self.stride)
        trainer = make_trainer(
            module, config.runtime, self.workspace.device, title, folder=folder,
            identity=self.origin(loss, seed), loggers=loggers,
        )  # fmt: skip
        (fit if optim else validate)(trainer, module, data)
        return module, trainer, data

    def predict(
        self, module: BinarySegmenter, data: DataModule, index: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Logits and target (N, h, w) on the grid."""
        device = self.workspace.device
        module.to(device).eval()
        logits, targets = [], []
        runtime = self.workspace.config.runtime
        with torch.inference_mode(), autocast(runtime, device), deterministic():
            for raw in shown(data.images(index, native=False), f"{self.what}: threshold"):
                batch = data.prepare(data.transfer_batch_to_device(raw, device, 0))
                logits.append(module(batch.inputs)[:, 0])
                targets.append(batch.target)
        return torch.cat(logits), torch.cat(targets)
