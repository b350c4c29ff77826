"""A whole experiment: base networks, learning rates, cells, gallery; each stage skips what is done.

Whatever moment it is stopped at, the same command goes on: files appear whole or not at all, a cell
is done when its `result.json` is there, and what a step draws depends on seed and step alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lovasz_repro import cost, records
from lovasz_repro.cell import Setting, run_cell
from lovasz_repro.config import Experiment, Tuning, known_category
from lovasz_repro.devices import on_all
from lovasz_repro.errors import UserError
from lovasz_repro.gallery import write_gallery
from lovasz_repro.launch import InUseError, Workers, held, start
from lovasz_repro.overview import write_overview
from lovasz_repro.records import Cell, Grid, Json
from lovasz_repro.segmenter import NonFiniteError
from lovasz_repro.workspace import Workspace

console = Console(highlight=False)


def fit(config: Experiment, category: str, loss: str, fold: int, seed: int) -> int:
    """Run one cell, done or not, and print its measures."""
    cell = Cell(known_category(category), config.known_loss(loss), fold, seed)
    workspace = Workspace(config)
    if fold not in workspace.folds:
        raise UserError(f"fold: there is no {fold}; there is {workspace.folds}")
    with held(workspace.folder, wait=True):
        workspace.open([cell])
        workspace.base(fold)
    lr, chosen = learning_rate(workspace, loss)
    console.print(f"{cell}: learning rate {lr:g} ({chosen})")
    with held(workspace.folder / cell.path):
        result = on_all(workspace, run_cell, cell, lr)
    console.print(
        f"image-IoU {result['image_iou']:.4f} at threshold 0, {result['tuned_image_iou']:.4f} at "
        f"{result['threshold']:.3g} (chosen on training images); dataset-IoU "
        f"{result['dataset_iou']:.4f}; {result['images']} val images\n"
        f"records: {workspace.folder / cell.path}",
        soft_wrap=True,
    )
    return 0


def study(
    config: Experiment, *, dry_run: bool = False, launcher: str = "local",
    address: str | None = None,
) -> int:  # fmt: skip
    """Run every cell of the grid that is not done. Returns the exit status: 1 where one failed.

    Processes that study one folder, on this machine or on others that share it, share the cells:
    what one does, the others wait for (base networks, learning rates) or pass over (cells).

    Args:
        launcher: where jobs run, "local" or "ray". address: of the Ray cluster.
    """
    workspace = Workspace(config)
    grid = Grid(**vars(config.cells))
    missing_folds = set(grid.folds) - set(workspace.folds)
    if missing_folds:
        raise UserError(f"cells.folds: there is no {missing_folds}; there is {workspace.folds}")
    if dry_run:
        _print_plan(workspace, grid)
        return 0
    with start(workspace, launcher, address) as workers:
        with held(workspace.folder, wait=True):
            workers.alone(_prepare, grid.cells())
            for _ in workers.run(_make_base, grid.folds):
                pass
            tune(workspace, workers)
        failed = _run_cells(workspace, workers, grid)
    with held(workspace.folder, wait=True):
        write_gallery(workspace.folder, workspace.voc)
        write_overview(workspace.folder)
        workspace.close()
    console.print(summary(workspace, grid))
    for cell, error in failed.items():
        console.print(f"[red]failed[/red] {cell}: {error}", soft_wrap=True)
    return 1 if failed else 0


def _prepare(workspace: Workspace, cells: list[Cell]) -> None:
    workspace.open(cells)
    workspace.features()


def _make_base(workspace: Workspace, fold: int) -> None:
    with held(workspace.base_folder(fold), wait=True):
        workspace.base(fold)


class Outcome(NamedTuple):
    """What became of a cell: its image-IoU, or an error, or (neither) another process has it."""

    image_iou: float | None = None
    error: str | None = None
    seconds: float = 0.0


def _attempt(workspace: Workspace, cell: Cell, *, wait: bool = False) -> Outcome:
    """Run a cell that is not done. Whatever goes wrong in it is recorded: the others can go on.

    Args:
        wait: for another process that runs it, lest that one be lost.
    """
    started = time.perf_counter()
    folder = workspace.folder / cell.path
    try:
        with held(folder, wait=wait):
            if is_done(workspace, cell):  # by another process, since this one looked
                return Outcome()
            # An older result under other settings would be taken for this one's after a crash.
            (folder / "result.json").unlink(missing_ok=True)
            try:
                result = on_all(workspace, run_cell, cell, learning_rate(workspace, cell.loss)[0])
            except (OSError, torch.AcceleratorError):
                raise  # a full disk, a lost GPU: not the cell's fault, and the next would meet it
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                records.write_json(folder / "failed.json", {"error": said})
                return Outcome(error=said, seconds=time.perf_counter() - started)
    except InUseError:
        return Outcome()
    return Outcome(result["image_iou"], seconds=time.perf_counter() - started)


def _run_cells(workspace: Workspace, workers: Workers, grid: Grid) -> dict[Cell, str]:
    """Run what is not done, the result of each on one line. Returns the errors."""
    cells = grid.cells()
    todo = [cell for cell in cells if not is_done(workspace, cell)]
    console.print(f"{len(cells)} cells, {len(cells) - len(todo)} done, {len(todo)} to run")
    failed: dict[Cell, str] = {}
    elsewhere = 0
    started = time.perf_counter()
    for count, (cell, outcome) in enumerate(_outcomes(workers, todo), 1):
        if outcome.error:
            failed[cell] = outcome.error
            said = f"[red]failed[/red]: {outcome.error}"
        elif outcome.image_iou is None:
            elsewhere += 1
            continue
        else:
            said = f"image-IoU {outcome.image_iou:.3f}"
        left = (time.perf_counter() - started) / count * (len(todo) - count)
        done = len(cells) - len(todo) + count
        console.print(
            f"[{done:>{len(str(len(cells)))}}/{len(cells)}] {cell}: {said}, "
            f"{outcome.seconds:.1f} s, {duration(left)} left",
            soft_wrap=True,
        )
    if elsewhere:
        console.print(f"{elsewhere} cells were left to other processes on this folder")
    return failed


def _outcomes(workers: Workers, todo: list[Cell]) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with what became of it."""
    passed_over = []
    for cell, outcome in workers.run(_attempt, todo):
        if workers.patient and outcome == Outcome():
            passed_over.append(cell)
        else:
            yield cell, outcome
    yield from workers.run(partial(_attempt, wait=True), passed_over)


