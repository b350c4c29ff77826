"""A whole experiment: base networks, learning rates, cells, gallery; each stage skips what is done.

Whatever moment it is stopped at, the same command goes on: files appear whole or not at all, a cell
is done when its `result.json` is there, and what a step draws depends on seed and step alone.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from lovasz_repro import records
from lovasz_repro.cell import Setting, run_cell
from lovasz_repro.config import Experiment, known_category
from lovasz_repro.errors import UserError
from lovasz_repro.gallery import write_gallery
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
    with owned(workspace):
        workspace.open([cell])
        lr, chosen = learning_rate(workspace, loss)
        console.print(f"{cell}: learning rate {lr:g} ({chosen})")
        result = run_cell(workspace, cell, lr)
    console.print(
        f"image-IoU {result['image_iou']:.4f} at threshold 0, {result['tuned_image_iou']:.4f} at "
        f"{result['threshold']:.3g} (chosen on training images); dataset-IoU "
        f"{result['dataset_iou']:.4f}; {result['images']} val images\n"
        f"records: {workspace.folder / cell.path}",
        soft_wrap=True,
    )
    return 0


def study(config: Experiment, *, dry_run: bool = False) -> int:
    """Run every cell of the grid that is not done. Returns the exit status: 1 where one failed."""
    workspace = Workspace(config)
    grid = Grid(**vars(config.cells))
    missing_folds = set(grid.folds) - set(workspace.folds)
    if missing_folds:
        raise UserError(f"cells.folds: there is no {missing_folds}; there is {workspace.folds}")
    if dry_run:
        _print_plan(workspace, grid)
        return 0
    with owned(workspace):
        workspace.open(grid.cells())
        for fold in grid.folds:
            workspace.base(fold)
        tune(workspace)
        failed = _run_cells(workspace, grid)
        write_gallery(workspace.folder, workspace.voc)
        write_overview(workspace.folder)
        workspace.close()
    console.print(summary(workspace, grid))
    for cell, error in failed.items():
        console.print(f"[red]failed[/red] {cell}: {error}", soft_wrap=True)
    return 1 if failed else 0


def _run_cells(workspace: Workspace, grid: Grid) -> dict[Cell, str]:
    """Run what is not done, the result of each on one line. Returns the errors."""
    cells = grid.cells()
    todo = [cell for cell in cells if not is_done(workspace, cell)]
    console.print(f"{len(cells)} cells, {len(cells) - len(todo)} done, {len(todo)} to run")
    failed: dict[Cell, str] = {}
    seconds: list[float] = []
    for position, cell in enumerate(todo):
        started = time.perf_counter()
        folder = workspace.folder / cell.path
        # An older result under other settings would be taken for this one's after a crash.
        (folder / "result.json").unlink(missing_ok=True)
        try:
            result = run_cell(workspace, cell, learning_rate(workspace, cell.loss)[0])
            said = f"image-IoU {result['image_iou']:.3f}"
        except Exception as error:  # whatever went wrong in this cell, the others can go on
            failed[cell] = f"{type(error).__name__}: {error}"
            records.write_json(folder / "failed.json", {"error": failed[cell]})
            said = f"[red]failed[/red]: {failed[cell]}"
        seconds.append(time.perf_counter() - started)
        left = statistics.median(seconds) * (len(todo) - position - 1)
        done = len(cells) - len(todo) + position + 1
        console.print(
            f"[{done:>{len(str(len(cells)))}}/{len(cells)}] {cell}: {said}, "
            f"{seconds[-1]:.1f} s, {duration(left)} left",
            soft_wrap=True,
        )
    return failed


def is_done(workspace: Workspace, cell: Cell) -> bool:
    """Whether a cell's records are there and were made with today's settings, base and rate."""
    path = workspace.folder / cell.path / "result.json"
    base = workspace.base_folder(cell.fold) / "result.json"
    if not path.exists() or not base.exists():
        return False
    result = records.read_json(path)
    made_with = (result["hash"], result["base"], result["lr"])
    rate = learning_rate(workspace, cell.loss)[0]
    return made_with == (workspace.digest, records.read_json(base)["sha256"], rate)


def learning_rate(workspace: Workspace, loss: str) -> tuple[float, str]:
    """The rate of a loss, and where it comes from."""
    if not workspace.config.tuning.lrs:
        return workspace.config.optim.lr, "optim.lr"
    path = workspace.folder / "learning_rates.json"
    chosen = records.read_json(path).get(loss, {}).get("chosen") if path.exists() else None
    if chosen is None:
        return workspace.config.optim.lr, "optim.lr: the study has not chosen one yet"
    return float(chosen), "chosen by the study"


HOLDOUT_SHARE = 0.2
HOLDOUT_IMAGES = 40  # held-out images with a category (and as many without) that score a rate


def tune(workspace: Workspace) -> None:
    """Choose a learning rate per loss, on training images only; see `config.Tuning`.

    Every trial is recorded when it ends. A diverged trial is recorded without a score.
    """
    config = workspace.config
    tuning = config.tuning
    if not tuning.lrs:
        return
    path = workspace.folder / "learning_rates.json"
    rates: Json = records.read_json(path) if path.exists() else {}
    train = workspace.index("train", tuning.fold)
    shuffled = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(train)
    held = int(len(train) * HOLDOUT_SHARE)
    holdout, rest = np.sort(shuffled[:held]), np.sort(shuffled[held:])
    optim = replace(config.optim, steps=tuning.steps, validate_every=tuning.steps)
    for loss in config.cells.losses:
        entry = rates.setdefault(loss, {"chosen": None, "curve": []})
        if entry["chosen"] is not None:
            continue
        tried = {point["lr"] for point in entry["curve"]}
        for lr in tuning.lrs:
            if lr in tried:
                continue
            scores = []
            for category in tuning.categories:
                setting = Setting(workspace, category, tuning.fold)
                val = setting.selection(holdout, limit=HOLDOUT_IMAGES)
                try:
                    module, _, _ = setting.train(
                        loss, lr, 0, rest, val, optim, None, f"{loss} at {lr:g}: {category}"
                    )
                except NonFiniteError:
                    break
                scores.append(module.curve[-1]["image_iou"])
            complete = len(scores) == len(tuning.categories)
            score = statistics.fmean(scores) if complete else None
            entry["curve"].append({"lr": lr, "image_iou": score})
            records.write_json(path, rates)
            console.print(f"{loss} at {lr:g}: " + (f"{score:.4f}" if complete else "diverged"))
        finite = [point for point in entry["curve"] if point["image_iou"] is not None]
        if not finite:
            raise UserError(f"tuning.lrs: {loss} diverged at every rate of {tuning.lrs}")
        best = max(finite, key=lambda point: (point["image_iou"], -point["lr"]))
        edge = best["lr"] in (min(tuning.lrs), max(tuning.lrs))
        entry |= {
            "chosen": best["lr"],
            "at_edge": edge,
            "steps": tuning.steps,
            "categories": tuning.categories,
        }
        records.write_json(path, rates)
        note = ", the edge of what was tried" if edge else ""
        console.print(f"{loss}: learning rate {best['lr']:g}{note}")


@contextmanager
def owned(workspace: Workspace) -> Iterator[None]:
    """Hold the run's folder. The lock is the system's: it ends with its process, however that ends.

    Raises: UserError naming the owner where another process holds it.
    """
    folder = workspace.folder
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "owner.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        there = json.loads(owner.read_text()) if owner.exists() else {}
        raise UserError(
            f"{folder} is in use by process {there.get('pid', '?')} on {there.get('host', '?')}"
        ) from error
    try:
        records.write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


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
    """What a study would do, and how long the rest would take by what its done cells took."""
    cells = grid.cells()
    done = [cell for cell in cells if is_done(workspace, cell)]
    for fold in grid.folds:
        there = (workspace.base_folder(fold) / "result.json").exists()
        console.print(f"base network of fold {fold}: {'there' if there else 'to be made'}")
    trials = len(workspace.config.tuning.lrs) * len(workspace.config.tuning.categories)
    console.print(f"learning rates: {trials} trials for each of {len(grid.losses)} losses")
    for cell in cells:
        console.print(f"{'done' if cell in done else 'to run'}  {cell}")
    console.print(f"{len(cells)} cells, {len(done)} done, {len(cells) - len(done)} to run")
    costs = [records.read_json(workspace.folder / cell.path / "cost.json") for cell in done]
    if costs:
        each = statistics.median(cost["total_seconds"] for cost in costs)
        console.print(
            f"about {duration(each * (len(cells) - len(done)))} for the cells, "
            f"by the {each:.1f} s that a done one took"
        )
    else:
        console.print(f"expected for all: {workspace.config.expected}")


def duration(seconds: float) -> str:
    """12 s, 3 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
