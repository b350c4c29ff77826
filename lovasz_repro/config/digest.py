"""The hash of a configuration: which records may stand in one folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lovasz_repro.config.sections import NUMERIC
from lovasz_repro.data.voc import CATEGORIES
from lovasz_repro.errors import UserError

NUMERICS_VERSION = 2
"""Raised by hand when a change of the code changes a number in the records, beyond rounding."""


def settings_digest(
    config: dict[str, Any], data: dict[str, Any], version: int = NUMERICS_VERSION
) -> str:
    """`Experiment.digest` of a configuration's values, all or those that `study.json` has."""

    def group(name: str, *left_out: str) -> dict[str, Any]:
        return {key: item for key, item in config.get(name, {}).items() if key not in left_out}

    classes = config.get("data", {}).get("classes")
    default = ["classes"] if classes == list(CATEGORIES) else []  # older records have none
    tuning, runtime = config.get("tuning", {}), config.get("runtime", {})
    used: dict[str, Any] = {
        "data": group("data", "root", "cache", *default),
        "network": group("network", "weights"),  # its content is in `data`
        "base": group("base"),
        "optim": group("optim", "lr", "steps"),
        "holdout": [tuning.get("holdout"), tuning.get("holdout_list")],
        "runtime": {key: runtime.get(key) for key in NUMERIC},
    }
    if (task := config.get("task", "binary")) != "binary":  # which was first, without a name
        used["task"] = task
    # The images' content is compared apart: records of a report can be gone on with where the same
    # images are.
    lists = {
        name: {key: value for key, value in entry.items() if key != "content"}
        for name, entry in data.get("lists", {}).items()
    }
    text = json.dumps([version, used, {**data, "lists": lists}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_settings(study: dict[str, Any], path: Path) -> None:
    """Raise UserError where the configuration or data in a study.json, at `path`, were edited."""
    versions = range(1, NUMERICS_VERSION + 1)
    if study["hash"] not in [settings_digest(study["config"], study["data"], v) for v in versions]:
        raise UserError(f"{path}: hash: not that of its config and data, which were edited")
