"""One cell: a category trained with a loss on one fold from one seed, evaluated, recorded."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from lovasz_repro import records
from lovasz_repro.binary import balanced_plan, label_of
from lovasz_repro.cache import ImageCache
from lovasz_repro.config import Optim
from lovasz_repro.datamodule import DataModule, Source, Task
from lovasz_repro.metrics import threshold_of_best_image_iou
from lovasz_repro.records import Cell, Json
from lovasz_repro.segmenter import BinarySegmenter
from lovasz_repro.training import autocast, test, train
from lovasz_repro.voc import VOID
from lovasz_repro.workspace import Workspace

THRESHOLD_IMAGES = 100
"""Training images with the category (and as many without) on which a cell's threshold is chosen."""


def run_cell(workspace: Workspace, cell: Cell, lr: float) -> Json:
    """Train, evaluate at the files' own sizes, and leave the cell's records.

    Returns: what `result.json` holds; nothing where another process of the same training writes it.

    Raises: NonFiniteError.
    """
    started = time.perf_counter()
    config = workspace.config
    folder = workspace.folder / cell.path
    setting = Setting(workspace, cell.category, cell.fold)
    logger = TensorBoardLogger(
        workspace.folder / "tensorboard", name=cell.category,
        version=f"{cell.loss}/fold{cell.fold}-seed{cell.seed}",
    )  # fmt: skip
    train_index = workspace.index("train", cell.fold)
    val_index = workspace.selection(cell.category, workspace.index("val", cell.fold))
    module, trainer, data = setting.train(
        cell.loss, lr, cell.seed, train_index, val_index, config.optim, folder, str(cell), logger
    )
    shown = workspace.selection(cell.category, train_index, limit=THRESHOLD_IMAGES)
    module.threshold, _ = threshold_of_best_image_iou(*setting.predict(module, data, shown))
    threshold_found = time.perf_counter()
    test(trainer, module, data)
    if workspace.rank:
        return {}
    evaluated = time.perf_counter()
    images = pd.DataFrame(module.rows)
    images["id"] = [workspace.images.ids[i] for i in images["index"]]
    tp, fp, fn = (int(images[name].sum()) for name in ("tp", "fp", "fn"))
    result: Json = {
        **vars(cell),
        "hash": workspace.digest,
        "base": setting.base_digest,
        "lr": lr,
        "steps": config.optim.steps,
        "threshold": module.threshold,
        "images": len(images),
        "image_iou": float(images["iou"].mean()),
        "tuned_image_iou": float(images["tuned_iou"].mean()),
        "dataset_iou": tp / max(tp + fp + fn, 1),
    }
    log_final(logger, module, data, result, config.runtime.overlays)
    with records.atomic(folder / "predictions.npz") as temporary:
        masks = np.packbits(torch.stack(module.thumbnails).numpy(), axis=-1)
        np.savez_compressed(temporary, ids=images["id"].to_numpy(dtype=str), masks=masks)
    cost = {
        "images": len(images),
        "train_seconds": module.train_seconds,
        "seconds_per_step": module.train_seconds / config.optim.steps,
        "validate_seconds": module.validate_seconds,
        "evaluate_seconds": evaluated - threshold_found,
        "total_seconds": time.perf_counter() - started,
        "peak_memory_mib": peak_memory_mib(),
    }
    records.write_cell(folder, images, pd.DataFrame(module.curve), result, cost)
    (folder / "resume.ckpt").unlink(missing_ok=True)
    return result


