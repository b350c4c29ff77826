"""A whole experiment: base networks, tuning, cells, gallery; each stage skips what is done.

It may be stopped at any moment, and the same command resumes it: files are written atomically, a
cell is done when its `result.json` exists, and a step's draws depend only on seed and step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from lovasz_repro import files
from lovasz_repro.config import Experiment
from lovasz_repro.config.sections import check_count
from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.records import UNTRAINED, Cell, Grid
from lovasz_repro.study.base import base_network
from lovasz_repro.study.cell import run_cell
from lovasz_repro.study.devices import on_all
from lovasz_repro.study.identity import check_run, open_run
from lovasz_repro.study.launch import InUseError, Workers, held
from lovasz_repro.study.machine import Session, note_machine
from lovasz_repro.study.overview import write_overview
from lovasz_repro.study.progress import (
    MEASURE_NAMES,
    finished,
    is_work,
    lacking_weights,
    outdated,
    print_outdated,
    print_plan,
    summary,
    to_run,
)
from lovasz_repro.study.tuning import chosen, tune
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.words import count, duration

console = Console(highlight=False, markup=False)


def fit(
    config: Experiment, category: str, loss: str, fold: int, seed: int, *, again: bool = False
) -> int:
    """Run one cell and print its measures.

    Args:
        again: also if it is done already.
    """
    name = loss if loss == UNTRAINED else config.known_loss(loss)
    check_count("seed", seed)
    cell = Cell(config.known_category(category), name, fold, seed)
    workspace = Workspace(config)
    _check_fold(workspace, "fold", fold)
    with Session(workspace.folder) as here:
        with held(workspace.folder, wait=True):
            open_run(workspace, [cell])
            if not again:
                _check_replaced(workspace, cell)
            if again or _is_left(workspace, cell):
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
            left = again or _is_left(workspace, cell)
            if left:
                result = on_all(workspace, run_cell, cell, choice)
            else:
                result = finished(workspace, [cell])[cell]
                console.print("already done; --again runs it once more")
        if left:
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


def _check_fold(workspace: Workspace, key: str, fold: int) -> None:
    if fold not in workspace.folds:
        there = ", ".join(map(str, workspace.folds))
        raise UserError(f"{key}: there is no {fold}; there is {there}")


def _check_replaced(workspace: Workspace, cell: Cell) -> None:
    """Raises: UserError if the cell is done at another rate, number of steps or mixture."""
    if result := outdated(workspace, [cell]).get(cell):
        choice, source = chosen(workspace, cell.loss, cell.fold)
        mixture = f", mixture {result['mixture']}" if "mixture" in result else ""
        raise UserError(
            f"{workspace.folder / cell.path}: done at learning rate {result.get('lr')}, "
            f"{result.get('steps')} steps{mixture}; now it would be {choice.lr:g}, {choice.steps} "
            f"steps ({source}). --again replaces it, with the weights that it kept; --name or "
            "--runs keeps both"
        )


def _is_left(workspace: Workspace, cell: Cell) -> bool:
    """Whether a cell is not done, or lacks the weights that it should keep."""
    return bool(to_run(workspace, [cell]) or lacking_weights(workspace, [cell]))


def study(
    config: Experiment, *, dry_run: bool = False, verbose: bool = False, launcher: str = "local",
    address: str | None = None, finish: Callable[[Path, VOC], None] | None = None,
) -> int:  # fmt: skip
    """Run every cell of the grid that is not done. Returns the exit status: 1 if one failed.

    Several processes, on this machine or on others that share the folder, may run one study: they
    wait for base networks and tuning that another makes, and skip cells that another runs.

    Args:
        dry_run: only print what would run; verbose: list the cells, too.
        launcher: where jobs run, "local" or "ray". address: of the Ray cluster.
        finish: called at the end of a binary study with the run's folder and the data.
    """
    workspace = Workspace(config)
    cells = config.cells
    grid = Grid(cells.categories, [*cells.losses, UNTRAINED], cells.folds, cells.seeds)
    for fold in grid.folds:
        _check_fold(workspace, "cells.folds", fold)
    if dry_run:
        check_run(workspace)
        print_plan(workspace, grid, verbose)
        return 0
    with Session(workspace.folder) as here:
        with _start(workspace, launcher, address) as workers:
            with held(workspace.folder, wait=True):
                workers.alone(open_run, grid.cells())
                if is_work(workspace, grid):
                    _begin(here, workers, grid)
                tune(workspace, workers, here.note)
                # A new choice from existing trials may leave cells to run.
                if not here.begun and is_work(workspace, grid):
                    _begin(here, workers, grid)
            failed = _run_cells(workspace, workers, grid.cells(), here)
            if lacking := lacking_weights(workspace, grid.cells()):
                cells_left = count(len(lacking), "done cell")
                console.print(f"weights of {cells_left}: made by running again")
                failed |= _run(workers, lacking, here, again=True)
        with held(workspace.folder, wait=True):
            if finish and not config.multiclass:
                finish(workspace.folder, workspace.voc)
            write_overview(workspace.folder)
    console.print(summary(workspace, grid))
    for cell, error in failed.items():
        console.print(f"failed {cell}: {error}", style="red", soft_wrap=True)
    return 1 if failed else 0


def _start(workspace: Workspace, launcher: str, address: str | None) -> Workers:
    """The workers of `study --launcher`.

    Raises: UserError if Ray is asked for but absent.
    """
    if launcher == "local":
        if address is not None:
            raise UserError("--address is that of a Ray cluster; it needs --launcher ray")
        return Workers(workspace)
    from lovasz_repro.study.cluster import RayWorkers

    return RayWorkers(workspace, address)


def _begin(here: Session, workers: Workers, grid: Grid) -> None:
    """Make the base networks and the features, which trials and cells need."""
    workers.alone(note_machine, None)
    here.begin()
    workers.alone(_prepare, grid.folds)
    for _ in workers.run(_make_base, grid.folds):
        here.note()
    workers.alone(_prepare_top, grid.folds)


def _prepare(workspace: Workspace, folds: Sequence[int]) -> None:
    tuning = workspace.config.tuning
    if tuning.lrs and not workspace.config.multiclass:  # a cell records it as its failure
        workspace.check_draws(tuning.categories, folds)
    workspace.features()


def _prepare_top(workspace: Workspace, folds: Sequence[int]) -> None:
    """Compute the frozen part's output for the cells, before several processes need it."""
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
    """A cell's score or its error; neither if another process has the cell."""

    score: float | None = None
    error: str | None = None
    seconds: float = 0.0


