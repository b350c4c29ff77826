"""A whole experiment: base networks, tuning, cells, gallery; each stage skips what is done.

Whatever moment it is stopped at, the same command goes on: files appear whole or not at all, a cell
is done when its `result.json` is there, and what a step draws depends on seed and step alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from lovasz_repro import files, schema
from lovasz_repro.config import Experiment
from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.records import UNTRAINED, Cell, Grid, Json
from lovasz_repro.study.base import base_network, is_made
from lovasz_repro.study.cell import run_cell
from lovasz_repro.study.devices import on_all
from lovasz_repro.study.identity import open_run
from lovasz_repro.study.kept import FILE, best_cells
from lovasz_repro.study.launch import InUseError, Workers, held
from lovasz_repro.study.machine import Session, note_machine, session
from lovasz_repro.study.overview import write_overview
from lovasz_repro.study.tuning import chosen, missing_trials, read, tune
from lovasz_repro.study.workspace import Workspace

console = Console(highlight=False)
MEASURES = {"image_iou": "image-IoU", "miou": "mIoU"}


def fit(
    config: Experiment, category: str, loss: str, fold: int, seed: int, *, again: bool = False
) -> int:
    """Run one cell and print its measures.

    Args:
        again: even where it is done already.
    """
    name = loss if loss == UNTRAINED else config.known_loss(loss)
    cell = Cell(config.known_category(category), name, fold, seed)
    workspace = Workspace(config)
    if fold not in workspace.folds:
        raise UserError(f"fold: there is no {fold}; there is {workspace.folds}")
    with session(workspace.folder) as here:
        with held(workspace.folder, wait=True):
            open_run(workspace, [cell])
            if again or not _is_complete(workspace, cell):
                note_machine(workspace)
                here.begin()
                if not config.multiclass:
                    workspace.check_draws([cell.category], [fold])
                base_network(workspace, fold)
        choice, source = chosen(workspace, loss, fold)
        console.print(
            f"{cell}: learning rate {choice.lr:g}, {choice.steps} steps ({source})", soft_wrap=True
        )
        folder = workspace.folder / cell.path
        with held(folder):
            done = not again and _is_complete(workspace, cell)
            if done:
                kind = schema.MultiResult if config.multiclass else schema.Result
                result = files.read_json(folder / "result.json", kind)
                console.print("already done; --again runs it once more")
            else:
                result = on_all(workspace, run_cell, cell, choice)
        if not done:
            with held(workspace.folder, wait=True):
                write_overview(workspace.folder)
    if config.multiclass:
        said = f"mIoU {result['miou']:.4f}; per image {result['image_miou']:.4f}"
    else:
        said = (
            f"image-IoU {result['image_iou']:.4f} at threshold 0, {result['tuned_image_iou']:.4f} "
            f"at {result['threshold']:.3g} (chosen on held-out images); dataset-IoU "
            f"{result['dataset_iou']:.4f}"
        )
    console.print(
        f"{said}; {result['images']} val images\nrecords: {workspace.folder / cell.path}",
        soft_wrap=True,
    )
    return 0


def _is_complete(workspace: Workspace, cell: Cell) -> bool:
    """Whether a cell is done, and has its weights where all cells should."""
    wanted = workspace.config.runtime.keep_weights == "all" and cell.loss != UNTRAINED
    lacking = wanted and not (workspace.folder / cell.path / FILE).exists()
    return is_done(workspace, cell) and not lacking


def study(
    config: Experiment, *, dry_run: bool = False, verbose: bool = False, launcher: str = "local",
    address: str | None = None, finish: Callable[[Path, VOC], None] | None = None,
) -> int:  # fmt: skip
    """Run every cell of the grid that is not done. Returns the exit status: 1 where one failed.

    Processes that study one folder, on this machine or on others that share it, share the cells:
    what one does, the others wait for (base networks, tuning) or pass over (cells).

    Args:
        dry_run: only print what would run; verbose: and every cell of it.
        launcher: where jobs run, "local" or "ray". address: of the Ray cluster.
        finish: called at the end of a binary study with the run's folder and the data.
    """
    workspace = Workspace(config)
    cells = config.cells
    grid = Grid(cells.categories, [*cells.losses, UNTRAINED], cells.folds, cells.seeds)
    missing_folds = set(grid.folds) - set(workspace.folds)
    if missing_folds:
        raise UserError(f"cells.folds: there is no {missing_folds}; there is {workspace.folds}")
    if dry_run:
        _print_plan(workspace, grid, verbose)
        return 0
    with session(workspace.folder) as here:
        with _start(workspace, launcher, address) as workers:
            with held(workspace.folder, wait=True):
                workers.alone(open_run, grid.cells())
                if _is_work(workspace, grid):
                    _begin(here, workers, grid)
                tune(workspace, workers, here.note)
                # Another choice, from the trials that are there, makes cells to be run.
                if not here.begun and _is_work(workspace, grid):
                    _begin(here, workers, grid)
            failed = _run_cells(workspace, workers, grid, here)
            _make_weights(workspace, workers, grid, here, failed)
        with held(workspace.folder, wait=True):
            if finish and not config.multiclass:
                finish(workspace.folder, workspace.voc)
            write_overview(workspace.folder)
    console.print(summary(workspace, grid))
    for cell, error in failed.items():
        console.print(f"[red]failed[/red] {cell}: {error}", soft_wrap=True)
    return 1 if failed else 0


def _start(workspace: Workspace, launcher: str, address: str | None) -> Workers:
    """The workers of `study --launcher`.

    Raises: UserError where Ray is asked for and absent.
    """
    if launcher == "local":
        if address is not None:
            raise UserError("--address is that of a Ray cluster; it needs --launcher ray")
        return Workers(workspace)
    from lovasz_repro.study.cluster import RayWorkers

    return RayWorkers(workspace, address)


def _is_work(workspace: Workspace, grid: Grid) -> bool:
    """Whether a study has anything to train: a base network, a trial, or a cell."""
    return (
        not all(is_made(workspace, fold) for fold in grid.folds)
        or bool(missing_trials(workspace))
        or bool(_to_run(workspace, grid))
        or bool(_lacking_weights(workspace, grid))
    )


def _begin(here: Session, workers: Workers, grid: Grid) -> None:
    """What comes before trials and cells: the base networks, and what is computed once."""
    workers.alone(note_machine, None)
    here.begin()
    workers.alone(_prepare, grid.folds)
    for _ in workers.run(_make_base, grid.folds):
        here.note()
    workers.alone(_prepare_top, grid.folds)


def _prepare(workspace: Workspace, folds: Sequence[int]) -> None:
    tuning = workspace.config.tuning
    if tuning.lrs and not workspace.config.multiclass:  # a cell's own is recorded as its failure
        workspace.check_draws(tuning.categories, folds)
    workspace.features()


def _prepare_top(workspace: Workspace, folds: Sequence[int]) -> None:
    """Compute what the cells read of a frozen part, before several processes ask for it."""
    network = workspace.config.network
    if network.train != "all":
        for fold in folds:
            base, _ = base_network(workspace, fold)
            workspace.source(base, base.split(network.train, network.split)[0])
        workspace.forget()


def _make_base(workspace: Workspace, fold: int) -> None:
    with held(workspace.base_folder(fold), wait=True):
        base_network(workspace, fold)
        # A kill may have left it after its result was written.
        (workspace.base_folder(fold) / "resume.ckpt").unlink(missing_ok=True)


class Outcome(NamedTuple):
    """A cell's score or its error; neither where another process has the cell."""

    score: float | None = None
    error: str | None = None
    seconds: float = 0.0


