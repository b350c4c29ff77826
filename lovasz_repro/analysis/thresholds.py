"""Image-IoU over the decision threshold, by loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lovasz_repro.analysis.resample import Floats
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.records import Records

CELL = ["category", "loss", "fold", "seed"]
COLUMNS = ["threshold", "present", "absent"]


def threshold_curves(records: Records, scores: Scores) -> pd.DataFrame:
    """Columns loss, threshold, present, absent, all: means over categories of the mean IoU of the
    images with the category, without it, and of all.

    The mean is over the categories in which all losses with any cell have the same ones. Within a
    category, folds and seeds are weighted by their images. If the thresholds of a loss's cells
    differ, its curves are interpolated linearly, and constant beyond their ends.
    """
    common = set(scores.common(scores.present))
    found = records.images.groupby(CELL)["has_category"].agg(["sum", "size"])
    images = np.column_stack([found["sum"], found["size"] - found["sum"]])  # present, absent
    numbers = dict(zip(found.index, images, strict=True))
    curves = {name: records.thresholds[name].to_numpy(float) for name in COLUMNS}
    rows = records.thresholds.groupby(CELL).indices  # by cell
    tables = []
    for loss in scores.present:
        own = [cell for cell in rows if cell[1] == loss and cell[0] in common]
        if not own:
            continue
        grid = np.unique(np.concatenate([curves["threshold"][rows[cell]] for cell in own]))
        means = []
        for category in dict.fromkeys(cell[0] for cell in own):
            cells = [cell for cell in own if cell[0] == category]
            read = [[curves[name][rows[cell]] for name in COLUMNS] for cell in cells]
            means.append(_mean(read, [numbers[cell] for cell in cells], grid))
        table = pd.DataFrame(np.mean(means, axis=0), columns=[*COLUMNS[1:], "all"])
        tables.append(table.assign(loss=loss, threshold=grid))
    columns = ["loss", *COLUMNS, "all"]
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]


def _mean(curves: Sequence[Sequence[Floats]], images: Sequence[Floats], grid: Floats) -> Floats:
    """(T, 3) present, absent and all over the images of all cells of one category.

    Args:
        curves: threshold, present and absent of each cell.
        images: (2,) the numbers of present and absent ones, by cell.
        grid: (T,) the thresholds at which the curves are read.
    """
    sums, counts = np.zeros((len(grid), 2)), np.zeros(2)
    for (thresholds, *halves), number in zip(curves, images, strict=True):
        sums += np.stack([np.interp(grid, thresholds, half) for half in halves], axis=1) * number
        counts += number
    return np.column_stack([sums / counts, sums.sum(axis=1) / counts.sum()])


def chosen_thresholds(records: Records, scores: Scores) -> pd.Series:
    """The median over cells of the threshold chosen on held-out images, by loss."""
    rows = [(cell.loss, result["threshold"]) for cell, result in records.results.items()]
    table = pd.DataFrame(rows, columns=["loss", "threshold"])
    medians = table.groupby("loss")["threshold"].median()
    return medians.reindex([loss for loss in scores.present if loss in medians])
