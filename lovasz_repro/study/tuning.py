"""The choice of learning rate and steps, per fold and loss, on held-out training images.

A trial is one training: fold, loss, rate, steps, category and seed. It is scored on the held-out
images of the fold's training list, by image-IoU (multi-class: mIoU), and trains on the others. The
best rate has the highest mean over the categories at the first of `tuning.steps`; if it is the
lowest or highest rate, rates beyond it are tried. Then the other numbers of steps are tried at that
rate, and the best of all that was tried is taken. The same rule holds for every loss. See
`config.Tuning`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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

console = Console(highlight=False, markup=False)

FILE = "tuning.json"


POINT = ("lr", "steps", "category", "seed")
"""The keys that identify a trial of a fold and loss."""


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
        return {key: getattr(self, key) for key in POINT}


def chosen(
    workspace: Workspace, loss: str, fold: int, tuned: Json | None = None
) -> tuple[Choice, str]:
    """Rate and steps of a cell, and where they come from.

    Args:
        tuned: tuning.json, if it has been read already.
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
    """tuning.json, {} if it does not exist.

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
            entry["lr"] = None  # the choice was made without this trial
            entry["trials"].append({**trial.point, workspace.config.measure: score})
            entry["trials"].sort(key=lambda t: (t["steps"], t["lr"], t["category"]))
            files.write_json(workspace.folder / FILE, tried)
            noted()
            said = "diverged" if score is None else f"{score:.4f}"
            console.print(
                f"fold {trial.fold} · {trial.loss} at {trial.lr:g}, {trial.steps} steps, "
                f"{trial.category}: {said}"
            )
    if not workspace.config.tuning.lrs:
        return
    tried = read(workspace)
    for search in _searches(workspace.config, tried):
        fold, loss = f"fold{search.fold}", search.loss
        entry = search.choice()
        old = before.get(fold, {}).get(loss, {}).get("lr")
        note = ", the edge of what was tried" if entry["at_edge"] else ""
        note += f" (before: {old:g})" if old not in (None, entry["lr"]) else ""
        console.print(
            f"fold {search.fold} · {loss}: learning rate {entry['lr']:g}{note}, "
            f"{entry['steps']} steps"
        )
        tried[fold][loss] = entry
    files.write_json(workspace.folder / FILE, tried)


def missing_trials(workspace: Workspace) -> list[Trial]:
    """The trials that can be run now: other numbers of steps wait for the choice of a rate."""
    searches = _searches(workspace.config, read(workspace))
    return [trial for search in searches for trial in search.missing()]


def _searches(config: Experiment, tuned: Json) -> Iterator[Search]:
    for fold in config.cells.folds:
        for loss in config.cells.losses:
            entry = tuned.get(f"fold{fold}", {}).get(loss, {})
            yield Search(config, fold, loss, entry.get("trials", []))


class Search:
    """The search for the best rate and steps of a fold and loss.

    Args:
        stored: the trials in tuning.json; those that the configuration no longer asks for are
            dropped.
    """

    def __init__(self, config: Experiment, fold: int, loss: str, stored: list[Json]) -> None:
        self.config = config
        self.fold = fold
        self.loss = loss
        tuning = config.tuning
        self.steps = [config.steps(loss, n) for n in tuning.steps or [config.optim.steps]]
        self.points = list(zip(tuning.categories, itertools.cycle(tuning.seeds), strict=False))
        trials = [
            trial
            for trial in stored
            if trial["steps"] in self.steps and (trial["category"], trial["seed"]) in self.points
        ]
        self.means = trial_means(trials, tuning.categories, config.measure)
        self.rates = rates_tried(tuning, self.means, self.steps[0])
        self.trials = [trial for trial in trials if trial["lr"] in self.rates]

    def missing(self) -> list[Trial]:
        """The trials that can be run now: at the first number of steps, then the others at the best
        rate."""
        first, *others = self.steps
        wanted = self._not_there([(lr, first) for lr in self.rates])
        if not wanted and (best := _best(self.means, self.rates, [first])):
            wanted = self._not_there([(best[0], steps) for steps in others])
        return wanted

    def _not_there(self, pairs: list[tuple[float, int]]) -> list[Trial]:
        """The trials of some (rate, steps) that have not been run."""
        every = [
            Trial(self.fold, self.loss, lr, steps, category, seed)
            for lr, steps in pairs
            for category, seed in self.points
        ]
        done = [{key: trial[key] for key in POINT} for trial in self.trials]
        return [trial for trial in every if trial.point not in done]

    def choice(self) -> Json:
        """The entry of tuning.json: what is chosen, and the trials.

        Raises: UserError if every rate diverged.
        """
        best = _best(self.means, self.rates, self.steps)
        if best is None:
            raise UserError(
                f"tuning.lrs: {self.loss} diverged at every rate of {self.rates}, fold {self.fold}"
            )
        return {
            "lr": best[0],
            "steps": best[1],
            self.config.measure: self.means[best],
            "at_edge": at_edge(best[0], self.trials),
            "trials": self.trials,
        }


def rates_tried(
    tuning: Tuning, means: Mapping[tuple[float, int], float], steps: int
) -> list[float]:
    """`tuning.lrs`, and the rates that `tuning.extend` adds, given the scores so far.

    Args:
        means: the scores so far by (rate, steps). steps: those at which the rate is chosen.

    Returns: in ascending order; the last rate that was added may have no score yet.
    """
    rates = sorted(set(tuning.lrs))
    for _ in range(tuning.extend):
        best = _best(means, rates, [steps])
        if best is None or best[0] not in (rates[0], rates[-1]):
            break
        edge, neighbour = rates[:2] if best[0] == rates[0] else rates[:-3:-1]
        rates = sorted([*rates, float(f"{edge * edge / neighbour:.2g}")])
    return rates


def _best(
    scores: Mapping[tuple[float, int], float], lrs: Sequence[float], steps: Sequence[int]
) -> tuple[float, int] | None:
    """The pair with the highest mean, of equals the lowest rate, then the fewest steps."""
    tried = [pair for pair in scores if pair[0] in lrs and pair[1] in steps]
    return max(tried, key=lambda pair: (scores[pair], -pair[0], -pair[1]), default=None)


def _score(workspace: Workspace, trial: Trial) -> float | None:
    return on_all(workspace, run_trial, trial)


def run_trial(workspace: Workspace, trial: Trial) -> float | None:
    """Image-IoU on held-out images, at threshold 0 on the grid (multi-class: their mIoU); None if
    training diverged."""
    setup = cell_setup(workspace, trial.category, trial.fold)
    train_index, _, held_out = setup.indices()
    optim = replace(workspace.config.optim, steps=trial.steps, validate_every=trial.steps)
    title = f"{trial.loss} at {trial.lr:g}: {trial.category}"
    try:
        module, _, _ = setup.train(
            trial.loss, trial.lr, trial.seed, train_index, held_out, optim, None, title
        )
    except NonFiniteError:
        return None
    score = float(module.curve[-1][workspace.config.measure])
    return score if math.isfinite(score) else None