def _attempt(
    workspace: Workspace, cell: Cell, *, wait: bool = False, again: bool = False
) -> Outcome:
    """Run a cell that is not done. Whatever goes wrong in it is recorded: the others can go on.

    Args:
        wait: for another process that runs it, which may die.
        again: even where it is done.
    """
    started = time.perf_counter()
    folder = workspace.folder / cell.path
    try:
        with held(folder, wait=wait):
            if is_done(workspace, cell) and not again:  # by another process, since this one looked
                return Outcome()
            # An older result under other settings would be taken for this one's after a crash.
            (folder / "result.json").unlink(missing_ok=True)
            try:
                choice, _ = chosen(workspace, cell.loss, cell.fold)
                result = on_all(workspace, run_cell, cell, choice)
            except (OSError, torch.AcceleratorError):
                raise  # a full disk, a lost GPU: the next cell would fail, too
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                files.write_json(folder / "failed.json", {"error": said})
                return Outcome(error=said, seconds=time.perf_counter() - started)
    except InUseError:
        return Outcome()
    return Outcome(result[workspace.config.measure], seconds=time.perf_counter() - started)


def _to_run(workspace: Workspace, grid: Grid) -> list[Cell]:
    """The cells that are not done."""
    tuned = read(workspace)
    return [cell for cell in grid.cells() if not is_done(workspace, cell, tuned)]


def _run_cells(
    workspace: Workspace, workers: Workers, grid: Grid, here: Session
) -> dict[Cell, str]:
    """Run what is not done, the result of each on one line. Returns the errors."""
    cells, todo = grid.cells(), _to_run(workspace, grid)
    console.print(f"{len(cells)} cells, {len(cells) - len(todo)} done, {len(todo)} to run")
    _forget_checkpoints(workspace, set(cells) - set(todo))
    failed: dict[Cell, str] = {}
    elsewhere = 0
    started = time.perf_counter()
    for count, (cell, outcome) in enumerate(_outcomes(workers, todo), 1):
        here.note_if_free()
        if outcome.error:
            failed[cell] = outcome.error
            said = f"[red]failed[/red]: {outcome.error}"
        elif outcome.score is None:
            elsewhere += 1
            continue
        else:
            said = f"{MEASURES[workspace.config.measure]} {outcome.score:.3f}"
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


def _forget_checkpoints(workspace: Workspace, done: Iterable[Cell]) -> None:
    """Remove the checkpoints that a kill left next to finished results."""
    for cell in done:
        folder = workspace.folder / cell.path
        if (folder / "resume.ckpt").exists():
            with suppress(InUseError), held(folder):  # `fit` runs a cell again that is done
                (folder / "resume.ckpt").unlink(missing_ok=True)


