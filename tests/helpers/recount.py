"""Every number of Table 1 of the committed reports, counted again from their records.

Nothing of the project is imported: an error of its code cannot hide behind itself.
"""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

CLOSE = 1e-9
KEYS = ["category", "loss", "fold", "seed"]


@functools.cache
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


def partitions(archives: Sequence[Path]) -> list[pd.DataFrame]:
    """The images' rows of each pair of folds: a partition of the images."""
    every = map(images, archives)
    return [own for rows in every for _, own in rows.groupby(rows["fold"] // 2)]


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
                "difference": (tuned[loss] - tuned["cross_entropy"]).mean(),
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
    begun = shown["cells"] > 0
    assert shown[~begun]["value"].isna().all()
    shown = shown[begun]
    expected = recount(images(folder / "records.zip"))
    assert set(expected.index) == set(shown.index)
    for column in expected.columns:
        for row in expected.index:
            value, other = expected.loc[row, column], shown.loc[row, column]
            assert pd.isna(value) == pd.isna(other), (row, column)
            assert pd.isna(value) or abs(value - other) <= CLOSE, (row, column)
