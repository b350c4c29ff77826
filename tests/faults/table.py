"""The table of faults in the README beside this, from what the suite's tests declare.

`python -m tests.faults.table` writes it.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from lovasz_repro.report.markdown import pipes
from tests.faults.harness import FAULTS, Fault

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- faults:begin -->\n", "<!-- faults:end -->\n"
MODULES = (
    "test_stopped", "test_damaged", "test_state", "test_strangers", "test_kept", "test_fuzz",
    "test_compiled",
)  # fmt: skip


def table() -> str:
    """A row per fault, in the order of the tests."""
    faults: list[Fault] = []
    for module in MODULES:
        importlib.import_module(f"tests.faults.{module}")
        faults += FAULTS[f"tests.faults.{module}"]
    columns = ["what happens", "what you see", "what is lost", "how to go on"]
    rows = [(fault.name, fault.seen, fault.lost, fault.resume) for fault in faults]
    return pipes(columns, rows, ()) + "\n"


def parts(readme: str) -> tuple[str, str, str]:
    """What stands before the table, the table, and what follows."""
    before, rest = readme.split(BEGIN)
    there, after = rest.split(END)
    return before, there, after


if __name__ == "__main__":
    before, _, after = parts(README.read_text(encoding="utf-8"))
    README.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
