"""The commands of experiments/FIRST_STEPS.md and of the READMEs exist, with their options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from lovasz_repro.__main__ import _experiment
from lovasz_repro.options import parser
from lovasz_repro.records import Cell
from tests.helpers.places import ROOT
from tests.test_run_all import Machine

STEPS = "experiments/FIRST_STEPS.md"


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(document: str, program: str) -> list[list[str]]:
    """The arguments of each call of a program."""
    lines = "\n".join(blocks(document, "sh")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("exec "), comments=True) for line in lines]
    return [own[1:] for own in words if own[:1] == [program]]


@pytest.mark.parametrize(
    "document", [STEPS, "README.md", "experiments/README.md", "reports/README.md"]
)
def test_every_command_is_one_that_there_is(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = commands(document, "lovasz-repro")
    assert len(found) >= 2
    for arguments in found:
        # On SLURM the shell fills in a number.
        given = [word.replace("$SLURM_ARRAY_TASK_ID", "0") for word in arguments]
        options = parser().parse_args(given)
        if given[0] in ("fit", "study"):  # which checks the values, too
            experiment = _experiment(parser().instantiate(options)[given[0]])
            if given[0] == "fit":
                experiment.known_category(options.fit.category)
                experiment.known_loss(options.fit.loss)


def test_the_first_steps_lead_from_one_to_the_next(tmp_path: Path) -> None:
    """The data are made where the experiment reads them, and the cell predicts that was fitted."""
    shapes, fit, predict = (
        parser().parse_args(arguments) for arguments in commands(STEPS, "lovasz-repro")
    )
    assert str(shapes.data.shapes.root) == fit.fit.data.root
    cell = Cell(fit.fit.category, fit.fit.loss, fit.fit.fold, fit.fit.seed)
    assert predict.predict.cell == Path(fit.fit.runs, fit.fit.name, cell.path)
    assert predict.predict.images.is_relative_to(fit.fit.data.root)
    ((*dry,),) = commands(STEPS, "./run_all.sh")
    done = Machine(tmp_path).run(*dry)
    assert done.returncode == 0
    assert "Experiment: demo" in done.stdout


def test_the_script_of_the_first_steps_prints_what_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (script,) = blocks(STEPS, "python")
    assert len(script.splitlines()) <= 16
    namespace: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(script, namespace)
    said = capsys.readouterr().out.splitlines()
    shown = (ROOT / STEPS).read_text("utf-8")
    assert len(said) == 3
    assert all(line[:-1] in shown for line in said)  # but for the last digit


def test_the_first_steps_name_no_place_of_ours() -> None:
    text = (ROOT / STEPS).read_text("utf-8")
    assert not re.search(r"/(?:home|work|root|tmp|opt)\b|https?://", text)
