"""The choice of learning rate and steps, per fold and loss, on held-out training images.

A trial is one training: fold, loss, rate, steps, category. It trains on the fold's training images
without the held-out ones and is scored by image-IoU on those. The rate is the one with the highest
mean over the categories at the first of `tuning.steps`; where it is the lowest or the highest of
the rates, further ones are tried beyond it. Then the other numbers of steps are tried at that rate.
Every loss gets the same trials, by the same rule. See `config.Tuning`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from lovasz_repro import files, schema
from lovasz_repro.config import Experiment, Tuning
from lovasz_repro.errors import UserError
from lovasz_repro.records import UNTRAINED, Json
from lovasz_repro.records.agreement import at_edge, entry_problem, trial_means
from lovasz_repro.study.cell import Choice
from lovasz_repro.study.devices import on_all
from lovasz_repro.study.launch import Workers
from lovasz_repro.study.setup import cell_setup
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.segmenter import NonFiniteError

console = Console(highlight=False)

FILE = "tuning.json"


class Trial(NamedTuple):
    """One training on a category."""

    fold: int
    loss: str
    lr: float
    steps: int
    category: str
    seed: int

    @property
    def point(self) -> Json:
        return {key: getattr(self, key) for key in ("lr", "steps", "category", "seed")}


def chosen(
    workspace: Workspace, loss: str, fold: int, tuned: Json | None = None
) -> tuple[Choice, str]:
    """Rate and steps of a cell, and where they come from.

    Args:
        tuned: tuning.json, where it has been read already.
    """
    config = workspace.config
    if loss == UNTRAINED:
        return Choice(0.0, 0), "no training"
    own = Choice(config.optim.lr, config.steps(loss, config.optim.steps))
    if not config.tuning.lrs:
        return own, "optim.lr, optim.steps"
    tuned = read(workspace) if tuned is None else tuned
    entry = tuned.get(f"fold{fold}", {}).get(loss, {})
    if entry.get("lr") is None:
        where = "optim.lr, optim.steps: the study has not chosen yet"
        return own, where
    return Choice(entry["lr"], entry["steps"]), "chosen by the study"


def read(workspace: Workspace) -> Json:
    """tuning.json, empty where it is not there yet.

    Raises: UserError naming what it lacks.
    """
    path = workspace.folder / FILE
    tuned = files.read_json(path, schema.Tuning) if path.exists() else {}
    for fold, entries in tuned.items():
        for loss, entry in entries.items():
            if wrong := entry_problem(entry, workspace.config.measure):
                raise UserError(f"{path}: {fold}.{loss}.{wrong}; delete it to make it again")
    return tuned


def tune(workspace: Workspace, workers: Workers, noted: Callable[[], None]) -> None:
    """Run the trials that are missing and choose; every trial is recorded when it ends.

    Args:
        noted: called when a trial is recorded.
    """
    before = read(workspace)
    while trials := missing_trials(workspace):
        tried = read(workspace)
        console.print(f"tuning: {len(trials)} trials to run")
        for trial, score in workers.run(_score, trials):
            entry = tried.setdefault(f"fold{trial.fold}", {}).setdefault(
                trial.loss, {"lr": None, "trials": []}
            )
            entry["lr"] = None  # a choice made without this trial may not follow from them all
            entry["trials"].append({**trial.point, workspace.config.measure: score})
            entry["trials"].sort(key=lambda t: (t["steps"], t["lr"], t["category"]))
            files.write_json(workspace.folder / FILE, tried)
            noted()
            said = "diverged" if score is None else f"{score:.4f}"
            console.print(
                f"fold {trial.fold} · {trial.loss} at {trial.lr:g}, {trial.steps} steps, "
                f"{trial.category}: {said}"
            )
    config = workspace.config
    if not config.tuning.lrs:
        return
    tried = read(workspace)
    for fold in config.cells.folds:
        for loss in config.cells.losses:
            entry = tried[f"fold{fold}"][loss]
            old = before.get(f"fold{fold}", {}).get(loss, {}).get("lr")
            entry["trials"] = _planned(config, loss, entry["trials"])
            entry |= _choice(workspace, fold, loss, entry["trials"])
            note = ", the edge of what was tried" if entry["at_edge"] else ""
            note += f" (before: {old:g})" if old not in (None, entry["lr"]) else ""
            console.print(
                f"fold {fold} · {loss}: learning rate {entry['lr']:g}{note}, {entry['steps']} steps"
            )
    files.write_json(workspace.folder / FILE, tried)


def missing_trials(workspace: Workspace) -> list[Trial]:
    """The trials that can be run now: other numbers of steps wait for the choice of a rate."""
    config = workspace.config
    tuning = config.tuning
    tried = read(workspace)
    missing = []
    for fold in config.cells.folds:
        for loss in config.cells.losses:
            first, *others = _steps(config, loss)
            there = tried.get(f"fold{fold}", {}).get(loss, {}).get("trials", [])
            there = _planned(config, loss, there)
            means = _means(config, there)
            rates = rates_tried(tuning, means, first)
            pairs = [(lr, first) for lr in rates]
            wanted = _trials(workspace, fold, loss, pairs, there)
            if not wanted and others:
                best = _best(means, rates, [first])
                if best is not None:
                    pairs = [(best[0], steps) for steps in others]
                    wanted = _trials(workspace, fold, loss, pairs, there)
            missing += wanted
    return missing


def rates_tried(
    tuning: Tuning, means: Mapping[tuple[float, int], float], steps: int
) -> list[float]:
    """`tuning.lrs`, and what `tuning.extend` adds to them by what has been seen so far.

    Args:
        means: the scores so far by (rate, steps). steps: those at which the rate is chosen.

    Returns: in ascending order; the last that was added may still be without a score.
    """
    rates = sorted(set(tuning.lrs))
    for _ in range(tuning.extend):
        best = _best(means, rates, [steps])
        if best is None or best[0] not in (rates[0], rates[-1]):
            break
        edge, neighbour = rates[:2] if best[0] == rates[0] else rates[:-3:-1]
        rates = sorted([*rates, float(f"{edge * edge / neighbour:.2g}")])
    return rates


def _steps(config: Experiment, loss: str) -> list[int]:
    """The numbers of steps that are tried with a loss."""
    return [config.steps(loss, n) for n in config.tuning.steps or [config.optim.steps]]


def _means(config: Experiment, trials: list[Json]) -> dict[tuple[float, int], float]:
    return trial_means(trials, config.tuning.categories, config.measure)


def _planned(config: Experiment, loss: str, trials: list[Json]) -> list[Json]:
    """Those of a fold's and loss's trials that the configuration asks for, which may have asked for
    others when they ran. A choice follows from all trials that are stored beside it."""
    tuning, steps = config.tuning, _steps(config, loss)
    points = set(zip(tuning.categories, itertools.cycle(tuning.seeds), strict=False))
    planned = [t for t in trials if t["steps"] in steps and (t["category"], t["seed"]) in points]
    rates = rates_tried(tuning, _means(config, planned), steps[0])
    return [trial for trial in planned if trial["lr"] in rates]


def _trials(
    workspace: Workspace, fold: int, loss: str, pairs: list[tuple[float, int]], there: list[Json]
) -> list[Trial]:
    """The trials of some (rate, steps) that are not among those `there`."""
    tuning = workspace.config.tuning
    every = [
        Trial(fold, loss, lr, steps, category, tuning.seeds[i % len(tuning.seeds)])
        for lr, steps in pairs
        for i, category in enumerate(tuning.categories)
    ]
    done = [{key: point[key] for key in ("lr", "steps", "category", "seed")} for point in there]
    return [trial for trial in every if trial.point not in done]


def _best(
    scores: Mapping[tuple[float, int], float], lrs: Sequence[float], steps: Sequence[int]
) -> tuple[float, int] | None:
    """The pair with the highest mean, of equals the lowest rate, then the fewest steps."""
    tried = [pair for pair in scores if pair[0] in lrs and pair[1] in steps]
    return max(tried, key=lambda pair: (scores[pair], -pair[0], -pair[1]), default=None)


def _choice(workspace: Workspace, fold: int, loss: str, trials: list[Json]) -> Json:
    """The choice, as tuning.json holds it next to the trials.

    Raises: UserError where every rate diverged.
    """
    config = workspace.config
    scores = _means(config, trials)
    steps = _steps(config, loss)
    rates = rates_tried(config.tuning, scores, steps[0])
    best = _best(scores, rates, steps)
    if best is None:
        raise UserError(f"tuning.lrs: {loss} diverged at every rate of {rates}, fold {fold}")
    return {
        "lr": best[0],
        "steps": best[1],
        config.measure: scores[best],
        "at_edge": at_edge(best[0], trials),
    }


def _score(workspace: Workspace, trial: Trial) -> float | None:
    return on_all(workspace, run_trial, trial)


def run_trial(workspace: Workspace, trial: Trial) -> float | None:
    """Image-IoU on held-out images, at threshold 0 on the grid, or their mIoU where all labels are
    learned; None where training diverged."""
    setup = cell_setup(workspace, trial.category, trial.fold)
    train_index, _, held_out = setup.indices()
    optim = setup.optim(trial.steps, trial.steps)
    title = f"{trial.loss} at {trial.lr:g}: {trial.category}"
    try:
        module, _, _ = setup.train(
            trial.loss, trial.lr, trial.seed, train_index, held_out, optim, None, title
        )
    except NonFiniteError:
        return None
    score = float(module.curve[-1][workspace.config.measure])
    return score if math.isfinite(score) else None
