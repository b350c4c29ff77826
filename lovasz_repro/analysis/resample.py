"""Intervals and tests from arrays: no files, no names, no clock; equal input gives equal output.

The random numbers come from generators with fixed seeds, so a table does not depend on which tables
were made before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second to import

Floats = NDArray[np.float64]

LEVEL = 0.95
UNIT_REPLICATES = 9_999  # resamples of some 20 categories are cheap
IMAGE_REPLICATES = 1_999
SWAPS = 9_999
EXACT_UNITS = 20  # 2**19 sign patterns: 4 MiB
FEW_UNITS = 8  # with fewer, too many resamples repeat one unit for a quantile of t


@cache
def resamples(count: int, replicates: int, stream: int = 0) -> Floats:
    """How often each of `count` units is drawn: (replicates, count), rows sum to `count`."""
    draw = np.random.default_rng([count, replicates, stream])
    drawn = draw.integers(0, count, (replicates, count)) + count * np.arange(replicates)[:, None]
    counted = np.bincount(drawn.ravel(), minlength=replicates * count)
    return counted.reshape(replicates, count).astype(np.float64)  # (replicates, count)


def mean_interval(values: Floats, folds: Sequence[Floats] = ()) -> tuple[Floats, Floats]:
    """95 % interval of the mean of units drawn from a larger population: symmetric bootstrap-t.

    values: (..., N), one number per unit (a category), with the noise of its images and seeds.
    folds: the units' numbers in each fold, (..., N) each, if folds are random, too. All units of a
    fold share its base network and its chosen rates, so the spread between units does not include
    that between folds: what it adds (see `_fold_parts`) is added in quadrature.
    Returns the two ends, each (...); NaN for N < 2.

    The interval is mean ± q · s/√N, with q the 95 % quantile of |t*| over resamples of the units.
    Units are resampled whole: their spread already includes the noise of images and seeds, which
    would otherwise count twice. In the tests' simulations with 20 normal, exponential or t(4) units
    this form covers 93-97 %, a percentile interval less than 93 %. With fewer than 8 units, or if
    resamples without spread leave no finite quantile, q is Student's. If one unit has nearly all of
    the spread, resamples without it have almost none and q loses its meaning: it is at most twice
    Student's.
    Source: Hall, The Bootstrap and Edgeworth Expansion (1992), section 3.
    """
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[:-1], np.nan), np.full(values.shape[:-1], np.nan)
    mean = values.mean(axis=-1)
    error = values.std(axis=-1, ddof=1) / np.sqrt(count)
    factor = np.full_like(mean, stdtrit(count - 1, (1 + LEVEL) / 2))
    if count >= FEW_UNITS:
        quantile = _largest_t(values - mean[..., None])
        factor = np.where(np.isfinite(quantile), np.minimum(quantile, 2 * factor), factor)
    half = np.hypot(factor * error, _fold_parts(folds)[0])
    return mean - half, mean + half


def _fold_parts(folds: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Half the intervals of a mean over N units that come from random folds and from the rest,
    (...) each.

    Two-way random effects: a fold's number is a unit's part, a fold's part and a rest (images,
    training runs, and what a fold does to this unit alone). The variance of the fold's part is
    (mean square between folds - mean square of the rest) / N, with Student's t for F folds. The
    rest is in the spread between units already. In simulations like this study (20 random units, 4
    or 6 folds) the whole interval covers 94 to 98 %.

    0 for fewer than two folds or units. Folds without any number, then units that lack one in some
    fold, are left out.
    """
    own = [fold for fold in folds if np.isfinite(fold).any()]
    nothing = np.zeros(()), np.zeros(())
    if len(own) < 2:
        return nothing
    every = np.stack(own)  # (F, ..., N)
    every = every[..., np.isfinite(every).all(axis=tuple(range(every.ndim - 1)))]
    count, units = len(every), every.shape[-1]
    if units < 2:
        return nothing
    means = every.mean(axis=-1, keepdims=True)
    rest = every - means - every.mean(axis=0) + means.mean(axis=0)
    within = (rest**2).sum(axis=(0, -1)) / ((count - 1) * (units - 1))
    excess = np.maximum(0, units * means[..., 0].var(axis=0, ddof=1) - within)
    few, many = stdtrit([count - 1, (count - 1) * (units - 1)], (1 + LEVEL) / 2)
    cells = count * units
    return np.asarray(few * np.sqrt(excess / cells)), np.asarray(many * np.sqrt(within / cells))


