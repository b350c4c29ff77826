"""What cells and trials of tuning start from, and what differs between the tasks."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger

from lovasz_repro import files
from lovasz_repro.config import Optim
from lovasz_repro.data.binary import SamplePlan, balanced_plan
from lovasz_repro.data.datamodule import DataModule, Task
from lovasz_repro.losses import Loss
from lovasz_repro.records import Json
from lovasz_repro.records.agreement import label_scores
from lovasz_repro.schema import without_batch
from lovasz_repro.study.base import base_network
from lovasz_repro.study.pictures import log_pictures
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.callbacks import shown
from lovasz_repro.training.loop import autocast, deterministic, fit, make_trainer, validate
from lovasz_repro.training.metrics import THRESHOLDS, threshold_of_best_image_iou
from lovasz_repro.training.segmenter import (
    BinarySegmenter,
    LabelSegmenter,
    NonFiniteError,
    Segmenter,
)

Module = TypeVar("Module", bound=Segmenter)
Index = NDArray[np.int64]
"""Images, as indices into the cache."""

HELD_OUT_IMAGES = 100
"""Limit of held-out images with the category; `data.negatives` times as many without are added.
They score a learning rate and choose a cell's threshold."""


class CellSetup(Generic[Module]):
    """The part of a fold's base network that is trained, and its data. Each task has a subclass.

    Attributes:
        task: what the targets are.
        curve_every: a cell's curve is measured on every `curve_every`-th val image.
        settings, measures: the entries of a cell's result that TensorBoard compares.
    """

    task: Task
    curve_every = 1
    settings: Sequence[str]
    measures: Sequence[str]

    def __init__(self, workspace: Workspace, category: str, fold: int) -> None:
        self.workspace = workspace
        self.category = category
        self.fold = fold
        self.what = f"{category}, fold {fold}"
        network = workspace.config.network
        base, self.base_digest = base_network(workspace, fold)
        frozen, self.base = base.split(network.train, network.split)
        self.source = workspace.source(base, frozen)
        self.stride = base.stride

    def indices(self) -> tuple[Index, Index, Index]:
        """The images to train on, to score, and to choose rate, steps and threshold by."""
        raise NotImplementedError

    def plan(self, train_index: Index, seed: int, batch_size: int) -> SamplePlan:
        """What each training step draws."""
        raise NotImplementedError

    def module(self, loss: Loss, optim: Optim, lr: float) -> Module:
        """A copy of the base network, to train."""
        raise NotImplementedError

    def choose_threshold(self, module: Module, data: DataModule, held_out: Index) -> None:
        """Set the threshold of a trained module, if the task has one."""

    def evaluate(self, module: Module) -> tuple[Json, dict[str, pd.DataFrame]]:
        """The entries of `result.json` for a tested module, and its tables but the curve.

        Raises: NonFiniteError.
        """
        raise NotImplementedError

    def write_pictures(
        self, folder: Path, module: Module, data: DataModule, loggers: Sequence[Logger]
    ) -> None:
        """Write the predictions of a tested module, if the task shows them."""

    def train(
        self, loss: str, lr: float, seed: int, train_index: Index, val_index: Index,
        optim: Optim | None, folder: Path | None, title: str, loggers: Sequence[Logger] = (),
    ) -> tuple[Module, pl.Trainer, DataModule]:  # fmt: skip
        """Train a copy of the base network on some images, validating on others.

        Args:
            optim: None validates the network as it is.
            folder: for the checkpoint; None keeps none.
        """
        config = self.workspace.config
        schedule = replace(optim or config.optim, batch_size=config.batch_size(loss))
        plan = self.plan(train_index, seed, schedule.batch_size)
        data = self.workspace.data_module(self.source, self.task, plan, val_index, schedule)
        module = self.module(config.loss(loss if optim else "cross_entropy"), schedule, lr)
        trainer = make_trainer(
            module, config.runtime, self.workspace.device, title, folder=folder,
            identity=self.checkpoint_identity(loss, seed), loggers=loggers,
        )  # fmt: skip
        (fit if optim else validate)(trainer, module, data)
        return module, trainer, data

    def checkpoint_identity(self, loss: str, seed: int) -> str:
        """The identity of a training, in the parts that `make_trainer` asks for."""
        spec = self.workspace.config.mixtures.get(without_batch(loss), {})
        mixture = f" {json.dumps(spec, sort_keys=True)}" if spec else ""
        return f"base network {self.base_digest}; {self.what}; loss {loss}{mixture}; seed {seed}"


