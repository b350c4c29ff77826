"""Image-IoU over the decision threshold, by loss."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lovasz_repro.analysis.resample import Floats
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.records import Records

CELL = ["category", "loss", "fold", "seed"]


def threshold_curves(records: Records, scores: Scores) -> pd.DataFrame:
    """Columns loss, threshold, present, absent, all: means over categories of the mean IoU of the
    images with the category, without it, and of all.

    The mean is over the categories in which all losses with any cell have the same ones. Within a
    category, folds and seeds are weighted by their images. If the thresholds of a loss's cells
    differ, its curves are interpolated linearly, and constant beyond their ends.
    """
    common = set(scores.common(scores.present))
    rows = records.thresholds
    found = records.images.groupby(CELL)["has_category"].agg(["sum", "size"])
    images = pd.DataFrame({"present": found["sum"], "absent": found["size"] - found["sum"]})
    tables = []
    for loss in scores.present:
        own = rows[(rows["loss"] == loss) & rows["category"].isin(common)]
        if own.empty:
            continue
        grid = np.unique(own["threshold"].to_numpy(float))
        means = [_mean(curves, images, grid) for _, curves in own.groupby("category")]
        table = sum(means[1:], start=means[0]) / len(means)
        tables.append(table.assign(loss=loss, threshold=grid))
    columns = ["loss", "threshold", "present", "absent", "all"]
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]


def _mean(curves: pd.DataFrame, images: pd.DataFrame, grid: Floats) -> pd.DataFrame:
    """present, absent and all over the images of all cells of one category.

    Args:
        images: the numbers of present and absent ones, by cell.
        grid: the thresholds at which the curves are read.
    """
    halves = ["present", "absent"]
    sums, counts = np.zeros((len(grid), 2)), np.zeros(2)
    for cell, curve in curves.groupby(CELL):
        number = images.loc[cell, halves].to_numpy(float)
        columns = [np.interp(grid, curve["threshold"], curve[half]) for half in halves]
        sums += np.stack(columns, axis=1) * number
        counts += number
    everything = sums.sum(axis=1) / counts.sum()
    return pd.DataFrame(sums / counts, columns=halves).assign(all=everything)


def chosen_thresholds(records: Records, scores: Scores) -> pd.Series:
    """The median over cells of the threshold chosen on held-out images, by loss."""
    rows = [(cell.loss, result["threshold"]) for cell, result in records.results.items()]
    table = pd.DataFrame(rows, columns=["loss", "threshold"])
    medians = table.groupby("loss")["threshold"].median()
    return medians.reindex([loss for loss in scores.present if loss in medians])