def _attempt(
    workspace: Workspace, cell: Cell, *, wait: bool = False, again: bool = False
) -> Outcome:
    """Run a cell that is not done. Its error is recorded, and other cells can go on.

    Args:
        wait: for another process that runs it, in case that one dies.
        again: also if it is done.
    """
    started = time.perf_counter()
    folder = workspace.folder / cell.path
    try:
        with held(folder, wait=wait):
            if not again and not to_run(workspace, [cell]):  # another process was faster
                return Outcome()
            # failed.json is read only where there is no result, such as one under other settings.
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


def _run_cells(
    workspace: Workspace, workers: Workers, cells: Sequence[Cell], here: Session
) -> dict[Cell, str]:
    """Run what is not done. Returns the errors."""
    todo = to_run(workspace, cells)
    console.print(f"{len(cells)} cells, {len(cells) - len(todo)} done, {len(todo)} to run")
    print_outdated(workspace, todo)
    for cell in set(cells) - set(todo):  # a kill may have left it after its result was written
        checkpoint = workspace.folder / cell.path / "resume.ckpt"
        if checkpoint.exists():
            with suppress(InUseError), held(checkpoint.parent):  # `fit` runs a done cell again
                checkpoint.unlink(missing_ok=True)
    return _run(workers, todo, here, before=len(cells) - len(todo))


def _run(
    workers: Workers, cells: Sequence[Cell], here: Session, *, before: int = 0, again: bool = False
) -> dict[Cell, str]:
    """Run these cells and print a line for each. Returns the errors.

    Args:
        before: how many cells of the grid are done already. again: run cells that are done.
    """
    measure = MEASURE_NAMES[workers.workspace.config.measure]
    total = before + len(cells)
    failed: dict[Cell, str] = {}
    elsewhere = 0
    started = time.perf_counter()
    for number, (cell, outcome) in enumerate(_outcomes(workers, cells, again), 1):
        here.note_if_free()
        if outcome.error:
            failed[cell] = outcome.error
            said = f"failed: {outcome.error}"
        elif outcome.score is None:
            elsewhere += 1
            continue
        else:
            said = f"{measure} {outcome.score:.3f}"
        left = (time.perf_counter() - started) / number * (len(cells) - number)
        console.print(
            f"[{before + number:>{len(str(total))}}/{total}] {cell}: {said}, "
            f"{outcome.seconds:.1f} s, {duration(left)} left",
            style="red" if outcome.error else None,
            soft_wrap=True,
        )
    if elsewhere:
        console.print(f"left to other processes on this folder: {count(elsewhere, 'cell')}")
    return failed


def _outcomes(
    workers: Workers, cells: Sequence[Cell], again: bool
) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with its outcome. Patient workers run cells that were in use again at the end."""
    passed_over = []
    for cell, outcome in workers.run(partial(_attempt, again=again), cells):
        if workers.patient and outcome == Outcome():
            passed_over.append(cell)
        else:
            yield cell, outcome
    yield from workers.run(partial(_attempt, wait=True), passed_over)