def _largest_t(centred: Floats) -> Floats:
    """95 % quantile of |t*| over resamples. centred: (..., N) with mean zero; returns (...)."""
    count = centred.shape[-1]
    weights = resamples(count, UNIT_REPLICATES).T / count  # (N, R)
    mean = centred @ weights  # (..., R)
    variance = (centred**2) @ weights - mean**2
    # Differences of equal numbers: below this, a resample has no spread but rounding error.
    floor = 1e-12 * (centred**2).mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean) * np.sqrt((count - 1) / variance)
    t = np.where(variance > floor, t, np.inf)
    return np.asarray(np.quantile(t, LEVEL, axis=-1, method="higher"))


def sign_flip(differences: Floats) -> float:
    """Two-sided p-value of "differences are symmetric about zero", by their sum.

    differences: (N,). Exact (all 2^N sign patterns) up to 20 units, 99,999 random patterns and the
    observed one beyond. NaN for N = 0.
    """
    count = len(differences)
    if count == 0:
        return float("nan")
    observed = abs(differences.sum())
    # Sums that are equal in exact arithmetic must count as equal.
    limit = observed - 1e-9 * np.abs(differences).sum()
    if count <= EXACT_UNITS:
        first, second = (_signed_sums(half) for half in np.array_split(differences, 2))
        second = np.sort(second)
        below = np.searchsorted(second, -limit - first, side="right")
        above = len(second) - np.searchsorted(second, limit - first, side="left")
        # Every pattern is on both sides of a limit of zero.
        return float(min(1, (below + above).sum() / 2**count))
    signs = np.random.default_rng(count).choice([-1.0, 1.0], (99_999, count))
    return float((1 + np.sum(np.abs(signs @ differences) >= limit)) / 100_000)


def _signed_sums(values: Floats) -> Floats:
    """The sums under all sign patterns, (2^N,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def fold_test(low: float, high: float, folds: Sequence[Floats]) -> float:
    """The least p-value that random folds leave to a mean with the interval [low, high].

    That is Student's t for the folds, scaled so that it is 0.05 where the interval ends at zero; 0
    if the folds do not make the interval wider. folds: as for `mean_interval`.
    """
    if not _fold_parts(folds)[0] > 0:
        return 0.0
    degrees = sum(bool(np.isfinite(fold).any()) for fold in folds) - 1
    t = abs(high + low) / (high - low) * stdtrit(degrees, (1 + LEVEL) / 2)
    return float(2 * stdtr(degrees, -t))


def swap_test(first: Floats, second: Floats) -> float:
    """Two-sided p-value of "which side is which does not matter", by swapping sides per image.

    first, second: (N, 2), numerator and denominator of every image; the statistic is the difference
    of the ratios of their sums. For means (denominator 1) this is the sign-flip test.
    """
    draw = np.random.default_rng(len(first))
    swapped = draw.integers(0, 2, (SWAPS, len(first)), dtype=np.int8).astype(np.float64)
    moved = swapped @ (second - first)  # (SWAPS, 2)
    one, two = first.sum(axis=0) + moved, second.sum(axis=0) - moved
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = one[:, 0] / one[:, 1] - two[:, 0] / two[:, 1]  # (SWAPS,)
        observed = first[:, 0].sum() / first[:, 1].sum() - second[:, 0].sum() / second[:, 1].sum()
    if np.isnan(observed):
        return float("nan")
    return float((1 + np.sum(np.abs(ratio) >= abs(observed) - 1e-12)) / (SWAPS + 1))


def holm(p_values: Floats) -> Floats:
    """Holm's step-down correction, (N,) to (N,); NaN stays NaN and does not count as a test."""
    corrected = np.full(len(p_values), np.nan)
    tests = np.flatnonzero(~np.isnan(p_values))
    order = tests[np.argsort(p_values[tests], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * steps))
    return corrected


class Replicates:
    """Bootstrap of one category: images resampled within fold and stratum, whole and paired.

    folds: per fold (terms, strata). terms: (N, arms, seeds, 2), numerator and denominator of each
    image, or (N, arms, seeds, labels, 2): the ratio then is the mean of the labels' ratios, over
    the labels whose denominator is above 0; strata: (N,) of 0 and 1, resampled separately because
    the design fixes their sizes. The statistic is the ratio of one arm, or the difference of the
    first and second arm's.

    value: the statistic; values: (R,) its replicates, from images alone;
    training_variances: per fold with two seeds or more, an unbiased estimate (it may be negative)
    of the variance between seeds that the images do not explain;
    share: Σ (fold's share of the denominator)² / seeds, the factor to that variance.
    """

    def __init__(self, folds: Sequence[tuple[Floats, NDArray[np.int64]]]) -> None:
        weights = np.array([1.0, -1.0])[: folds[0][0].shape[1]]
        sums = [_resampled(index, *fold) for index, fold in enumerate(folds)]  # (1 + R, A, S, 2)
        totals = [fold.mean(axis=2) for fold in sums]  # (1 + R, A, 2)
        ratio = _mean_ratio if folds[0][0].ndim == 5 else _ratio
        every = ratio(np.sum(totals, axis=0)) @ weights  # (1 + R,)
        self.value, self.values = float(every[0]), every[1:]
        sizes = np.array([total[0, 0, ..., 1].sum() for total in totals])
        seeds = np.array([fold.shape[2] for fold in sums])
        with np.errstate(invalid="ignore"):
            self.share = float(np.sum((sizes / sizes.sum()) ** 2 / seeds))
        self.training_variances = [
            _training_variance(np.moveaxis(ratio(fold), 1, 2) @ weights)
            for fold in sums
            if fold.shape[2] > 1
        ]


