"""The loggers of a training, as `runtime.loggers` names them: Lightning's own."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from lovasz_repro.errors import UserError


class Charts(TensorBoardLogger):
    """TensorBoard without the epoch, which Lightning logs and TensorBoard would show first."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)


def make_loggers(kinds: Sequence[str], run: Path, name: str, version: str) -> list[Logger]:
    """Loggers that write to `run`/tensorboard/`name`/`version`, the CSV file beside the events.

    Raises: UserError if W&B is asked for but not installed.
    """
    folder = run / "tensorboard"
    made: list[Logger] = []
    for kind in kinds:
        if kind == "tensorboard":
            made.append(Charts(folder, name=name, version=version))
        elif kind == "csv":
            logger = CSVLogger(folder, name=name, version=version)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns that the folder exists
                _ = logger.experiment
            made.append(logger)
        else:
            made.append(_wandb(run, name, version))
    return made


def _wandb(run: Path, name: str, version: str) -> Logger:
    if importlib.util.find_spec("wandb") is None:
        raise UserError("runtime.loggers: wandb is not installed: pip install wandb")
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(project=run.name, name=f"{name}/{version}", save_dir=run, reinit=True)


def log_final(
    loggers: Sequence[Logger], settings: Mapping[str, Any], measures: Mapping[str, float], step: int
) -> None:
    """Log the final measures and the settings of a training.

    Args:
        settings: what TensorBoard's HParams compare. All runs need the same names. Empty for a run
            that is not compared, such as a base network's.
    """
    for logger in loggers:
        if settings and isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(settings), dict(measures), step)
        else:
            if settings:
                logger.log_hyperparams(dict(settings))
            logger.log_metrics(dict(measures), step)
        logger.finalize("success")
