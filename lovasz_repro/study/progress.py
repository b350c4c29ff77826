"""Which cells of a study are done, which are left, and how long those take."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lovasz_repro import files, schema
from lovasz_repro.errors import UserError
from lovasz_repro.records import UNTRAINED, Cell, Grid, Json
from lovasz_repro.study.base import is_made
from lovasz_repro.study.kept import FILE, best_cells
from lovasz_repro.study.tuning import chosen, missing_trials, read
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.words import count, duration

console = Console(highlight=False, markup=False)
MEASURE_NAMES = {"image_iou": "image-IoU", "miou": "mIoU"}


def finished(workspace: Workspace, cells: Sequence[Cell]) -> dict[Cell, Json]:
    """The results of the cells that were made with the current settings, base network and rate.

    Raises: UserError if such a result is malformed.
    """
    kind = schema.MultiResult if workspace.config.multiclass else schema.Result
    done: dict[Cell, Json] = {}
    for cell, result, now in _results(workspace, cells):
        if _made_with(result) == now:
            if wrong := schema.problem(result, kind):
                raise UserError(f"{workspace.folder / cell.path / 'result.json'}: {wrong}")
            done[cell] = result
    return done


def outdated(workspace: Workspace, cells: Sequence[Cell]) -> dict[Cell, Json]:
    """The results that were made with the current settings and base network, but at another
    learning rate, number of steps or mixture. Running such a cell replaces its records."""
    return {
        cell: result
        for cell, result, now in _results(workspace, cells)
        if _made_with(result) != now and _made_with(result)[:2] == now[:2]
    }


def _results(workspace: Workspace, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Json, list[Any]]]:
    """Each cell that has a result, the result, and `_made_with` as it would be now."""
    config, tuned = workspace.config, read(workspace)
    bases: dict[int, str | None] = {}
    for cell in cells:
        path = workspace.folder / cell.path / "result.json"
        base = workspace.base_folder(cell.fold) / "result.json"
        if not path.exists() or not base.exists():
            continue
        if cell.fold not in bases:
            bases[cell.fold] = files.read_json(base).get("sha256")
        choice, _ = chosen(workspace, cell.loss, cell.fold, tuned)
        mixture = config.mixtures.get(schema.without_batch(cell.loss))
        now = [workspace.digest, bases[cell.fold], choice.lr, choice.steps, mixture]
        yield cell, files.read_json(path), now


def _made_with(result: Json) -> list[Any]:
    return [result.get(key) for key in ("hash", "base", "lr", "steps", "mixture")]


def to_run(workspace: Workspace, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are not done."""
    done = finished(workspace, cells)
    return [cell for cell in cells if cell not in done]


def lacking_weights(workspace: Workspace, cells: Sequence[Cell]) -> list[Cell]:
    """The done cells whose weights should be kept but are missing."""
    keep = workspace.config.runtime.keep_weights
    if keep == "none":
        return []
    done = finished(workspace, cells)
    kept: Collection[Cell] = done
    if keep == "best":
        kept = best_cells(workspace.folder, workspace.digest)
    return [
        cell
        for cell in done
        if cell in kept
        and cell.loss != UNTRAINED
        and not (workspace.folder / cell.path / FILE).exists()
    ]


def print_outdated(workspace: Workspace, cells: Sequence[Cell]) -> None:
    """Say how many of these cells a study would replace."""
    if old := outdated(workspace, cells):
        console.print(
            f"{count(len(old), 'cell')} of them: done at another learning rate, number of steps or "
            "mixture; the new records replace the old ones",
            soft_wrap=True,
        )


def is_work(workspace: Workspace, grid: Grid) -> bool:
    """Whether a study has anything to train: a base network, a trial, or a cell."""
    return (
        not all(is_made(workspace, fold) for fold in grid.folds)
        or bool(missing_trials(workspace))
        or bool(to_run(workspace, grid.cells()))
        or bool(lacking_weights(workspace, grid.cells()))
    )


def summary(workspace: Workspace, grid: Grid) -> Table:
    """Mean scores by category and loss, or the number of done cells if some are missing."""
    config, each = workspace.config, len(grid.folds) * len(grid.seeds)
    scores: dict[tuple[str, str], list[float]] = {
        (category, loss): [] for category in grid.categories for loss in grid.losses
    }
    for cell, result in finished(workspace, grid.cells()).items():
        scores[cell.category, cell.loss].append(result[config.measure])
    means = {key: statistics.fmean(found) for key, found in scores.items() if len(found) == each}
    table = Table(
        title=f"{config.name}: {MEASURE_NAMES[config.measure]} on val, mean over folds, seeds"
    )
    table.add_column("category")
    for loss in grid.losses:
        table.add_column(loss.replace("_", " "), justify="right")
    for category in grid.categories:
        keys = [(category, loss) for loss in grid.losses]
        table.add_row(
            category,
            *(f"{means[k]:.3f}" if k in means else f"{len(scores[k])}/{each}" for k in keys),
        )
    table.add_section()
    columns = [
        [means[category, loss] for category in grid.categories if (category, loss) in means]
        for loss in grid.losses
    ]
    whole = len(grid.categories)
    table.add_row(
        "mean",
        *(f"{statistics.fmean(c):.3f}" if len(c) == whole else "missing" for c in columns),
    )
    return table


def print_plan(workspace: Workspace, grid: Grid, verbose: bool) -> None:
    """Print what a study would do, and how long it would take, judging by its done cells."""
    cells = grid.cells()
    done = finished(workspace, cells)
    left = len(cells) - len(done)
    console.print(f"{len(cells)} cells, {len(done)} done, {left} to run")
    print_outdated(workspace, [cell for cell in cells if cell not in done])
    if done:
        paths = [workspace.folder / cell.path / "cost.json" for cell in done]
        costs = [files.read_json(path, schema.Cost)["total_seconds"] for path in paths]
        seconds = statistics.median(costs) * left / workspace.config.runtime.workers
        console.print(
            f"about {duration(seconds)} left for the cells, by the median of {len(done)} done"
        )
    else:
        console.print(f"expected for all: {workspace.config.expected}")
    for fold in grid.folds:
        there = "there" if is_made(workspace, fold) else "to be made"
        console.print(f"base network of fold {fold}: {there}")
    trials = len(missing_trials(workspace))
    console.print(f"tuning: {trials} trials to run, or more" if trials else "tuning: done")
    if lacking := lacking_weights(workspace, cells):
        console.print(f"weights of {count(len(lacking), 'done cell')}: to be made by running again")
    if verbose:
        for cell in cells:
            console.print(f"{'done' if cell in done else 'to run'}  {cell}")
    else:
        console.print("--verbose lists the cells")
