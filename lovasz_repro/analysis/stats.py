"""The report's tables from the rows of all cells: levels, paired differences, splits.

What is random, and what is fixed:

* For one **category** images and training runs are random: there could be other val images and
  other seeds. Images are resampled whole (under both losses and all seeds), within their fold and
  separately with and without the category; the variance between seeds is added. Folds are fixed.
* If the images were divided into folds several times, a **partition** replaces the seed: an image
  counts once in each partition that scores it. **Folds** are then random, too: they differ in base
  network, chosen rates and training runs, and their spread is added to every interval of a mean.
* In a **mean over categories** the categories are random: the interval is for categories like
  these, and their spread includes the noise of images and seeds. They are taken as independent,
  though they share base networks and some val images.
* In the mean of **these categories** (see `headline`) the categories are fixed; images and training
  runs are random, as for one category.
* p-values: for a mean, from flipping the signs of the categories' differences, made larger where
  folds are random; for one category, from swapping the two losses image by image, with the networks
  fixed (seeds are too few).

Missing cells are never averaged away: a category counts for a comparison only if both losses have
the same (fold, seed) cells, and every row gives its numbers of categories and cells.

Use: `scores = Scores(records)`, then the functions; each table has one row per line of the report.
Measures and subsets are those of `scores`; `claims` gives the verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lovasz_repro.analysis.resample import (
    Floats,
    Replicates,
    fixed_mean_interval,
    fold_test,
    holm,
    image_intervals,
    mean_interval,
    sign_flip,
    swap_test,
)
from lovasz_repro.analysis.scores import SIZES, Arm, Scores
from lovasz_repro.records import MEASURES, UNTRAINED

REFERENCE = "cross_entropy"
COMPARISON = ("value", "reference_value", "difference", "low", "high", "p", "categories", "cells")


class Mean(NamedTuple):
    """A mean over categories, its 95 % interval, and their number; NaN for none."""

    value: float
    low: float
    high: float
    categories: int


def over_categories(each: Sequence[pd.Series]) -> Mean:
    """The mean of one number per category; a category whose number is NaN is left out.

    Args:
        each: the numbers of the study as a whole, then those of its random folds (`Scores.each`).
    """
    whole = each[0].dropna()
    low, high = mean_interval(whole.to_numpy(), _of_folds(each))
    return Mean(float(whole.mean()), float(low), float(high), len(whole))


def _of_folds(each: Sequence[pd.Series]) -> list[Floats]:
    """The numbers of each fold for the categories of the whole; NaN where a fold has none."""
    index = each[0].dropna().index
    return [one.reindex(index).to_numpy(float) for one in each[1:]]


def level(scores: Scores, arm: Arm, subset: str = "all") -> pd.Series:
    """The measure by category, for the categories in which all losses that have cells have the same
    ones; empty for a loss without cells."""
    categories = scores.common(scores.present) if arm.loss in scores.present else []
    return scores.values(categories, arm, subset)


def others(scores: Scores) -> list[str]:
    """The losses of the grid but REFERENCE."""
    return [loss for loss in scores.losses if loss != REFERENCE]


def gains(scores: Scores, arm: Arm, against: Arm, subset: str = "all") -> pd.Series:
    """Paired difference arm - against by category, where both have the same cells."""
    categories = scores.common([arm.loss, against.loss])
    sides = [scores.values(categories, side, subset) for side in (arm, against)]
    return (sides[0] - sides[1]).dropna()


def compare(scores: Scores, arm: Arm, against: Arm, subset: str = "all") -> dict[str, Any]:
    """The mean over categories of `gains`, as one row with the keys `COMPARISON`.

    value and reference_value are the two levels over the same categories, cells counts pairs. NaN
    if no category has both.
    """
    each = [gains(one, arm, against, subset) for one in scores.each]
    mean, categories = over_categories(each), list(each[0].index)
    return {
        "value": float(scores.values(categories, arm, subset).mean()),
        "reference_value": float(scores.values(categories, against, subset).mean()),
        "difference": mean.value,
        "low": mean.low,
        "high": mean.high,
        "p": max(sign_flip(each[0].to_numpy()), fold_test(mean.low, mean.high, _of_folds(each))),
        "categories": mean.categories,
        "cells": scores.cells(categories, arm.loss),
    }


def these_interval(scores: Scores, arm: Arm, against: Arm) -> tuple[float, float]:
    """95 % interval of the mean difference for exactly the categories that both have."""
    each = [gains(one, arm, against) for one in scores.each]
    bootstraps = [Replicates(scores.folds(name, [arm, against])) for name in each[0].index]
    return fixed_mean_interval(bootstraps, _of_folds(each))


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A table of the rows; p_holm follows p, corrected over all rows."""
    table = pd.DataFrame(rows, columns=list(columns))
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"].to_numpy(float)))
    return table


def levels(scores: Scores, measure: str = "iou", subset: str = "all") -> pd.DataFrame:
    """Per category and loss: category, loss, value, low, high, images, cells, expected_cells.

    A category and loss without cells has no row.
    """
    rows: list[dict[str, Any]] = []
    for loss in scores.losses:
        rows += _by_category(scores, [Arm(loss, measure)], subset)
    columns = ["category", "loss", "value", "low", "high", "images", "cells", "expected_cells"]
    return pd.DataFrame(rows, columns=columns)


def differences(scores: Scores, measure: str = "iou", subset: str = "all") -> pd.DataFrame:
    """Per category and loss, paired difference to REFERENCE.

    Columns: category, loss, difference, low, high, p, p_holm (over the rows of losses that train;
    separately over those of `UNTRAINED`, which come last), images, cells, expected_cells. A
    category in which the two losses do not have the same cells has no row.
    """
    rows: list[dict[str, Any]] = []
    for loss in others(scores):
        rows += _by_category(scores, [Arm(loss, measure), Arm(REFERENCE, measure)], subset)
    columns = ("category", "loss", "difference", "low", "high", "p", "images", "cells")
    trained = [row for row in rows if row["loss"] != UNTRAINED]
    untrained = [row for row in rows if row["loss"] == UNTRAINED]
    tables = [_table(part, (*columns, "expected_cells")) for part in (trained, untrained)]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _by_category(scores: Scores, arms: Sequence[Arm], subset: str) -> list[dict[str, Any]]:
    """A row per category in which all arms have the same cells: value for one arm, difference and p
    for two; its interval; and its numbers of images and cells."""
    loss = arms[0].loss
    categories = scores.common([arm.loss for arm in arms])
    folds = [scores.folds(category, arms, subset) for category in categories]
    bootstraps = [Replicates(own) for own in folds]
    intervals = image_intervals(bootstraps)
    rows = []
    for category, own, bootstrap, (low, high) in zip(
        categories, folds, bootstraps, intervals, strict=True
    ):
        row = {"category": category, "loss": loss, "low": low, "high": high}
        row |= {"value" if len(arms) == 1 else "difference": bootstrap.value}
        row |= {"images": sum(len(present) for _, present in own)}
        row |= {"cells": scores.cells([category], loss), "expected_cells": scores.expected_cells}
        if len(arms) > 1:
            terms = np.concatenate([terms.mean(axis=2) for terms, _ in own])  # (N, 2 arms, 2)
            row["p"] = swap_test(terms[:, 0], terms[:, 1])
        rows.append(row)
    return rows


def mean_levels(scores: Scores, measure: str = "iou") -> pd.DataFrame:
    """Per loss of the grid: loss, `Mean` of its `level`, cells. A loss without cells has NaN."""
    rows = []
    for loss in scores.losses:
        each = [level(one, Arm(loss, measure)) for one in scores.each]
        cells = scores.cells(each[0].index, loss)
        rows.append({"loss": loss, **over_categories(each)._asdict(), "cells": cells})
    return pd.DataFrame(rows)


def mean_differences(scores: Scores, measure: str = "iou", subset: str = "all") -> pd.DataFrame:
    """Per loss of the grid but REFERENCE: loss, `compare` to REFERENCE, p_holm over the losses."""
    against = Arm(REFERENCE, measure)
    rows = [
        {"loss": loss, **compare(scores, Arm(loss, measure), against, subset)}
        for loss in others(scores)
    ]
    return _table(rows, ("loss", *COMPARISON))


OWN_LOSS = {**{name: name for name in MEASURES}, "soft_jaccard": "soft_jaccard_per_image"}
"""The loss that trains with each measure. The measure soft_jaccard is per image; the loss of that
name trains per batch."""


def own_measure_matrix(scores: Scores) -> pd.DataFrame:
    """`mean_levels` of the four losses as measures, image-IoU and dataset-IoU, one below the other,
    for the losses that train.

    Columns: measure, those of `mean_levels`, own (the loss trains with this measure), best (no loss
    has a better value).
    """
    tables = []
    for measure in (*MEASURES, "iou", "dataset_iou"):
        table = mean_levels(scores, measure)
        table = table[table["loss"] != UNTRAINED]
        best = table["value"].min() if measure in MEASURES else table["value"].max()
        table.insert(0, "measure", measure)
        own = table["loss"] == OWN_LOSS.get(measure)
        tables.append(table.assign(own=own, best=table["value"] == best))
    return pd.concat(tables, ignore_index=True)


def by_presence(scores: Scores) -> pd.DataFrame:
    """Image-IoU on images with and without the category: subset, then as `mean_differences`."""
    names = ("present", "absent")
    return _by("subset", {name: mean_differences(scores, "iou", name) for name in names})


def by_size(scores: Scores) -> pd.DataFrame:
    """Image-IoU by quarter of object size.

    Columns: subset, fraction_low, fraction_high (the quarter's borders as a fraction of the image,
    mean over categories), then as `mean_differences`.

    Each category has its own quarters, so that it counts in all four.
    """
    table = _by("subset", {name: mean_differences(scores, "iou", name) for name in SIZES})
    borders = list(scores.borders.values())
    inner = np.mean(borders, axis=0) if borders else np.full(3, np.nan)
    edges = [0.0, *inner.tolist(), 1.0]
    quarter = table["subset"].map(SIZES.index)
    table.insert(1, "fraction_low", quarter.map(lambda k: edges[k]))
    table.insert(2, "fraction_high", quarter.map(lambda k: edges[k + 1]))
    return table


def gap_filling(scores: Scores) -> pd.DataFrame:
    """How losses trade missed for false foreground in images with the category: measure (recall,
    missed, false), then as `mean_differences`.

    missed + false = 1 - IoU in every image, so their changes add up to minus the change in
    image-IoU. If recall rises and `false` does not, object pixels were recovered. It does not show
    where: a filled hole, a found object and a wider rim count alike; only pictures show that.
    """
    names = ("recall", "missed", "false")
    return _by("measure", {name: mean_differences(scores, name, "present") for name in names})


def _by(column: str, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Stack tables under a first column that names them."""
    return pd.concat(tables, names=[column]).reset_index(level=0).reset_index(drop=True)


def gains_by_choosing(scores: Scores) -> pd.DataFrame:
    """Image-IoU of each loss at its chosen thresholds against itself at 0: loss, `compare`, p_holm
    over the losses."""
    pairs = {loss: (Arm(loss, "tuned_iou"), Arm(loss)) for loss in scores.losses}
    rows = [{"loss": loss, **compare(scores, *arms)} for loss, arms in pairs.items()]
    return _table(rows, ("loss", *COMPARISON))
