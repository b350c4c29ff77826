"""Image-IoU over the decision threshold, by loss."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lovasz_repro.analysis.scores import Scores
from lovasz_repro.records import Records


def threshold_curves(records: Records, scores: Scores) -> pd.DataFrame:
    """Columns loss, threshold, present, absent, all: means over categories of the mean IoU of the
    images with the category, without it, and of all.

    The mean is over the categories in which all losses with any cell have the same ones. Within a
    category, folds and seeds are weighted by their images. Cells of a loss whose thresholds differ
    are read at all of them, between two by a straight line, beyond the ends at the end.
    """
    columns = ["loss", "threshold", "present", "absent", "all"]
    common = set(scores.common(scores.present))
    rows = records.thresholds
    keys = ["category", "loss", "fold", "seed"]
    images = records.images.groupby(keys)["has_category"].agg(["sum", "size"])
    found = []
    for loss in scores.present:
        own = rows[(rows["loss"] == loss) & rows["category"].isin(common)]
        if own.empty:
            continue
        grid = np.unique(own["threshold"].to_numpy(float))
        by_category: dict[str, list[tuple[float, float, pd.DataFrame]]] = {}
        for key, curve in own.groupby(keys, sort=True):
            present, count = images.loc[key]
            read = {x: np.interp(grid, curve["threshold"], curve[x]) for x in ("present", "absent")}
            cells = by_category.setdefault(key[0], [])
            cells.append((present, count - present, pd.DataFrame(read)))
        means = [_mean(cells) for cells in by_category.values()]
        table = sum(means[1:], start=means[0]) / len(means)
        found.append(table.assign(loss=loss, threshold=grid)[columns])
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def _mean(cells: list[tuple[float, float, pd.DataFrame]]) -> pd.DataFrame:
    """Of one category: present, absent and all. cells: how many images with and without the
    category, and their curves."""
    present = sum(count for count, _, _ in cells)
    absent = sum(count for _, count, _ in cells)
    sums = {
        "present": sum(n * curve["present"] for n, _, curve in cells),
        "absent": sum(n * curve["absent"] for _, n, curve in cells),
    }
    halves = {"present": sums["present"] / present, "absent": sums["absent"] / absent}
    return pd.DataFrame({**halves, "all": (sums["present"] + sums["absent"]) / (present + absent)})


def chosen_thresholds(records: Records, scores: Scores) -> pd.Series:
    """By loss the median over cells of the threshold chosen on held-out images."""
    rows = [
        {"loss": cell.loss, "threshold": float(result["threshold"])}
        for cell, result in records.results.items()
        if result.get("threshold") is not None
    ]
    medians = (
        pd.DataFrame(rows, columns=["loss", "threshold"]).groupby("loss")["threshold"].median()
    )
    return medians.reindex([loss for loss in scores.present if loss in medians.index])
