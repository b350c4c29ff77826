"""Which keys of the configuration the records of one folder must share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from lovasz_repro.config import Experiment
from lovasz_repro.files import read_json
from lovasz_repro.records import Cell
from lovasz_repro.study import identity
from lovasz_repro.study.identity import FREE
from lovasz_repro.study.workspace import Workspace
from tests.helpers.studies import tiny

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


def test_a_study_that_goes_on_at_another_commit_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes_root: Path
) -> None:
    workspace = Workspace(tiny(shapes_root, tmp_path))
    cells = [Cell("bird", "hinge", 0, 0)]
    for commit in ("a" * 40, "a" * 40, "b" * 40, "c" * 40):
        now = {
            "commit": commit,
            "processor": "x86",
            "started": f"2026-01-0{'abc'.index(commit[0]) + 1}T10:00:00Z",
        }
        monkeypatch.setattr(identity, "describe_machine", lambda device, now=now: dict(now))
        identity.open_run(workspace, cells)
    machine = read_json(workspace.folder / "machine.json")
    assert machine["commit"] == "c" * 40
    assert [e["commit"][0] for e in machine["earlier"]] == ["a", "b"]
    assert machine["earlier"][0]["started"].startswith("2026-01-01")
    now["processor"] = "arm"
    identity.open_run(workspace, cells)
    machine = read_json(workspace.folder / "machine.json")
    assert [e["processor"] for e in machine["earlier"]] == ["x86"] * 3
    assert machine["processor"] == "arm"
