"""Which keys of the configuration the records of one folder must share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from lovasz_repro.config import Experiment
from lovasz_repro.study.identity import FREE

# What a cell's result.json says, what only says where or how long it runs, and what lies in `data`
# by its content: records of other values stand in one folder.
NOT_IN_THE_HASH = {
    *("name", "expected", "runs", "mixtures", "optim.lr", "optim.steps"),
    *("cells.categories", "cells.losses", "cells.folds", "cells.seeds"),
    "cells.folds_per_partition",
    *("tuning.lrs", "tuning.extend", "tuning.steps", "tuning.categories", "tuning.seeds"),
    *("data.root", "data.cache", "network.weights"),
    *("runtime.device", "runtime.keep_weights", "runtime.eval_batch", "runtime.loggers"),
    *("runtime.overlays", "runtime.strategy", "runtime.workers", "runtime.threads"),
    *("runtime.cpus_per_cell", "runtime.gpus_per_cell"),
}
ELSEWHERE = {"runs", "data.root", "data.cache", "network.weights"}  # not in study.json


def leaves(part: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Each key, the object that holds it, and its name there."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", part, entry.name


def other(key: str, value: Any) -> Any:
    if key == "task":
        return "multiclass"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list | tuple):
        return [*value, "more"]
    return {"more": 1} if isinstance(value, dict) else f"{value} more"


def test_the_hash_changes_with_every_key_but_those_listed() -> None:
    config = Experiment(name="one")
    free = set()
    for key, _, _ in leaves(config):
        changed = copy.deepcopy(config)
        _, part, name = next(leaf for leaf in leaves(changed) if leaf[0] == key)
        object.__setattr__(part, name, other(key, getattr(part, name)))
        if changed.digest({}) == config.digest({}):
            free.add(key)
    assert free == NOT_IN_THE_HASH


def test_a_refusal_names_no_key_that_is_free() -> None:
    named = {key for key in NOT_IN_THE_HASH if not key.startswith((*FREE, "runtime."))}
    assert named == ELSEWHERE