class BinarySetup(CellSetup[BinarySegmenter]):
    """The base network's score of the category, and images with and without it."""

    settings = ("category", "loss", "fold", "seed", "lr", "steps")
    measures = ("image_iou", "tuned_image_iou", "dataset_iou")

    def __init__(self, workspace: Workspace, category: str, fold: int) -> None:
        super().__init__(workspace, category, fold)
        self.label = workspace.config.data.label(category)
        self.task = Task(self.label, workspace.config.data.void_in_empty)

    def indices(self) -> tuple[Index, Index, Index]:
        workspace, fold = self.workspace, self.fold
        val = workspace.selection(self.category, workspace.index("val", fold))
        held_out = workspace.selection(self.category, workspace.holdout(fold), HELD_OUT_IMAGES)
        return workspace.train_index(fold), val, held_out

    def plan(self, train_index: Index, seed: int, batch_size: int) -> SamplePlan:
        data = self.workspace.config.data
        return balanced_plan(
            train_index, self.workspace.present(self.category)[train_index],
            data.positive_fraction, seed=seed, batch_size=batch_size, scale=data.scale,
            flip=data.flip, what=self.what,
        )  # fmt: skip

    def module(self, loss: Loss, optim: Optim, lr: float) -> BinarySegmenter:
        network = self.base.binary(self.label, self.workspace.config.network.score)
        return BinarySegmenter(network, loss, optim, lr, self.stride)

    def choose_threshold(self, module: BinarySegmenter, data: DataModule, held_out: Index) -> None:
        device, runtime = self.workspace.device, self.workspace.config.runtime
        module.to(device).eval()
        logits, targets = [], []
        with torch.inference_mode(), autocast(runtime, device), deterministic():
            for raw in shown(data.images(held_out, native=False), f"{self.what}: threshold"):
                batch = data.prepare(data.transfer_batch_to_device(raw, device, 0))
                logits.append(module(batch.inputs)[:, 0])
                targets.append(batch.target)
        module.threshold, _ = threshold_of_best_image_iou(torch.cat(logits), torch.cat(targets))

    def evaluate(self, module: BinarySegmenter) -> tuple[Json, dict[str, pd.DataFrame]]:
        images = pd.DataFrame(module.rows)
        broken = images.columns[~np.isfinite(images.to_numpy(float)).all(0)].tolist()
        if broken:
            raise NonFiniteError(
                f"at the images' own sizes {', '.join(broken)} not finite, learning rate "
                f"{module.lr:g}"
            )
        images["id"] = [self.workspace.images.ids[i] for i in images["index"]]
        tp, fp, fn = (int(images[name].sum()) for name in ("tp", "fp", "fn"))
        measures = {
            "threshold": module.threshold,
            "images": len(images),
            "image_iou": float(images["iou"].mean()),
            "tuned_image_iou": float(images["tuned_iou"].mean()),
            "dataset_iou": tp / max(tp + fp + fn, 1),
        }
        ious = torch.stack(module.threshold_ious).numpy()
        present = images["has_category"].to_numpy() == 1
        means = {"present": ious[present].mean(0), "absent": ious[~present].mean(0)}
        thresholds = pd.DataFrame({"threshold": THRESHOLDS.numpy(), **means})
        return measures, {"images.csv": images, "thresholds.csv": thresholds}

    def write_pictures(
        self, folder: Path, module: BinarySegmenter, data: DataModule, loggers: Sequence[Logger]
    ) -> None:
        log_pictures(loggers, module, data, self.workspace.config.runtime.overlays)
        ids = [self.workspace.images.ids[row["index"]] for row in module.rows]
        masks = np.packbits(torch.stack(module.thumbnails).numpy(), axis=-1)
        with files.atomic(folder / "predictions.npz") as temporary:
            np.savez_compressed(temporary, ids=np.array(ids, dtype=str), masks=masks)


class MulticlassSetup(CellSetup[LabelSegmenter]):
    """The base network with all its channels, and all images."""

    task = Task(None, "void")
    curve_every = 5  # validating on all images takes longer than a training
    settings = ("loss", "fold", "seed", "lr", "steps", "batch_size")
    measures = ("miou", "image_miou")

    def indices(self) -> tuple[Index, Index, Index]:
        workspace, fold = self.workspace, self.fold
        held_out = np.sort(workspace.holdout(fold))
        return workspace.train_index(fold), workspace.index("val", fold), held_out

    def plan(self, train_index: Index, seed: int, batch_size: int) -> SamplePlan:
        data = self.workspace.config.data
        return SamplePlan(seed, batch_size, [(train_index, 1.0)], data.scale, data.flip)

    def module(self, loss: Loss, optim: Optim, lr: float) -> LabelSegmenter:
        labels = self.workspace.config.data.labels
        return LabelSegmenter(copy.deepcopy(self.base), loss, optim, lr, self.stride, labels)

    def evaluate(self, module: LabelSegmenter) -> tuple[Json, dict[str, pd.DataFrame]]:
        rows = pd.DataFrame(module.rows.numpy(), columns=["index", "label", "tp", "fp", "fn"])
        rows["id"] = [self.workspace.images.ids[i] for i in rows["index"]]
        measures = {"batch_size": module.optim.batch_size, **label_scores(rows)}
        return measures, {"classes.csv": rows}


def cell_setup(workspace: Workspace, category: str, fold: int) -> CellSetup[Any]:
    """The setup of the configuration's task."""
    kind = MulticlassSetup if workspace.config.multiclass else BinarySetup
    return kind(workspace, category, fold)
