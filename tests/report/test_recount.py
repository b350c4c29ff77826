"""Table 1 of every committed report against its records."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.places import ROOT
from tests.helpers.recount import CLOSE, check, images

EVERY = sorted((ROOT / "reports").glob("*/records.zip"))
MULTICLASS = [path for path in EVERY if path.parent.name.startswith("multiclass")]
REPORTS = [path for path in EVERY if path not in MULTICLASS]


@pytest.mark.parametrize("archive", REPORTS, ids=lambda path: path.parent.name)
def test_table_1_of_the_committed_reports(archive: Path) -> None:
    check(archive.parent)


@pytest.mark.parametrize("archive", MULTICLASS, ids=lambda path: path.parent.name)
def test_losses_of_the_committed_multiclass_reports(archive: Path) -> None:
    rows = images(archive, "classes.csv")
    counts = ["tp", "fp", "fn"]
    # Counts averaged over seeds and summed over folds have the ratios of their plain sums.
    sums = rows.groupby(["loss", "label"])[counts].sum()
    miou = (sums["tp"] / sums.sum(axis=1)).groupby("loss").mean()
    there = rows[rows["tp"] + rows["fn"] > 0]
    iou = there.assign(iou=there["tp"] / there[counts].sum(axis=1))
    per_image = iou.groupby(["loss", "seed", "id"])["iou"].mean().groupby("loss").mean()
    shown = pd.read_csv(archive.parent / "tables/losses.csv").set_index("loss")
    assert set(shown.index) == set(miou.index)
    for row in shown.itertuples():
        assert abs(row.value - miou[row.Index]) <= CLOSE
        assert abs(row.value_image - per_image[row.Index]) <= CLOSE
        if not pd.isna(row.difference):
            assert abs(row.difference - (miou[row.Index] - miou[row.reference])) <= CLOSE
