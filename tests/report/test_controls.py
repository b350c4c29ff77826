"""The README's table of other runs, against a count of its own from the committed records."""

from __future__ import annotations

import pytest

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, compare
from lovasz_repro.records import Records, load
from lovasz_repro.report.controls import alike, controls_table, differences
from tests.helpers import recount
from tests.helpers.places import ROOT

REPORTS = ROOT / "reports"


@pytest.fixture(scope="module")
def main() -> Records:
    return load(REPORTS / "finetune/records.zip", gallery=False)


@pytest.fixture(scope="module")
def longer() -> Records:
    return load(REPORTS / "finetune_180/records.zip", gallery=False)


def test_what_differs_is_named(main: Records, longer: Records) -> None:
    assert differences(main, longer) == "180 steps"
    assert differences(main, main) == "nothing"
    whole = load(REPORTS / "finetune_all/records.zip", gallery=False)
    assert differences(main, whole) == "trained: all"


def test_the_main_study_is_taken_on_the_same_cells(main: Records, longer: Records) -> None:
    rows = recount.images(REPORTS / "finetune/records.zip")
    assert set(rows["seed"]) == {0, 1}
    shared = (rows["fold"] == 0) & (rows["seed"] == 0)
    rows = rows[rows["category"].isin(longer.grid.categories) & shared]
    levels = recount.by_category(rows, "iou")
    expected = (levels[LOVASZ] - levels[REFERENCE]).mean()
    row = compare(Scores(alike(main, longer)), Arm(LOVASZ), Arm(REFERENCE))
    assert row["categories"] == 4
    assert row["difference"] == pytest.approx(expected, abs=1e-9)


def test_a_row_holds_the_run_s_own_gains(main: Records, longer: Records) -> None:
    rows = recount.images(REPORTS / "finetune_180/records.zip")
    gains = []
    for images in (rows, rows[rows["has_category"].astype(bool)]):
        levels = recount.by_category(images, "iou")
        gains.append(100 * (levels[LOVASZ] - levels[REFERENCE]).mean())
    row = controls_table(main, {"one": longer}, {"one": "place"}).splitlines()[-1]
    fields = [field.strip() for field in row.split(" | ")]
    assert fields[:3] == ["| [one](place)", "180 steps", "4 categories, 1 fold"]
    for place, gain in zip((3, 5), gains, strict=True):
        assert fields[place].startswith(f"{gain:+.1f}".replace("-", "−") + " <sub>[")
