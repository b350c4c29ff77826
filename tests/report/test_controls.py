"""The table of other runs, against counts of its own from the committed records."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import Records, load
from lovasz_repro.report.controls import change, controls_table, counterpart, differences
from tests.helpers import recount
from tests.helpers.places import ROOT

REPORTS = ROOT / "reports"
NAMES = (
    "finetune", "finetune_180", "finetune_32", "finetune_all", "finetune_repeat", "head",
    "head_900", "head_voc",
)  # fmt: skip


@pytest.fixture(scope="module")
def studies() -> dict[str, Records]:
    return {name: load(REPORTS / name / "records.zip", gallery=False) for name in NAMES}


def gain(rows: pd.DataFrame) -> pd.Series:
    """Of the Lovász hinge over cross-entropy, by category."""
    levels = recount.by_category(rows, "iou")
    return levels[LOVASZ] - levels[REFERENCE]


def counted(name: str) -> pd.DataFrame:
    return recount.images(REPORTS / name / "records.zip")


def test_what_differs_is_named(studies: dict[str, Records]) -> None:
    main = studies["finetune"]
    assert differences(main, studies["finetune_180"]) == "180 steps, precision 32-true"
    assert differences(studies["finetune_32"], studies["finetune_180"]) == "180 steps"
    assert differences(main, main) == "nothing"
    rates = [load(REPORTS / f"finetune_{x}/records.zip", gallery=False) for x in ("wide", "rates")]
    assert differences(*rates) == (
        "cross-entropy at 0.00033 and 1e-05 (folds 4 and 5) instead of 0.00033"
    )
    assert differences(studies["finetune_32"], studies["finetune_all"]) == (
        "trained: all, 0 fixed views"
    )
    assert differences(main, studies["finetune_repeat"]) == (
        "lists repeat{fold}_val, precision 32-true, first rates from 1e-05 to 0.0001, "
        "cross-entropy at 3e-05 and 0.00033 instead of 0.0001, Lovász hinge at 1e-05 and 3e-05 "
        "instead of 3e-05"
    )


def test_another_split_is_named_by_its_folds_and_stands_beside_the_main_study(
    studies: dict[str, Records],
) -> None:
    own = studies["finetune_repeat"]
    third = replace(own, study=own.study | {"grid": own.study["grid"] | {"folds": [4, 5]}})
    assert "folds 4 and 5" in differences(own, third)
    wider = replace(own, study=own.study | {"grid": own.study["grid"] | {"folds": [2, 3, 4]}})
    assert differences(own, wider) == "fold 4"
    assert "instead of ," not in differences(own, third)
    for name in ("finetune_repeat", "third"):
        assert counterpart({**studies, "third": third}, name, "finetune") == "finetune"


def test_a_run_stands_beside_the_study_that_it_differs_least_from(
    studies: dict[str, Records],
) -> None:
    found = {name: counterpart(studies, name, "finetune") for name in NAMES[1:]}
    assert found.pop("head_900") == found.pop("head_voc") == "head"
    assert found.pop("finetune_180") == found.pop("finetune_all") == "finetune_32"
    assert set(found.values()) == {"finetune"}


def test_the_same_cells_are_compared(studies: dict[str, Records]) -> None:
    own, main = counted("finetune_180"), counted("finetune")
    assert set(main["seed"]) == {0, 1}
    shared = (main["fold"] == 0) & (main["seed"] == 0)
    main = main[main["category"].isin(own["category"]) & shared]
    pair = gain(own), gain(main)
    found = change(studies["finetune_180"], studies["finetune"])["all"]
    assert found["gain"] == pytest.approx(pair[0].mean(), abs=1e-9)
    assert found["gain_beside"] == pytest.approx(pair[1].mean(), abs=1e-9)
    assert found["difference"] == pytest.approx((pair[0] - pair[1]).mean(), abs=1e-9)
    assert found["low"] < found["difference"] < found["high"]


def test_with_the_category_the_same_images_are_compared(studies: dict[str, Records]) -> None:
    """One fold of another split holds half of the main study's images."""
    half = studies["finetune_repeat"]
    half = replace(half, images=half.images[half.images["fold"] == 2])
    own, main = (
        rows[rows["has_category"] == 1] for rows in map(counted, ("finetune_repeat", "finetune"))
    )
    own = own[own["fold"] == 2]
    keys = [pd.MultiIndex.from_frame(rows[["category", "id"]]) for rows in (main, own)]
    both = keys[0].isin(keys[1])
    assert 0 < both.sum() < len(both)
    found = change(half, studies["finetune"])["present"]
    assert found["gain"] == pytest.approx(gain(own).mean(), abs=1e-9)
    assert found["gain_beside"] == pytest.approx(gain(main[both]).mean(), abs=1e-9)


def test_the_row_of_a_run(studies: dict[str, Records]) -> None:
    rows = [counted("finetune_180")]
    rows.append(rows[0][rows[0]["has_category"] == 1])
    pair = {name: studies[name] for name in ("finetune", "finetune_180")}
    line = controls_table(pair, "finetune").splitlines()[2]
    fields = [field.strip() for field in line.strip("|").split(" | ")]
    assert fields[:4] == [
        "[finetune_180](finetune_180/report.md)", "180 steps, precision 32-true",
        "4 categories, 1 fold", "[finetune](finetune/report.md)",
    ]  # fmt: skip
    for place, images in zip((4, 7), rows, strict=True):
        assert float(fields[place].replace("−", "-")) == pytest.approx(
            100 * gain(images).mean(), abs=0.05
        )
    assert "<sub>[" in fields[6]
