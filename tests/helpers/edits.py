"""Edits of a JSON record whose sum is made right again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lovasz_repro.files import read_json, write_json

Edit = Callable[[Any], None]


def rewrite(path: Path, edit: Edit) -> None:
    """Edit a JSON file, and make its sum right again."""
    value = read_json(path)
    edit(value)
    write_json(path, value)


def put(*keys: str | int, value: Any) -> Edit:
    """An edit that sets what lies under some keys."""

    def edit(there: Any) -> None:
        _owner(there, keys)[keys[-1]] = value

    return edit


def drop(*keys: str | int) -> Edit:
    """An edit that deletes what lies under some keys."""

    def edit(there: Any) -> None:
        del _owner(there, keys)[keys[-1]]

    return edit


def _owner(there: Any, keys: tuple[str | int, ...]) -> Any:
    """What holds the last of the keys."""
    for key in keys[:-1]:
        there = there[key]
    return there