def _resampled(fold: int, terms: Floats, strata: NDArray[np.int64]) -> Floats:
    """Sums over images, the observed ones first: (1 + R, arms, seeds, 2), or with labels."""
    each = terms.reshape(len(terms), -1)
    sums = np.zeros((1 + IMAGE_REPLICATES, each.shape[1]))
    sums[0] = each.sum(axis=0)
    for stratum in np.unique(strata):
        own = each[strata == stratum]
        stream = 1 + 2 * fold + int(stratum)  # strata of equal size must not be drawn alike
        sums[1:] += resamples(len(own), IMAGE_REPLICATES, stream) @ own
    return sums.reshape(-1, *terms.shape[1:])  # (1 + R, A, S, 2)


def _ratio(sums: Floats) -> Floats:
    """Numerator / denominator along the last axis; NaN for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _mean_ratio(sums: Floats) -> Floats:
    """(..., labels, 2) -> (...): the mean of numerator / denominator over labels that have one."""
    there = sums[..., 1] > 0
    ratio = np.divide(sums[..., 0], sums[..., 1], out=np.zeros(there.shape), where=there)
    return np.asarray(ratio.sum(axis=-1) / np.maximum(there.sum(axis=-1), 1))


def _training_variance(by_seed: Floats) -> float:
    """by_seed: (1 + R, S). Variance between seeds, less the part that resampling images gives."""
    spread = by_seed[1:] - by_seed[0]
    return float(by_seed[0].var(ddof=1) - spread.var(axis=1, ddof=1).mean())


def _pooled_variance(categories: Sequence[Replicates]) -> float:
    """The variance of the training runs; 0 if no fold has two seeds, which would show it."""
    variances = [v for c in categories for v in c.training_variances if np.isfinite(v)]
    return max(0.0, float(np.mean(variances))) if variances else 0.0


def image_intervals(categories: Sequence[Replicates]) -> list[tuple[float, float]]:
    """95 % interval of each category's statistic: images and training runs are random.

    These are percentiles of the replicates, each with normal noise added for the training runs. Its
    variance is that between seeds, pooled over all categories and folds (two seeds per fold are too
    few for one). With one seed per fold the interval is of the images alone.
    """
    training = _pooled_variance(categories)
    noise = np.random.default_rng(0).standard_normal(IMAGE_REPLICATES)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    intervals = []
    for category in categories:
        low, high = np.quantile(category.values + noise * np.sqrt(training * category.share), tails)
        intervals.append((float(low), float(high)))
    return intervals


def fixed_mean_interval(
    categories: Sequence[Replicates], folds: Sequence[Floats] = ()
) -> tuple[float, float]:
    """95 % interval of the mean over exactly these categories: their number and choice are fixed,
    images and training runs are random.

    folds: the categories' numbers in each fold, if folds are random, too. What they add is added in
    quadrature. The rest (see `_fold_parts`), which holds the spread of training runs, takes the
    place of the images' part where it is larger.

    The mean of the categories' replicates, with normal noise for the training runs as in
    `image_intervals`. Each category's replicates are shuffled first: categories with equal numbers
    of images share the weights of `resamples`, and would move together. Images that several
    categories share are resampled for each of them on its own. NaN without categories.
    """
    if not categories:
        return float("nan"), float("nan")
    training = 0.0 if len(folds) > 1 else _pooled_variance(categories)
    shuffled = [
        np.random.default_rng(place).permutation(category.values)
        for place, category in enumerate(categories)
    ]
    share = sum(category.share for category in categories) / len(categories) ** 2
    noise = np.random.default_rng(len(categories)).standard_normal(IMAGE_REPLICATES)
    replicates = np.mean(shuffled, axis=0) + noise * np.sqrt(training * share)  # (R,)
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if len(folds) > 1:
        middle = float(np.mean([category.value for category in categories]))
        between, rest = _fold_parts(folds)
        low = middle - np.hypot(max(middle - low, rest), between)
        high = middle + np.hypot(max(high - middle, rest), between)
    return float(low), float(high)