def is_done(workspace: Workspace, cell: Cell) -> bool:
    """Whether a cell's records are there and were made with today's settings, base and rate."""
    path = workspace.folder / cell.path / "result.json"
    base = workspace.base_folder(cell.fold) / "result.json"
    if not path.exists() or not base.exists():
        return False
    result = records.read_json(path)
    made_with = (result.get("hash"), result.get("base"), result.get("lr"))
    rate = learning_rate(workspace, cell.loss)[0]
    return made_with == (workspace.digest, records.read_json(base).get("sha256"), rate)


def learning_rate(workspace: Workspace, loss: str) -> tuple[float, str]:
    """The rate of a loss, and where it comes from."""
    if not workspace.config.tuning.lrs:
        return workspace.config.optim.lr, "optim.lr"
    chosen = _rates(workspace).get(loss, {}).get("chosen")
    if chosen is None:
        return workspace.config.optim.lr, "optim.lr: the study has not chosen one yet"
    return float(chosen), "chosen by the study"


RATES = "learning_rates.json"
HOLDOUT_SHARE = 0.2
HOLDOUT_IMAGES = 100  # held-out images with a category (and as many without) that score a rate


def tune(workspace: Workspace, workers: Workers) -> None:
    """Choose a learning rate per loss, on training images only; see `config.Tuning`.

    Every trial is recorded when it ends. A diverged trial is recorded without a score.
    """
    tuning = workspace.config.tuning
    if not tuning.lrs:
        return
    path = workspace.folder / RATES
    rates = _rates(workspace)
    trials = _trials(workspace, rates)
    for loss, _ in trials:
        rates.setdefault(loss, {"chosen": None, "curve": []})
    for (loss, lr), score in workers.run(_score, trials):
        curve = rates[loss]["curve"]
        curve.append({"lr": lr, "image_iou": score})
        curve.sort(key=lambda point: point["lr"])
        records.write_json(path, rates)
        console.print(f"{loss} at {lr:g}: " + ("diverged" if score is None else f"{score:.4f}"))
    for loss in workspace.config.cells.losses:
        if rates[loss]["chosen"] is not None:
            continue
        rates[loss] |= _choice(loss, rates[loss]["curve"], tuning)
        note = ", the edge of what was tried" if rates[loss]["at_edge"] else ""
        console.print(f"{loss}: learning rate {rates[loss]['chosen']:g}{note}")
    records.write_json(path, rates)


def _rates(workspace: Workspace) -> Json:
    """What was tried for each loss, and what was chosen."""
    path = workspace.folder / RATES
    return records.read_json(path) if path.exists() else {}


