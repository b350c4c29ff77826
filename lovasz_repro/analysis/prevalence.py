"""Image-IoU as it would be with another share of images that hold the category.

Half of a category's val set is without the category. In the whole of VOC's val list a category is
in about 7 % of the images, mean over the 20. With a share π of images that hold it,

    IoU(π) = π · present + (1 - π) · absent

where present and absent are the mean IoU of the images with and without it. This only reweights the
measurements: networks are still trained with half of the images holding the category, and the
threshold is 0.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from lovasz_repro.analysis.resample import Floats, mean_interval
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, gains, others

NATURAL = 0.07
"""Mean over the 20 categories of the share of VOC 2012's val images that hold the category."""
SHARES: Floats = np.round(np.linspace(0.02, 0.5, 49), 2)  # hundredths: NATURAL is one of them


def prevalence_gains(scores: Scores) -> pd.DataFrame:
    """Gain over the reference by share: loss, share, difference, low, high, categories.

    A row per loss of the grid but the reference and share of `SHARES`; the interval is over
    categories. A loss without a common category has no row.
    """
    tables = []
    folds = [_halves(one) for one in scores.random_folds.values()]
    for loss, halves in _halves(scores).items():
        gain = _at_shares(halves)
        by_fold = [_at_shares(own[loss].reindex(halves.index)) for own in folds if loss in own]
        low, high = mean_interval(gain, by_fold)
        tables.append(
            pd.DataFrame(
                {"loss": loss, "share": SHARES, "difference": gain.mean(axis=1)}
                | {"low": low, "high": high, "categories": len(halves)}
            )
        )
    columns = ["loss", "share", "difference", "low", "high", "categories"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _at_shares(halves: pd.DataFrame) -> Floats:
    """(shares, categories) the gain at each of `SHARES`."""
    present, absent = (halves[name].to_numpy() for name in ("present", "absent"))
    return np.asarray(SHARES[:, None] * present + (1 - SHARES)[:, None] * absent)


def crossings(scores: Scores) -> pd.DataFrame:
    """Where two losses change places: above, below, share.

    Below `share` the loss `above` has the higher mean image-IoU, beyond it the other. The reference
    is among the losses. Only crossings within `SHARES`, sorted by share.
    """
    halves = _halves(scores)
    if REFERENCE in scores.present:
        nothing = pd.DataFrame(0.0, scores.common([REFERENCE]), ["present", "absent"])
        halves[REFERENCE] = nothing
    rows = []
    for one, other in combinations([loss for loss in scores.losses if loss in halves], 2):
        change = (halves[one] - halves[other]).dropna().mean()
        slope = change["present"] - change["absent"]
        share = -change["absent"] / slope if slope else np.nan
        if SHARES[0] <= share <= SHARES[-1]:
            above, below = (one, other) if slope < 0 else (other, one)
            rows.append({"above": above, "below": below, "share": float(share)})
    table = pd.DataFrame(rows, columns=["above", "below", "share"])
    return table.sort_values("share", kind="stable").reset_index(drop=True)


def _halves(scores: Scores) -> dict[str, pd.DataFrame]:
    """Each loss's gain over the reference by category: columns present and absent."""
    found = {}
    for loss in others(scores):
        arms = Arm(loss), Arm(REFERENCE)
        halves = {part: gains(scores, *arms, part) for part in ("present", "absent")}
        table = pd.DataFrame(halves).dropna()
        if len(table):
            found[loss] = table
    return found
