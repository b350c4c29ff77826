"""Table 1 of every committed report against its records."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.places import ROOT
from tests.helpers.recount import check

REPORTS = sorted((ROOT / "reports").glob("*/records.zip"))


@pytest.mark.parametrize("archive", REPORTS, ids=lambda path: path.parent.name)
def test_table_1_of_the_committed_reports(archive: Path) -> None:
    folder = archive.parent
    if "row" not in pd.read_csv(folder / "tables/image-iou.csv"):
        pytest.skip(f"reports/{folder.name} is of an earlier form: its Table 1 has other columns")
    check(folder)