def _make_weights(
    workspace: Workspace, workers: Workers, grid: Grid, here: Session, failed: dict[Cell, str]
) -> None:
    """Run the done cells again whose weights should be kept and are not there."""
    lacking = [cell for cell in _lacking_weights(workspace, grid) if cell not in failed]
    for cell, outcome in workers.run(partial(_attempt, again=True), lacking):
        here.note_if_free()
        said = outcome.error or f"{outcome.seconds:.1f} s"
        console.print(f"weights of {cell}: {said}", soft_wrap=True)
        if outcome.error:
            failed[cell] = outcome.error


def _lacking_weights(workspace: Workspace, grid: Grid) -> list[Cell]:
    """The done cells whose weights should be kept and are not there."""
    keep = workspace.config.runtime.keep_weights
    if keep == "none":
        return []
    tuned = read(workspace)
    there = [cell for cell in grid.cells() if is_done(workspace, cell, tuned)]
    if keep == "best":
        best = set(best_cells(workspace.folder, workspace.digest))
        there = [cell for cell in there if cell in best]
    return [
        cell
        for cell in there
        if cell.loss != UNTRAINED and not (workspace.folder / cell.path / FILE).exists()
    ]


def _outcomes(workers: Workers, todo: list[Cell]) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with what became of it."""
    passed_over = []
    for cell, outcome in workers.run(_attempt, todo):
        if workers.patient and outcome == Outcome():
            passed_over.append(cell)
        else:
            yield cell, outcome
    yield from workers.run(partial(_attempt, wait=True), passed_over)


def is_done(workspace: Workspace, cell: Cell, tuned: Json | None = None) -> bool:
    """Whether a cell's records are there and were made with today's settings, base and rate.

    Args:
        tuned: tuning.json, where it has been read already.
    """
    path = workspace.folder / cell.path / "result.json"
    base = workspace.base_folder(cell.fold) / "result.json"
    if not path.exists() or not base.exists():
        return False
    result = files.read_json(path)
    choice, _ = chosen(workspace, cell.loss, cell.fold, tuned)
    made_with = (result.get(key) for key in ("hash", "base", "lr", "steps", "mixture"))
    sha256 = files.read_json(base).get("sha256")
    mixture = workspace.config.mixtures.get(schema.without_batch(cell.loss))
    return tuple(made_with) == (workspace.digest, sha256, choice.lr, choice.steps, mixture)


def summary(workspace: Workspace, grid: Grid) -> Table:
    """Mean score by category and loss of the cells that are there, and how many those are."""
    config = workspace.config
    table = Table(title=f"{config.name}: {MEASURES[config.measure]} on val, mean over folds, seeds")
    table.add_column("category")
    values: dict[str, list[float]] = {loss: [] for loss in grid.losses}
    for loss in grid.losses:
        table.add_column(loss.replace("_", " "), justify="right")
    per_loss = len(grid.folds) * len(grid.seeds)
    tuned = read(workspace)
    for category in grid.categories:
        row = []
        for loss in grid.losses:
            found = [
                files.read_json(
                    workspace.folder / cell.path / "result.json",
                    schema.MultiResult if config.multiclass else schema.Result,
                )[config.measure]
                for cell in Grid([category], [loss], grid.folds, grid.seeds).cells()
                if is_done(workspace, cell, tuned)
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


def _print_plan(workspace: Workspace, grid: Grid, verbose: bool) -> None:
    """What a study would do, and how long the rest takes by the cells that are done."""
    cells, todo = grid.cells(), _to_run(workspace, grid)
    done = set(cells) - set(todo)
    console.print(f"{len(cells)} cells, {len(done)} done, {len(todo)} to run")
    _print_expected(workspace, done, len(todo))
    for fold in grid.folds:
        there = (workspace.base_folder(fold) / "result.json").exists()
        console.print(f"base network of fold {fold}: {'there' if there else 'to be made'}")
    trials = len(missing_trials(workspace))
    console.print(f"tuning: {trials} trials to run, or more" if trials else "tuning: done")
    if lacking := _lacking_weights(workspace, grid):
        console.print(f"weights of {len(lacking)} done cells: to be made by running them again")
    if verbose:
        for cell in cells:
            console.print(f"{'done' if cell in done else 'to run'}  {cell}")
    else:
        console.print("--verbose lists the cells")


def _print_expected(workspace: Workspace, done: set[Cell], todo: int) -> None:
    if not done:
        console.print(f"expected for all: {workspace.config.expected}")
        return
    paths = [workspace.folder / cell.path / "cost.json" for cell in done]
    costs = [files.read_json(path, schema.Cost) for path in paths]
    median = statistics.median(cost["total_seconds"] for cost in costs)
    left = median * todo / workspace.config.runtime.workers
    console.print(f"about {duration(left)} left for the cells, by the median of {len(done)} done")


def duration(seconds: float) -> str:
    """12 s, 3 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
