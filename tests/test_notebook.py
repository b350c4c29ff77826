"""The recipes of experiments/lovasz_in_your_loop.ipynb run, and print what the notebook shows."""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from typing import Any

import torch

from lovasz_repro import losses
from tests.helpers.places import ROOT

PATH = ROOT / "experiments" / "lovasz_in_your_loop.ipynb"
CELLS: list[Any] = [
    cell for cell in json.loads(PATH.read_text())["cells"] if cell["cell_type"] == "code"
]


def masked(text: str) -> str:
    return re.sub(r"\d+\.\d+", "#", text)


def test_the_recipes_run_and_print_what_is_shown() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")  # those of Lightning and smp
        state = torch.get_rng_state()
        for cell in CELLS:
            exec("".join(cell["source"]), namespace)
        torch.set_rng_state(state)
    shown = "".join("".join(out["text"]) for cell in CELLS for out in cell["outputs"])
    assert masked(said.getvalue()) == masked(shown)
    before, _, same, lovasz = map(float, re.findall(r"(0\.\d+)", said.getvalue())[:4])
    assert before == same
    assert lovasz > before
    # Another machine's last digits differ, and 120 steps amplify them.
    stored = float(re.findall(r"(0\.\d+)", shown)[3])
    assert abs(lovasz - stored) < 0.05


def test_the_notebook_is_executed_in_order_and_holds_no_path() -> None:
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    text = PATH.read_text()
    assert not re.search(r"/(home|work|root|Users)/|stderr", text)


def test_only_public_names_of_the_losses_are_used() -> None:
    source = "\n".join("".join(cell["source"]) for cell in CELLS)
    lines = re.findall(
        r"^(?:from|import) (lovasz_repro\S*)(?: import (.*))?$", source, re.MULTILINE
    )
    assert [module for module, _ in lines] == ["lovasz_repro.losses"]
    for name in lines[0][1].split(", "):
        assert not name.startswith("_")
        assert callable(getattr(losses, name))
