"""How long a study takes: measured seconds per step and image, times what is still to be done.

The rates come from the study's own finished cells or, before there are any, from `lovasz-repro
bench study`, which leaves them as `cost_model.json` in the run's folder.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lovasz_repro import records
from lovasz_repro.config import Optim
from lovasz_repro.records import Cell, Json
from lovasz_repro.workspace import Workspace

FILE = "cost_model.json"


@dataclass(frozen=True)
class Rates:
    """Seconds, on one process.

    Args:
        step: per training step. validate: per val image and validation. evaluate: per image that
            is evaluated at the end. overhead: per cell, for all else.
        base: per base network.
        source: where the numbers come from.
    """

    step: float
    validate: float
    evaluate: float
    overhead: float
    base: float
    source: str

    def training(self, optim: Optim, images: int) -> float:
        """Training with its validations."""
        validations = optim.steps // optim.validate_every
        return optim.steps * self.step + validations * images * self.validate

    def cell(self, optim: Optim, images: int) -> float:
        return self.training(optim, images) + images * self.evaluate + self.overhead


def measured(costs: Sequence[Json], optim: Optim, bases: Sequence[Json], source: str) -> Rates:
    """The rates behind some cells' `cost.json`: medians, so that a resumed cell does no harm.

    Args:
        bases: the `cost.json` of base networks; none: 0 seconds.
    """
    validations = optim.steps // optim.validate_every

    def rate(name: str, per: float = 1.0, images: bool = True) -> float:
        values = [cost[name] / (per * (cost["images"] if images else 1)) for cost in costs]
        return float(statistics.median(values))

    parts = ("train_seconds", "validate_seconds", "evaluate_seconds")
    overhead = statistics.median(
        cost["total_seconds"] - sum(cost[part] for part in parts) for cost in costs
    )
    return Rates(
        step=rate("train_seconds", optim.steps, images=False),
        validate=rate("validate_seconds", validations),
        evaluate=rate("evaluate_seconds"),
        overhead=max(overhead, 0.0),
        base=statistics.median([base["total_seconds"] for base in bases] or [0.0]),
        source=source,
    )


def rates(workspace: Workspace, done: Sequence[Cell]) -> Rates | None:
    """Those of the cells that are done, else those of the benchmark; None without either."""
    folder = workspace.folder
    bases = [
        records.read_json(path)
        for fold in workspace.folds
        if (path := workspace.base_folder(fold) / "cost.json").exists()
    ]
    if done:
        costs = [records.read_json(folder / cell.path / "cost.json") for cell in done]
        return measured(costs, workspace.config.optim, bases, f"{len(done)} finished cells")
    if (folder / FILE).exists():
        return Rates(**records.read_json(folder / FILE))
    return None


@dataclass(frozen=True)
class Estimate:
    """Seconds left of each stage, its jobs shared out over `runtime.workers`."""

    bases: float
    tuning: float
    cells: float

    @property
    def total(self) -> float:
        return self.bases + self.tuning + self.cells


def estimate(
    workspace: Workspace, rates: Rates, bases: int, trials: int, todo: Sequence[Cell]
) -> Estimate:
    """How long the rest takes.

    Args:
        bases, trials: base networks and (loss, learning rate) pairs that are still to be done.
        todo: cells that are.
    """
    config = workspace.config
    tuning = config.tuning
    trial = Optim(steps=tuning.steps, validate_every=tuning.steps)
    per_trial = len(tuning.categories) * rates.training(trial, 0)
    images = {
        (category, fold): len(workspace.selection(category, workspace.index("val", fold)))
        for category, fold in {(cell.category, cell.fold) for cell in todo}
    }
    cells = [rates.cell(config.optim, images[cell.category, cell.fold]) for cell in todo]
    return Estimate(
        bases=_shared([rates.base] * bases, config.runtime.workers),
        tuning=_shared([per_trial] * trials, config.runtime.workers),
        cells=_shared(cells, config.runtime.workers),
    )


def _shared(seconds: Sequence[float], workers: int) -> float:
    """When the last worker is done, each taking the next job when it is free."""
    free = np.zeros(workers)
    for job in seconds:
        free[free.argmin()] += job
    return float(free.max())
