"""Every number of Table 1 of the committed reports, counted again from their records.

Nothing of the project is imported: an error of its code cannot hide behind itself.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

MULTICLASS = Path(__file__).parents[1] / "reports/multiclass/records.zip"
REPORTS = sorted((Path(__file__).parents[1] / "reports").glob("*/records.zip"))
REPORTS = [path for path in REPORTS if path != MULTICLASS]
CLOSE = 1e-9
KEYS = ["category", "loss", "fold", "seed"]


def images(archive: Path, file: str = "images.csv") -> pd.DataFrame:
    """The rows of every such table whose cell is finished under the study's configuration."""
    tables = []
    with zipfile.ZipFile(archive) as content:
        study = json.loads(content.read("study.json"))
        for name in content.namelist():
            if not name.endswith("/result.json") or not name.startswith("cells/"):
                continue
            if json.loads(content.read(name))["hash"] != study["hash"]:
                continue
            _, category, loss, run, _ = name.split("/")
            fold, seed = (int(part.lstrip("foldse")) for part in run.split("-"))
            table = pd.read_csv(io.BytesIO(content.read(name.replace("result.json", file))))
            tables.append(table.assign(category=category, loss=loss, fold=fold, seed=seed))
    return pd.concat(tables, ignore_index=True)


def by_category(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """(categories, losses): mean over seeds of each image, then over the images of all folds."""
    per_image = rows.groupby(["category", "loss", "fold", "id"])[column].mean()
    return per_image.groupby(["category", "loss"]).mean().unstack("loss")


def dataset_iou(rows: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """(categories, losses): Σ tp / Σ union; seeds averaged before the sums."""
    columns = [prefix + name for name in ("tp", "fp", "fn")]
    sums = rows.groupby(["category", "loss", "fold", "id"])[columns].mean()
    sums = sums.groupby(["category", "loss"]).sum()
    return (sums[columns[0]] / sums.sum(axis=1)).unstack("loss")


def whole(rows: pd.DataFrame, losses: list[str]) -> list[str]:
    """The categories in which all of `losses` have the same (fold, seed)."""
    runs = rows.drop_duplicates(KEYS).groupby(["category", "loss"])[["fold", "seed"]]
    found = {key: frozenset(map(tuple, table.to_numpy())) for key, table in runs}
    names = sorted(rows["category"].unique())
    return [n for n in names if len({found.get((n, loss)) for loss in losses}) == 1]


def recount(rows: pd.DataFrame) -> pd.DataFrame:
    """By row of Table 1: levels, gains over cross-entropy, both at the chosen thresholds too."""
    losses = sorted(rows["loss"].unique())
    common = rows[rows["category"].isin(whole(rows, losses))]
    present, absent = (common[common["has_category"] == k] for k in (1, 0))
    table = pd.DataFrame(
        {
            "value": by_category(common, "iou").mean(),
            "present": by_category(present, "iou").mean(),
            "absent": by_category(absent, "iou").mean(),
            "dataset_iou": dataset_iou(common).mean(),
            "tuned": by_category(common, "tuned_iou").mean(),
        }
    )
    for loss in losses:
        pair = rows[rows["category"].isin(whole(rows, [loss, "cross_entropy"]))]
        iou, tuned = by_category(pair, "iou"), by_category(pair, "tuned_iou")
        if loss != "cross_entropy":
            table.loc[loss, "difference"] = (iou[loss] - iou["cross_entropy"]).mean()
            table.loc[loss, "tuned_difference"] = (tuned[loss] - tuned["cross_entropy"]).mean()
        if loss == "untrained":
            table.loc["untrained_tuned"] = {
                "value": table.loc[loss, "tuned"],
                "present": by_category(present, "tuned_iou").mean()[loss],
                "absent": by_category(absent, "tuned_iou").mean()[loss],
                "dataset_iou": dataset_iou(common, "tuned_").mean()[loss],
                "difference": (tuned[loss] - iou["cross_entropy"]).mean(),
            }
    empty = common.assign(iou=(common["has_category"] == 0).astype(float))
    nothing = by_category(empty, "iou")["cross_entropy"]
    table.loc["all_background"] = {
        "value": nothing.mean(),
        "present": 0.0,
        "absent": 1.0,
        "dataset_iou": 0.0,
        "difference": (nothing - by_category(common, "iou")["cross_entropy"]).mean(),
    }
    return table


def check(folder: Path) -> None:
    """Compare a report's table with its records."""
    shown = pd.read_csv(folder / "tables/image-iou.csv").set_index("row")
    expected = recount(images(folder / "records.zip"))
    assert set(expected.index) == set(shown.index)
    for column in expected.columns:
        for row in expected.index:
            value, other = expected.loc[row, column], shown.loc[row, column]
            assert pd.isna(value) == pd.isna(other), (row, column)
            assert pd.isna(value) or abs(value - other) <= CLOSE, (row, column)


@pytest.mark.parametrize("archive", REPORTS, ids=lambda path: path.parent.name)
def test_table_1_of_the_committed_reports(archive: Path) -> None:
    folder = archive.parent
    if "row" not in pd.read_csv(folder / "tables/image-iou.csv"):
        pytest.skip(f"reports/{folder.name} is of an earlier form: its Table 1 has other columns")
    check(folder)


def test_losses_of_the_committed_multiclass_report() -> None:
    if not MULTICLASS.is_file():
        pytest.skip("reports/multiclass is not there: the study has not been run")
    rows = images(MULTICLASS, "classes.csv")
    counts = ["tp", "fp", "fn"]
    # Counts averaged over seeds and summed over folds have the ratios of their plain sums.
    sums = rows.groupby(["loss", "label"])[counts].sum()
    miou = (sums["tp"] / sums.sum(axis=1)).groupby("loss").mean()
    there = rows[rows["tp"] + rows["fn"] > 0]
    iou = there.assign(iou=there["tp"] / there[counts].sum(axis=1))
    per_image = iou.groupby(["loss", "seed", "id"])["iou"].mean().groupby("loss").mean()
    shown = pd.read_csv(MULTICLASS.parent / "tables/losses.csv").set_index("loss")
    assert set(shown.index) == set(miou.index)
    for row in shown.itertuples():
        assert abs(row.value - miou[row.Index]) <= CLOSE
        assert abs(row.value_image - per_image[row.Index]) <= CLOSE
        if not pd.isna(row.difference):
            assert abs(row.difference - (miou[row.Index] - miou[row.reference])) <= CLOSE
