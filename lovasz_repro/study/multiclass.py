"""One multi-class cell: all labels trained with a loss on one fold from one seed, recorded."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger

from lovasz_repro import records
from lovasz_repro.config import Optim
from lovasz_repro.data.binary import SamplePlan
from lovasz_repro.data.datamodule import DataModule, Task
from lovasz_repro.losses import softmax_cross_entropy
from lovasz_repro.records import UNTRAINED, Cell, Json
from lovasz_repro.records.agreement import label_scores
from lovasz_repro.study.cell import Choice, Start, cost
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.logs import log_final
from lovasz_repro.training.loop import fit, make_trainer, test, validate
from lovasz_repro.training.segmenter import LabelSegmenter

CURVE_EVERY = 5
"""The curve of a training is of every fifth val image: all of them take longer than a training."""


def run_cell(workspace: Workspace, cell: Cell, choice: Choice) -> Json:
    """Train, evaluate on all val images at the files' own sizes, and leave the cell's records.

    Returns: what `result.json` holds; nothing where another process of the same training writes it.

    Raises: NonFiniteError.
    """
    started = time.perf_counter()
    config = workspace.config
    folder = workspace.folder / cell.path
    setting = MultiSetting(workspace, cell.category, cell.fold)
    loggers = workspace.loggers(cell.category, f"{cell.loss}/fold{cell.fold}-seed{cell.seed}")
    train_index, val_index, held_out = setting.indices()
    optim = None
    if cell.loss != UNTRAINED:
        every = config.steps(cell.loss, config.optim.validate_every)
        optim = setting.optim(choice.steps, every)
    module, trainer, data = setting.train(
        cell.loss, choice.lr, cell.seed, train_index, val_index[::CURVE_EVERY], optim, folder,
        str(cell), loggers,
    )  # fmt: skip
    data.val_index = val_index
    before = time.perf_counter()
    test(trainer, module, data)
    evaluated = time.perf_counter() - before
    if workspace.rank:
        return {}
    rows = pd.DataFrame(module.rows.numpy(), columns=["index", "label", "tp", "fp", "fn"])
    rows["id"] = [workspace.images.ids[i] for i in rows["index"]]
    result = setting.described(cell, choice, train_index, held_out) | {
        "batch_size": config.batch_size(cell.loss),
        **label_scores(rows),
    }
    keys = ("loss", "fold", "seed", "lr", "steps", "batch_size")
    log_final(
        loggers, {key: result[key] for key in keys},
        {f"final/{name}": result[name] for name in ("miou", "image_miou")}, choice.steps,
    )  # fmt: skip
    tables = {"classes.csv": rows, "curve.csv": pd.DataFrame(module.curve)}
    spent = cost(trainer, result, started, evaluated)
    records.write_cell(folder, tables, result, spent, config.task)
    (folder / "resume.ckpt").unlink(missing_ok=True)
    return result


class MultiSetting(Start):
    """All labels on a fold: the base network with all its channels, the arrays, the task."""

    def indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The images to train on, those to score, and those on which things are chosen."""
        workspace, fold = self.workspace, self.fold
        held_out = np.sort(workspace.holdout(fold))
        return workspace.train_index(fold), workspace.index("val", fold), held_out

    def train(
        self, loss: str, lr: float, seed: int, train_index: NDArray[np.int64],
        val_index: NDArray[np.int64], optim: Optim | None, folder: Path | None, title: str,
        loggers: Sequence[Logger] = (),
    ) -> tuple[LabelSegmenter, pl.Trainer, DataModule]:  # fmt: skip
        """Train a copy of the base network on some images, validating on others.

        Args:
            optim: None validates the network as it is.
        """
        config = self.workspace.config
        schedule = replace(optim or config.optim, batch_size=config.batch_size(loss))
        plan = SamplePlan(
            seed, schedule.batch_size, [(train_index, 1.0)], config.data.scale, config.data.flip
        )
        task = Task(None, "void")
        data = self.workspace.data_module(self.source, task, plan, val_index, schedule)
        objective = config.loss(loss) if optim else softmax_cross_entropy
        module = LabelSegmenter(
            copy.deepcopy(self.base), objective, schedule, lr, self.stride, config.data.labels
        )
        trainer = make_trainer(
            module, config.runtime, self.workspace.device, title, folder=folder,
            identity=self.origin(loss, seed), loggers=loggers,
        )  # fmt: skip
        (fit if optim else validate)(trainer, module, data)
        return module, trainer, data