class Setting:
    """A category on a fold: the base network's channel, the arrays, the task."""

    def __init__(self, workspace: Workspace, category: str, fold: int) -> None:
        self.workspace = workspace
        self.what = f"{category}, fold {fold}"
        head_only = workspace.config.network.train == "head"
        self.label = label_of(category)
        self.task = Task(self.label, workspace.config.data.void_in_empty)
        base, self.base_digest = workspace.base(fold)
        self.source: Source = workspace.source(base, features=head_only)
        self.stride = base.stride
        self._present = workspace.present(category)
        self.head_only = head_only
        self.base = base

    def train(
        self, loss: str, lr: float, seed: int, train_index: NDArray[np.int64],
        val_index: NDArray[np.int64], optim: Optim, folder: Path | None, title: str,
        logger: TensorBoardLogger | None = None,
    ) -> tuple[BinarySegmenter, pl.Trainer, DataModule]:  # fmt: skip
        """Train a copy of the base's channel on some images, validating on others."""
        config = self.workspace.config
        plan = balanced_plan(
            train_index, self._present[train_index], config.data.positive_fraction, seed=seed,
            batch_size=optim.batch_size, scale=config.data.scale, flip=config.data.flip,
            what=self.what,
        )  # fmt: skip
        data = self.workspace.data_module(self.source, self.task, plan, val_index, optim)
        network = (
            self.base.head.channel(self.label) if self.head_only else self.base.binary(self.label)
        )
        module = BinarySegmenter(network, config.loss(loss), optim, lr, self.stride)
        trainer = train(
            module, data, config.runtime, self.workspace.device, folder, title,
            measure="image_iou", logger=logger,
        )  # fmt: skip
        return module, trainer, data

    def predict(
        self, module: BinarySegmenter, data: DataModule, index: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Logits and target (N, h, w) on the grid."""
        device = self.workspace.device
        module.to(device).eval()
        logits, targets = [], []
        with torch.inference_mode(), autocast(self.workspace.config.runtime, device):
            for raw in data.images(index, native=False):
                batch = data.prepare(data.transfer_batch_to_device(raw, device, 0))
                logits.append(module(batch.inputs)[:, 0])
                targets.append(batch.target)
        return torch.cat(logits), torch.cat(targets)


def log_final(
    logger: TensorBoardLogger, module: BinarySegmenter, data: DataModule, result: Json, count: int
) -> None:
    """Hyper-parameters with the final measures, and pictures of some fixed val images."""
    keys = ("category", "loss", "fold", "seed", "lr", "steps")
    finals = ("image_iou", "tuned_image_iou", "dataset_iou")
    logger.log_hyperparams(
        {key: result[key] for key in keys}, {f"final/{name}": result[name] for name in finals}
    )
    if count:
        chosen = np.linspace(0, len(module.rows) - 1, count).astype(int)
        strips = [
            overlay(data.source.cache, module.rows[i]["index"], module.thumbnails[i], data.task)
            for i in chosen
        ]
        title = "val/image, truth, prediction, error (red: too much, blue: missed)"
        logger.experiment.add_image(title, torch.cat(strips, 1), result["steps"])
    logger.finalize("success")


def overlay(cache: ImageCache, index: int, prediction: Tensor, task: Task) -> Tensor:
    """(3, C, 4·C) in [0, 1]: image, truth, prediction, error. prediction: (C, C) bool."""
    side = prediction.shape[-1]
    height, width = (max(1, round(side * n / cache.sizes[index].max())) for n in cache.sizes[index])
    h, w = cache.sizes[index]

    def small(array: NDArray[np.uint8], mode: Image.Resampling) -> Tensor:
        """(side, side, channels): shrunk to the thumbnail's size, at the top left."""
        picture = Image.fromarray(array).resize((width, height), mode)
        values = torch.from_numpy(np.array(picture)).view(height, width, -1)
        return F.pad(values, (0, 0, 0, side - width, 0, side - height))

    canvas = cache.images[index, :, :h, :w].transpose(1, 2, 0)
    image = small(canvas, Image.Resampling.BILINEAR).permute(2, 0, 1) / 255  # (3, side, side)
    labels = small(cache.masks[index, :h, :w], Image.Resampling.NEAREST)[None, ..., 0]
    truth = task.target(labels, labels.eq(task.label or 0).flatten(1).any(1))[0]
    grey = torch.where(truth == VOID, 0.5, (truth == 1).float())
    wrong = prediction & (truth == 0)
    missed = ~prediction & (truth == 1)
    error = image * 0.35
    error[:, wrong] = torch.tensor([[0.9], [0.2], [0.1]])
    error[:, missed] = torch.tensor([[0.1], [0.5], [0.9]])
    panels = [image, grey.expand(3, -1, -1), prediction.float().expand(3, -1, -1), error]
    return torch.cat(panels, 2)


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
