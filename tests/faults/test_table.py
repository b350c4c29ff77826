"""The README says of faults what the suite shows."""

from __future__ import annotations

from tests.faults.table import README, parts, table


def test_readme_has_the_table_of_the_suite() -> None:
    _, there, _ = parts(README.read_text(encoding="utf-8"))
    assert there == table(), "run `python -m tests.faults.table`"
