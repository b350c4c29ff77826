"""Image-IoU over the decision threshold, by loss."""

from __future__ import annotations

import pandas as pd

from lovasz_repro.analysis.scores import Scores
from lovasz_repro.records import Records

CELL = ["category", "loss", "fold", "seed"]
HALVES = ["present", "absent"]


def threshold_curves(records: Records, scores: Scores) -> pd.DataFrame:
    """Columns loss, threshold, present, absent, all: means over categories of the mean IoU of the
    images with the category, without it, and of all.

    The mean is over the categories in which all losses with any cell have the same ones. Within a
    category, folds and seeds are weighted by their images.
    """
    holds = records.images.groupby(CELL)["has_category"].agg(["sum", "size"])
    images = pd.DataFrame({"n_present": holds["sum"], "n_absent": holds["size"] - holds["sum"]})
    table = records.thresholds.join(images, on=CELL)
    table = table[table["category"].isin(scores.common(scores.present))]
    table = table.assign(**{half: table[half] * table[f"n_{half}"] for half in HALVES})
    sums = table.groupby(["loss", "category", "threshold"])[[*HALVES, *images]].sum()
    counts = sums[[*images]].to_numpy()
    means = sums[HALVES] / counts
    means["all"] = sums[HALVES].sum(axis=1) / counts.sum(axis=1)
    found = means.groupby(["loss", "threshold"]).mean().reset_index()
    place = {loss: place for place, loss in enumerate(scores.present)}
    return found.sort_values("loss", key=lambda x: x.map(place), kind="stable", ignore_index=True)


def chosen_thresholds(records: Records, scores: Scores) -> pd.Series:
    """The median over cells of the threshold chosen on held-out images, by loss."""
    rows = [(cell.loss, result["threshold"]) for cell, result in records.results.items()]
    table = pd.DataFrame(rows, columns=["loss", "threshold"])
    medians = table.groupby("loss")["threshold"].median()
    return medians.reindex([loss for loss in scores.present if loss in medians])
