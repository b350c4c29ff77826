"""The table of faults in the README beside this, from what the suite's tests declare.

`PYTHONPATH=tests python -m faults.table` writes it.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from faults.harness import FAULTS, Fault

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- faults:begin -->\n", "<!-- faults:end -->\n"
MODULES = (
    "test_stopped", "test_damaged", "test_state", "test_strangers", "test_fuzz", "test_compiled",
)  # fmt: skip


def table() -> str:
    """A row per fault, in the order of the tests."""
    faults: list[Fault] = []
    for module in MODULES:
        importlib.import_module(f"faults.{module}")
        faults += FAULTS[f"faults.{module}"]
    rows = [("what happens", "what you see", "what is lost", "how to go on")]
    rows += [(":--",) * 4]
    rows += [(fault.name, fault.seen, fault.lost, fault.resume) for fault in faults]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def parts(readme: str) -> tuple[str, str, str]:
    """What stands before the table, the table, and what follows."""
    before, rest = readme.split(BEGIN)
    there, after = rest.split(END)
    return before, there, after


if __name__ == "__main__":
    before, _, after = parts(README.read_text(encoding="utf-8"))
    README.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
