"""The choice of rate and steps where trials are there already: nothing is trained here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lovasz_repro.config import Cells, Experiment, Tuning
from lovasz_repro.files import read_json, write_json
from lovasz_repro.records.agreement import tuning_problem
from lovasz_repro.study.launch import Workers
from lovasz_repro.study.tuning import missing_trials, tune
from lovasz_repro.study.workspace import Workspace
from tests.helpers.studies import tiny

WIDE = Tuning([0.001, 0.01, 0.1], 1, [6, 4], ["bird", "cat"], [0, 1])
SCORES = {
    # What is best in all is not asked for any more: the rate 1, at 6 steps and at 4.
    (0.001, 6): 0.2, (0.01, 6): 0.4, (0.1, 6): 0.6, (1.0, 6): 0.8,
    (0.01, 4): 0.45, (0.1, 4): 0.5, (1.0, 4): 0.9,
}  # fmt: skip


def tried(config: Experiment) -> Path:
    """tuning.json with every trial of `SCORES`; the cat trained with either seed, the bird with
    one."""
    trials = [
        {"lr": lr, "steps": steps, "category": category, "seed": seed, "image_iou": score + shift}
        for (lr, steps), score in SCORES.items()
        for category, seed, shift in (("bird", 0, 0.0), ("cat", 0, -0.1), ("cat", 1, 0.1))
    ]
    trials.sort(key=lambda t: (t["steps"], t["lr"], t["category"]))
    path = config.folder / "tuning.json"
    write_json(path, {"fold0": {"hinge": {"lr": None, "trials": trials}}})
    return path


def nothing() -> None:
    pass


class StoppedError(Exception):
    pass


class StoppedSoon(Workers):
    """Ends after the first trial, which is the best so far."""

    def run(self, function: Any, jobs: Sequence[Any]) -> Iterator[Any]:
        yield jobs[0], 0.9
        raise StoppedError


def test_a_tuning_that_is_stopped_has_no_choice_yet(tmp_path: Path) -> None:
    """One that was made before the last trials does not follow from them."""
    cells = Cells(["bird"], ["hinge"], [0], [0])
    one = replace(WIDE, extend=0, steps=[6], categories=["bird"])
    config = replace(tiny(tmp_path, tmp_path), tuning=one, cells=cells)
    path = tried(config)
    tune(Workspace(config), Workers(Workspace(config)), nothing)
    assert read_json(path)["fold0"]["hinge"]["lr"] == 0.1
    more = replace(config, tuning=replace(one, lrs=[*one.lrs, 0.2]))
    with pytest.raises(StoppedError):
        tune(Workspace(more), StoppedSoon(Workspace(more)), nothing)
    entry = read_json(path)["fold0"]["hinge"]
    assert len(entry["trials"]) == 4
    assert tuning_problem(entry, ["bird"]) is None
    assert entry["lr"] is None
    tune(Workspace(more), Workers(Workspace(more)), nothing)
    assert read_json(path)["fold0"]["hinge"]["lr"] == 0.2


@pytest.mark.parametrize(
    ("plan", "chosen", "stored"),
    [
        ({}, (1.0, 4), 2 * 7),
        ({"extend": 0}, (0.1, 6), 2 * 5),
        ({"steps": [6]}, (1.0, 6), 2 * 4),
        ({"steps": [6], "extend": 0}, (0.1, 6), 2 * 3),
        ({"lrs": [0.001, 0.01], "steps": [6], "extend": 0}, (0.01, 6), 2 * 2),
        ({"lrs": [0.001, 0.01], "extend": 0}, (0.01, 4), 2 * 2 + 2),
        # From these two the extension is 0.1 again.
        ({"lrs": [0.001, 0.01], "steps": [6], "extend": 1}, (0.1, 6), 2 * 3),
        ({"categories": ["bird"], "steps": [6]}, (1.0, 6), 4),
        ({"seeds": [0], "steps": [6]}, (1.0, 6), 2 * 4),
    ],
)
def test_a_choice_follows_from_the_trials_that_stay(
    tmp_path: Path, plan: dict[str, Any], chosen: tuple[float, int], stored: int
) -> None:
    """Rates, steps, categories or seeds that are not asked for any more are not chosen from, and
    do not stay beside the choice."""
    config = tiny(tmp_path, tmp_path)
    tuning = replace(WIDE, **plan)
    config = replace(config, tuning=tuning, cells=Cells(["bird", "cat"], ["hinge"], [0], [0]))
    path = tried(config)
    workspace = Workspace(config)
    assert missing_trials(workspace) == []
    tune(workspace, Workers(workspace), nothing)
    entry = read_json(path)["fold0"]["hinge"]
    assert (entry["lr"], entry["steps"]) == chosen
    assert len(entry["trials"]) == stored
    assert tuning_problem(entry, tuning.categories) is None
    before = path.read_bytes()
    tune(workspace, Workers(workspace), nothing)
    assert path.read_bytes() == before