def _trials(workspace: Workspace, rates: Json) -> list[tuple[str, float]]:
    """The pairs of loss and rate that are not tried yet."""
    tuning = workspace.config.tuning
    tried = {(loss, point["lr"]) for loss, entry in rates.items() for point in entry["curve"]}
    return [
        (loss, lr)
        for loss in workspace.config.cells.losses
        for lr in tuning.lrs
        if (rates.get(loss) or {}).get("chosen") is None and (loss, lr) not in tried
    ]


def _score(workspace: Workspace, trial: tuple[str, float]) -> float | None:
    return on_all(workspace, _trial, trial)


def _trial(workspace: Workspace, trial: tuple[str, float]) -> float | None:
    """Image-IoU on held-out training images, mean over the categories; None where it diverged."""
    loss, lr = trial
    config = workspace.config
    tuning = config.tuning
    train = workspace.index("train", tuning.fold)
    shuffled = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(train)
    held_out = int(len(train) * HOLDOUT_SHARE)
    holdout, rest = np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])
    optim = replace(config.optim, steps=tuning.steps, validate_every=tuning.steps)
    scores = []
    for category in tuning.categories:
        setting = Setting(workspace, category, tuning.fold)
        val = workspace.selection(category, holdout, limit=HOLDOUT_IMAGES)
        title = f"{loss} at {lr:g}: {category}"
        try:
            module, _, _ = setting.train(loss, lr, 0, rest, val, optim, None, title)
        except NonFiniteError:
            return None
        scores.append(module.curve[-1]["image_iou"])
    return statistics.fmean(scores)


def _choice(loss: str, curve: list[Json], tuning: Tuning) -> Json:
    """The rate with the highest score, the lower of two equals.

    Raises: UserError where no rate has one.
    """
    finite = [point for point in curve if point["image_iou"] is not None]
    if not finite:
        raise UserError(f"tuning.lrs: {loss} diverged at every rate of {tuning.lrs}")
    best = max(finite, key=lambda point: (point["image_iou"], -point["lr"]))
    return {
        "chosen": best["lr"],
        "at_edge": best["lr"] in (min(tuning.lrs), max(tuning.lrs)),
        "steps": tuning.steps,
        "categories": tuning.categories,
    }


def summary(workspace: Workspace, grid: Grid) -> Table:
    """Mean image-IoU by category and loss of the cells that are there, and how many those are."""
    table = Table(title=f"{workspace.config.name}: image-IoU on val, mean over folds and seeds")
    table.add_column("category")
    values: dict[str, list[float]] = {loss: [] for loss in grid.losses}
    for loss in grid.losses:
        table.add_column(loss.replace("_", " "), justify="right")
    per_loss = len(grid.folds) * len(grid.seeds)
    for category in grid.categories:
        row = []
        for loss in grid.losses:
            found = [
                records.read_json(workspace.folder / cell.path / "result.json")["image_iou"]
                for cell in Grid([category], [loss], grid.folds, grid.seeds).cells()
                if is_done(workspace, cell)
            ]
            whole = len(found) == per_loss
            row.append(f"{statistics.fmean(found):.3f}" if whole else f"{len(found)}/{per_loss}")
            if whole:
                values[loss].append(statistics.fmean(found))
        table.add_row(category, *row)
    table.add_section()
    complete = {loss: len(found) == len(grid.categories) for loss, found in values.items()}
    table.add_row(
        "mean",
        *(
            f"{statistics.fmean(values[loss]):.3f}" if complete[loss] else "missing"
            for loss in grid.losses
        ),
    )
    return table


def _print_plan(workspace: Workspace, grid: Grid) -> None:
    """What a study would do, and how long the rest would take by what was measured so far."""
    cells = grid.cells()
    done = [cell for cell in cells if is_done(workspace, cell)]
    todo = [cell for cell in cells if cell not in done]
    bases = 0
    for fold in grid.folds:
        there = (workspace.base_folder(fold) / "result.json").exists()
        bases += not there
        console.print(f"base network of fold {fold}: {'there' if there else 'to be made'}")
    trials = len(_trials(workspace, _rates(workspace)))
    console.print(f"learning rates: {trials} trials to run")
    for cell in cells:
        console.print(f"{'done' if cell in done else 'to run'}  {cell}")
    console.print(f"{len(cells)} cells, {len(done)} done, {len(todo)} to run")
    if (rates := cost.rates(workspace, done)) is None:
        console.print(f"expected for all: {workspace.config.expected}")
        return
    left = cost.estimate(workspace, rates, bases, trials, todo)
    console.print(
        f"about {duration(left.total)} left: base networks {duration(left.bases)}, learning rates "
        f"{duration(left.tuning)}, cells {duration(left.cells)}; by {rates.source}"
    )


def duration(seconds: float) -> str:
    """12 s, 3 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
