"""One cell: trained with a loss on one fold from one seed, evaluated, recorded."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import pandas as pd

from lovasz_repro.records import UNTRAINED, Cell, Json, cells
from lovasz_repro.schema import without_batch
from lovasz_repro.study.kept import FILE, drop_others, keep
from lovasz_repro.study.setup import cell_setup
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.callbacks import Stopwatch
from lovasz_repro.training.logs import log_final
from lovasz_repro.training.loop import test


@dataclass(frozen=True)
class Choice:
    """How a cell trains: chosen by tuning, or the configuration's own."""

    lr: float
    steps: int


def run_cell(workspace: Workspace, cell: Cell, choice: Choice) -> Json:
    """Train, evaluate at the files' own sizes, and write the cell's records.

    Returns: the values of `result.json`; {} in the processes of further devices.

    Raises: NonFiniteError.
    """
    started = time.perf_counter()
    config, folder = workspace.config, workspace.folder / cell.path
    setup = cell_setup(workspace, cell.category, cell.fold)
    loggers = workspace.loggers(cell.category, f"{cell.loss}/fold{cell.fold}-seed{cell.seed}")
    train_index, val_index, held_out = setup.indices()
    optim = None
    if cell.loss != UNTRAINED:
        every = config.steps(cell.loss, config.optim.validate_every)
        optim = replace(config.optim, steps=choice.steps, validate_every=every)
    module, trainer, data = setup.train(
        cell.loss, choice.lr, cell.seed, train_index, val_index[:: setup.curve_every], optim,
        folder, str(cell), loggers,
    )  # fmt: skip
    setup.choose_threshold(module, data, held_out)
    data.val_index = val_index
    before = time.perf_counter()
    test(trainer, module, data)
    evaluated = time.perf_counter() - before
    if workspace.rank:
        return {}
    measures, tables = setup.evaluate(module)
    bare = without_batch(cell.loss)
    result = {
        **vars(cell),
        "hash": workspace.digest,
        "lr": choice.lr,
        "steps": choice.steps,
        **({"mixture": config.mixtures[bare]} if bare in config.mixtures else {}),
        "base": setup.base_digest,
        "train_images": len(train_index),
        "held_out_images": len(held_out),
        **measures,
    }
    # After a kill, an older result would be taken for that of the new files.
    (folder / "result.json").unlink(missing_ok=True)
    if config.runtime.keep_weights != "none" and cell.loss != UNTRAINED:
        result["weights"] = keep(folder, module.network)
    else:
        (folder / FILE).unlink(missing_ok=True)
    setup.write_pictures(folder, module, data, loggers)
    log_final(
        loggers, {key: result[key] for key in setup.settings},
        {f"final/{name}": result[name] for name in setup.measures}, choice.steps,
    )  # fmt: skip
    tables["curve.csv"] = pd.DataFrame(module.curve)
    spent = Stopwatch.of(trainer).spent(started)
    cost = {
        "images": result["images"],
        "seconds_per_step": spent["train_seconds"] / max(choice.steps, 1),
        "evaluate_seconds": evaluated,
        **spent,
    }
    cells.write_cell(folder, tables, result, cost, config.task)
    if config.runtime.keep_weights == "best":
        drop_others(workspace.folder, cell.category, workspace.digest)
    (folder / "resume.ckpt").unlink(missing_ok=True)
    return result
