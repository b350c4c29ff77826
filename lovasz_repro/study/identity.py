"""Bind a run's folder to its settings, in `study.json`.

A command whose settings would change a number is refused, so that a folder never mixes two
experiments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from lovasz_repro import schema
from lovasz_repro.config import Experiment
from lovasz_repro.config.sections import NUMERIC
from lovasz_repro.errors import UserError
from lovasz_repro.files import Json, read_json, write_json
from lovasz_repro.records import Cell
from lovasz_repro.study.workspace import Workspace


def open_run(workspace: Workspace, cells: Sequence[Cell]) -> None:
    """Write `study.json` for these cells; the cells of earlier commands stay in its grid.

    Raises: UserError if the folder holds records of other settings, images or masks.
    """
    study = {
        "experiment": workspace.config.name,
        "generated": workspace.voc.generated,
        "hash": workspace.digest,
        "grid": _grid(cells, check_run(workspace)),
        "config": _settings(workspace.config),
        "data": workspace.data,
    }
    write_json(workspace.folder / "study.json", study)


def check_run(workspace: Workspace) -> Json | None:
    """The grid of the run's folder; None if there is no run yet.

    Raises: UserError if the folder holds records of other settings, images or masks.
    """
    path = workspace.folder / "study.json"
    if not path.exists():
        return None
    there = read_json(path, schema.Study)
    if there["hash"] != workspace.digest:
        raise UserError(
            f"{workspace.folder} holds records of other settings "
            f"({_differences(there, workspace)}). Keep them apart with --name or --runs, or delete "
            "that folder."
        )
    if changed := _other_content(there["data"], workspace.data):
        raise UserError(
            f"{workspace.folder} holds records of other images or masks than those that "
            f"{', '.join(changed)} name now: their files have changed. Keep them apart with "
            "--name or --runs, or delete that folder."
        )
    grid: Json = there["grid"]
    return grid


def _grid(cells: Sequence[Cell], earlier: Json | None = None) -> Json:
    """The smallest grid with all these cells, extended by an earlier grid."""
    return {
        plural: list(
            dict.fromkeys([*(vars(cell)[one] for cell in cells), *(earlier or {}).get(plural, [])])
        )
        for one, plural in (
            ("category", "categories"), ("loss", "losses"), ("fold", "folds"), ("seed", "seeds"),
        )
    }  # fmt: skip


def _settings(config: Experiment) -> Json:
    """The configuration without what depends on the machine, such as paths."""
    settings: Json = json.loads(json.dumps(asdict(config)))  # tuples become lists
    settings["runtime"] = {key: settings["runtime"][key] for key in NUMERIC}
    settings["mixtures"] = {}  # a cell's result.json says which it was trained with
    if not config.multiclass:  # as in records from before there was another task
        del settings["task"]
    del settings["runs"], settings["data"]["root"], settings["data"]["cache"]
    del settings["network"]["weights"]
    return settings


def _other_content(there: Json, here: Json) -> list[str]:
    """The lists whose images or masks have changed; older records have no hash of them."""
    lists = there.get("lists", {})
    return [
        name
        for name, entry in here["lists"].items()
        if lists.get(name, {}).get("content", entry["content"]) != entry["content"]
    ]


FREE = ("cells.", "expected", "mixtures", "optim.lr", "optim.steps", "name", "tuning.lrs",
        "tuning.extend", "tuning.steps", "tuning.categories", "tuning.seeds")  # fmt: skip
"""Keys that may change within a folder: each record holds the values that it was made with."""


def _differences(there: Json, workspace: Workspace) -> str:
    """The configuration keys in which a stored study differs from this one, with both values."""
    old, new = _flat(there["config"]), _flat(_settings(workspace.config))
    changed = [
        f"{key}: {old.get(key)} there, {new.get(key)} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(FREE)
    ]
    if there["data"] != workspace.data:
        changed.append("the data lists or the weights")
    return "; ".join(changed) or "another version of the numeric code"


def _flat(value: Json, prefix: str = "") -> Json:
    flat: Json = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat
