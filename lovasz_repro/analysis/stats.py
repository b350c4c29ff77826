"""From the rows of all cells to the report's tables: levels, paired differences, splits.

What is random here, and what is fixed:

* A number of one **category** has images and training runs as its random parts: other val images,
  other seeds. Images are resampled whole (under both losses and all seeds), within their fold and
  among those with or without the category; the variance between seeds is added. Folds are fixed.
* Where the images were parted into folds several times, a **partition** takes the place of a seed:
  an image counts once in each partition that scores it, and the spread of the partitions' means
  (they differ in base networks and training runs) is added to every interval of a mean.
* A **mean over categories** has the category as its unit: the interval speaks of categories like
  these, and the noise of images and seeds is inside the spread of the categories. They are taken as
  independent, though they share base networks and some val images.
* The mean of **these categories** (`headline`, beside the former) takes the categories as given:
  images and training runs are random, as for one category.
* p-values: for a mean, flips of the signs of the categories' differences; for one category, swaps
  of the two losses image by image, which takes the trained networks as given (seeds are too few).

Missing cells are never averaged away: a category counts for a comparison only where both losses
have the same (fold, seed) cells, and every row says on how many categories and cells it stands.

Use: `scores = Scores(records)`, then the functions; each table has one row per line of the report.
Measures and subsets are those of `scores`; `claims` gives the verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lovasz_repro.analysis.resample import (
    Floats,
    Replicates,
    fixed_mean_interval,
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


def gains(scores: Scores, arm: Arm, against: Arm, subset: str = "all") -> pd.Series:
    """Paired difference arm - against in each category that both have whole, by category."""
    categories = scores.common([arm.loss, against.loss])
    difference = scores.values(categories, arm, subset) - scores.values(categories, against, subset)
    return pd.Series(difference, index=categories, dtype=float).dropna()


def compare(scores: Scores, arm: Arm, against: Arm, subset: str = "all") -> dict[str, Any]:
    """The mean over categories of `gains`, as one row with the keys `COMPARISON`.

    value and reference_value are the two levels over the same categories, cells counts pairs. NaN
    where no category has both.
    """
    gain = gains(scores, arm, against, subset)
    categories = list(gain.index)
    low, high = mean_interval(gain.to_numpy(), partition_means(scores, arm, against, subset))
    return {
        "value": _mean(scores.values(categories, arm, subset)),
        "reference_value": _mean(scores.values(categories, against, subset)),
        "difference": _mean(gain.to_numpy()),
        "low": float(low),
        "high": float(high),
        "p": sign_flip(gain.to_numpy()),
        "categories": len(categories),
        "cells": scores.cells(categories, arm.loss),
    }


def these_interval(scores: Scores, arm: Arm, against: Arm) -> tuple[float, float]:
    """95 % interval of the mean difference for the categories that both have, over images."""
    shared = list(gains(scores, arm, against).index)
    parts = partition_means(scores, arm, against)
    ends = fixed_mean_interval(replicates(scores, shared, [arm, against]), list(map(float, parts)))
    return float(ends[0]), float(ends[1])


def partition_means(
    scores: Scores, arm: Arm, against: Arm | None = None, subset: str = "all"
) -> list[Floats]:
    """The mean over categories in each partition, of a difference or (against None) of a level;
    empty where there is one partition."""
    means = []
    for part in scores.partitions:
        if against:
            values = gains(part, arm, against, subset).to_numpy()
        else:
            values = part.values(part.common(part.present), arm, subset)
        means.append(np.asarray(_mean(values)))
    return means


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """With p_holm beside p where there is one, corrected over all rows."""
    table = pd.DataFrame(rows, columns=list(columns))
    if "p" in table:
        table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"].to_numpy(float)))
    return table


def levels(scores: Scores, measure: str = "iou", subset: str = "all") -> pd.DataFrame:
    """Per category and loss: category, loss, value, low, high, images, cells, expected_cells.

    A category and loss without cells has no row.
    """
    rows = []
    for loss in scores.losses:
        categories = scores.common([loss])
        rows += _category_rows(scores, categories, [Arm(loss, measure)], subset)
    columns = ("category", "loss", "value", "low", "high", "images", "cells", "expected_cells")
    return _table(rows, columns)


def differences(scores: Scores, measure: str = "iou", subset: str = "all") -> pd.DataFrame:
    """Per category and loss, paired difference to REFERENCE.

    Columns: category, loss, difference, low, high, p, p_holm (over the rows of losses that train),
    images, cells, expected_cells. A category in which the two losses do not have the same cells has
    no row.
    """
    rows = []
    for loss in _others(scores):
        arms = [Arm(loss, measure), Arm(REFERENCE, measure)]
        pairs = _category_rows(scores, scores.common([loss, REFERENCE]), arms, subset)
        for row in pairs:
            sides = [scores.terms(row["category"], arm, subset) for arm in arms]
            one, two = (np.concatenate([fold.mean(axis=1) for fold in side]) for side in sides)
            rows.append({**row, "difference": row["value"], "p": swap_test(one, two)})
    columns = ("category", "loss", "difference", "low", "high", "p", "images", "cells")
    trained = [row for row in rows if row["loss"] != UNTRAINED]
    others = [row for row in rows if row["loss"] == UNTRAINED]
    tables = [_table(part, (*columns, "expected_cells")) for part in (trained, others)]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _category_rows(
    scores: Scores, categories: Sequence[str], arms: Sequence[Arm], subset: str
) -> list[dict[str, Any]]:
    """Value and interval of each category: of a level (one arm) or of a difference (two)."""
    loss = arms[0].loss
    bootstraps = replicates(scores, categories, arms, subset)
    images = [sum(map(len, scores.presence(name, loss, subset))) for name in categories]
    return [
        {
            "category": category,
            "loss": loss,
            "value": bootstrap.value,
            "low": low,
            "high": high,
            "images": count,
            "cells": scores.cells([category], loss),
            "expected_cells": scores.expected_cells,
        }
        for category, bootstrap, count, (low, high) in zip(
            categories, bootstraps, images, image_intervals(bootstraps), strict=True
        )
    ]


def replicates(
    scores: Scores, categories: Sequence[str], arms: Sequence[Arm], subset: str = "all"
) -> list[Replicates]:
    """The bootstrap of each category: of a level (one arm) or of a paired difference (two)."""
    sign = (1.0, -1.0)[: len(arms)]
    found = []
    for category in categories:
        sides = zip(*(scores.terms(category, arm, subset) for arm in arms), strict=True)
        terms = [np.stack(fold, axis=1) for fold in sides]  # (N, A, S, 2)
        strata = scores.presence(category, arms[0].loss, subset)
        found.append(Replicates(list(zip(terms, strata, strict=True)), sign))
    return found


def _others(scores: Scores) -> list[str]:
    return [loss for loss in scores.losses if loss != REFERENCE]


def mean_levels(scores: Scores, measure: str = "iou", subset: str = "all") -> pd.DataFrame:
    """Per loss of the grid: loss, value, low, high, categories, cells.

    The mean is over the categories in which all losses with any cell have the same ones, so that
    the rows can be compared. A loss without cells has NaN and 0 categories.
    """
    categories = scores.common(scores.present)
    rows = []
    for loss in scores.losses:
        names = categories if loss in scores.present else []
        arm = Arm(loss, measure)
        values = scores.values(names, arm, subset)
        parts = partition_means(scores, arm, None, subset) if names else []
        low, high = mean_interval(values, parts)
        row = {"loss": loss, "value": _mean(values), "low": float(low), "high": float(high)}
        rows.append({**row, "categories": len(names), "cells": scores.cells(names, loss)})
    return _table(rows, ("loss", "value", "low", "high", "categories", "cells"))


def mean_differences(scores: Scores, measure: str = "iou", subset: str = "all") -> pd.DataFrame:
    """Per loss of the grid but REFERENCE: loss, `compare` to REFERENCE, p_holm over the losses."""
    against = Arm(REFERENCE, measure)
    rows = [
        {"loss": loss, **compare(scores, Arm(loss, measure), against, subset)}
        for loss in _others(scores)
    ]
    return _table(rows, ("loss", *COMPARISON))


OWN_LOSS = {**{name: name for name in MEASURES}, "soft_jaccard": "soft_jaccard_per_image"}
"""By measure the loss that trains with it. The measure soft_jaccard is taken per image; the loss of
that name trains per batch, and is another loss."""


def own_measure_matrix(scores: Scores) -> pd.DataFrame:
    """`mean_levels` of the four losses as measures, image-IoU and dataset-IoU, one below the other,
    for the losses that train.

    Columns: measure, those of `mean_levels`, own (the loss trains with this measure), best (no
    training loss has a better value of it).
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

    The quarters are each category's own: every category counts in each of them.
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

    missed + false = 1 - IoU in every image, so their changes add up to the change in image-IoU. A
    recall that rises while `false` does not shows that object pixels were recovered. It cannot show
    where: a filled hole, a found object and a wider rim count alike; only pictures tell them apart.
    """
    names = ("recall", "missed", "false")
    return _by("measure", {name: mean_differences(scores, name, "present") for name in names})


def _by(column: str, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Stack tables under a first column that names them."""
    stacked = pd.concat(tables, names=[column]).reset_index(level=0)
    return stacked.reset_index(drop=True)


def threshold_control(scores: Scores) -> pd.DataFrame:
    """Is the gain more than a better threshold? Image-IoU; label, loss, tuned, against_loss,
    against_tuned, then as `compare` with p_holm over the rows of a label. The labels:

    zero_vs_tuned_reference: each loss at threshold 0 against REFERENCE at its tuned threshold;
    both_tuned: each loss against REFERENCE, both tuned;
    own_tuning: each loss tuned against itself at 0.
    """
    others = _others(scores)
    pairs = {
        "zero_vs_tuned_reference": [(loss, False, REFERENCE, True) for loss in others],
        "both_tuned": [(loss, True, REFERENCE, True) for loss in others],
        "own_tuning": [(loss, True, loss, False) for loss in scores.losses],
    }
    columns = ("loss", "tuned", "against_loss", "against_tuned")
    tables = {}
    for label, rows in pairs.items():
        compared = [
            {
                **dict(zip(columns, row, strict=True)),
                **compare(scores, _at(row[0], row[1]), _at(row[2], row[3])),
            }
            for row in rows
        ]
        tables[label] = _table(compared, (*columns, *COMPARISON))
    return _by("label", tables)


def _at(loss: str, tuned: bool) -> Arm:
    return Arm(loss, "tuned_iou" if tuned else "iou")
