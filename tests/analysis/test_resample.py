from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from lovasz_repro.analysis.resample import (
    Replicates,
    fixed_mean_interval,
    fold_test,
    holm,
    image_intervals,
    mean_interval,
    resamples,
    sign_flip,
    swap_test,
)

Floats = NDArray[np.float64]


def covered(low: Floats, high: Floats, truth: float) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


def category_differences(draw: np.random.Generator, spread: Floats) -> Floats:
    """Paired differences by category, (sets, categories), from all that is random in a study.

    spread: (sets, categories), how far each category's own difference is from the common one.
    Below it: 2 folds, 2 seeds, 30 images a cell, with noise of the run, the image, and the
    image in a run.
    """
    image = draw.normal(0, 0.10, (*spread.shape, 2, 1, 30))
    run = draw.normal(0, 0.02, (*spread.shape, 2, 2, 1))
    both = draw.normal(0, 0.10, (*spread.shape, 2, 2, 30))
    noise: Floats = (image + run + both).mean(axis=(2, 3, 4))
    return spread + noise


@pytest.mark.parametrize("shape", ["normal", "skewed", "heavy"])
def test_the_interval_of_a_mean_over_categories_covers_a_known_difference(shape: str) -> None:
    draw = np.random.default_rng(1)
    sets, categories, truth = 2_000, 20, 0.03
    size = (sets, categories)
    if shape == "normal":
        unit = draw.normal(size=size)
    elif shape == "skewed":
        unit = draw.exponential(size=size) - 1
    else:
        unit = draw.standard_t(4, size) / np.sqrt(2)
    values = truth + category_differences(draw, 0.03 * unit)
    assert 0.93 <= covered(*mean_interval(values), truth) <= 0.97


def test_a_percentile_interval_over_categories_would_not_cover() -> None:
    values = np.random.default_rng(2).normal(size=(2_000, 20))
    means = values @ resamples(20, 1_999).T / 20
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert covered(low, high, 0) < 0.93


@pytest.mark.parametrize("count", [2, 3, 7])
def test_few_categories_have_students_interval(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(values), expected)


def test_the_interval_of_a_mean_agrees_with_a_bootstrap_t_by_hand() -> None:
    values = np.random.default_rng(3).exponential(size=15)
    draw = np.random.default_rng(4)
    ts = []
    for _ in range(20_000):
        sample = draw.choice(values, 15)
        ts.append(abs(sample.mean() - values.mean()) / (sample.std(ddof=1) / np.sqrt(15)))
    half = np.quantile(ts, 0.95) * values.std(ddof=1) / np.sqrt(15)
    low, high = mean_interval(values)
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)
    assert (low + high) / 2 == pytest.approx(values.mean())


def test_intervals_of_degenerate_values() -> None:
    assert np.isnan(mean_interval(np.array([0.5]))).all()
    assert np.isnan(mean_interval(np.array([]))).all()

    np.testing.assert_allclose(mean_interval(np.full(20, 0.1)), [0.1, 0.1])
    # 18 equal values: many resamples have no spread at all, and no finite |t*|.
    low, high = mean_interval(np.array([0.0] * 18 + [1.0, 2.0]))
    assert np.isfinite([low, high]).all()


def terms_of(values: Floats) -> Floats:
    """Means as ratios: (N, S) to (N, 1, S, 2)."""
    return np.stack([values, np.ones_like(values)], axis=-1)[:, None]


def test_the_interval_of_a_category_covers_a_known_difference() -> None:
    draw = np.random.default_rng(5)
    studies, categories, images = 75, 20, 40
    strata = (np.arange(images) % 2).astype(np.int64)
    hits = []
    for _ in range(studies):
        truths = draw.normal(0.03, 0.05, categories)
        bootstraps = []
        for truth in truths:
            folds = []
            for _fold in range(2):
                # Images with the category differ more, and by more, than those without.
                image = draw.normal(0, 0.15, (images, 1)) * strata[:, None] + 0.2 * (
                    strata[:, None] - 0.5
                )
                run = draw.normal(0, 0.02, (1, 2))
                values = truth + image + run + draw.normal(0, 0.08, (images, 2))
                folds.append((terms_of(values), strata))
            bootstraps.append(Replicates(folds))
        ends = np.array(image_intervals(bootstraps))
        hits += [covered(low, high, t) for (low, high), t in zip(ends, truths, strict=True)]
    assert len(hits) == 1_500
    assert 0.93 <= np.mean(hits) <= 0.97


def test_the_interval_of_a_category_agrees_with_scipy_for_a_paired_ratio() -> None:
    draw = np.random.default_rng(6)
    union = draw.integers(50, 500, (60, 2)).astype(float)
    tp = np.round(union * draw.beta(4, 2, (60, 2)))

    def difference(a: Floats, b: Floats, c: Floats, d: Floats, axis: int) -> Floats:
        ratios: Floats = a.sum(axis) / b.sum(axis) - c.sum(axis) / d.sum(axis)
        return ratios

    expected = stats.bootstrap(
        (tp[:, 0], union[:, 0], tp[:, 1], union[:, 1]),
        difference,
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(7),
    ).confidence_interval
    terms = np.stack([tp, union], axis=-1)[:, :, None]  # (N, A, S = 1, 2)
    ours = Replicates([(terms, np.zeros(60, np.int64))])
    width = expected.high - expected.low
    np.testing.assert_allclose(image_intervals([ours])[0], expected, atol=0.06 * width)
    assert ours.value == pytest.approx(difference(tp[:, 0], union[:, 0], tp[:, 1], union[:, 1], 0))


def test_strata_of_equal_size_are_not_drawn_alike() -> None:
    values = np.random.default_rng(8).normal(size=(20, 1))
    strata = np.zeros(20, np.int64)
    one = Replicates([(terms_of(values), strata)])
    two = Replicates([(terms_of(values), strata), (terms_of(-values), strata)])
    # Drawn alike, the folds would cancel in every replicate.
    assert two.values.std() == pytest.approx(one.values.std() / np.sqrt(2), rel=0.1)


def test_variance_between_seeds_is_estimated_without_the_images_share() -> None:
    draw = np.random.default_rng(9)
    strata = np.zeros(30, np.int64)
    estimates: dict[float, list[float]] = {0.0: [], 0.05: []}
    for spread, found in estimates.items():
        for _ in range(300):
            run = draw.normal(0, spread, (1, 2))
            values = run + draw.normal(0, 0.2, (30, 2))
            found += Replicates([(terms_of(values), strata)]).training_variances
    assert np.mean(estimates[0.0]) == pytest.approx(0, abs=4e-4)
    assert np.mean(estimates[0.05]) == pytest.approx(0.05**2, abs=1e-3)


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_sign_flips_are_all_counted(count: int) -> None:
    values = np.random.default_rng(count).normal(0.5, 1, count).round(1)  # rounded: with ties
    patterns = np.array(list(itertools.product([-1, 1], repeat=count)))
    expected = np.mean(np.abs(patterns @ values).round(9) >= abs(values.sum()).round(9))
    assert sign_flip(values) == expected


@pytest.mark.parametrize("count", [12, 25])
def test_sign_flip_agrees_with_scipy(count: int) -> None:
    values = np.random.default_rng(count).normal(0.35, 1, count)
    expected = stats.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        n_resamples=50_000,
        rng=np.random.default_rng(0),
    ).pvalue
    assert sign_flip(values) == pytest.approx(expected, abs=0.006)


def test_the_p_value_and_the_interval_of_random_folds_agree() -> None:
    draw = np.random.default_rng(3)
    for between in (0.0, 0.3, 1.0):
        for shift in draw.uniform(0, 1.2, 40):
            folds = [shift + draw.normal(0, between) + draw.normal(0, 1, 20) for _ in range(6)]
            whole = np.mean(folds, axis=0)
            low, high = map(float, mean_interval(whole, folds))
            p = max(sign_flip(whole), fold_test(low, high, folds))
            assert p < 0.08 if low > 0 or high < 0 else p > 0.03
    alone = draw.normal(0.5, 1, 20)
    alike = [alone + draw.normal(0, 0.1, 20) for _ in range(4)]
    for folds in ([alone, alone], [alone, np.full(20, np.nan)], [x - x.mean() for x in alike]):
        low, high = map(float, mean_interval(alone, folds))
        assert fold_test(low, high, folds) == 0  # they add nothing


def test_sign_flip_of_nothing_and_of_zeros() -> None:
    assert np.isnan(sign_flip(np.array([])))
    assert sign_flip(np.zeros(20)) == 1


def test_swaps_of_ratios_agree_with_all_swaps_counted() -> None:
    draw = np.random.default_rng(10)
    sides = draw.integers(1, 50, (2, 10, 2)).astype(float)
    sides[..., 1] += sides[..., 0]
    found = []
    for pattern in itertools.product([0, 1], repeat=10):
        side = np.array(pattern)
        one, two = (sides[s, np.arange(10)].sum(axis=0) for s in (side, 1 - side))
        found.append(abs(one[0] / one[1] - two[0] / two[1]))
    expected = np.mean(np.array(found) >= found[0] - 1e-12)
    assert swap_test(*sides) == pytest.approx(expected, abs=0.02)


def test_swaps_of_means_are_sign_flips() -> None:
    values = np.random.default_rng(11).normal(0.3, 1, (2, 16))
    sides = np.stack([values, np.ones_like(values)], axis=-1)
    assert swap_test(*sides) == pytest.approx(sign_flip(values[0] - values[1]), abs=0.02)


def test_holm_by_hand() -> None:
    corrected = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(corrected, [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])


def test_the_interval_for_fixed_categories_covers_their_own_mean() -> None:
    """However much the categories differ: that is no part of it."""
    draw = np.random.default_rng(12)
    strata = np.zeros(30, dtype=np.int64)
    own = draw.normal(0.1, 0.5, 8)
    hits = []
    for _ in range(150):
        categories = []
        for mean in own:
            image, run = draw.normal(0, 0.1, (2, 30, 1)), draw.normal(0, 0.02, (2, 1, 2))
            values = mean + image + run + draw.normal(0, 0.1, (2, 30, 2))  # folds, images, seeds
            terms = np.stack([values, np.ones_like(values)], axis=-1)[:, :, None]
            categories.append(Replicates([(fold, strata) for fold in terms]))
        low, high = fixed_mean_interval(categories)
        hits.append(low <= own.mean() <= high)
        width = high - low
    assert 0.9 <= np.mean(hits) <= 0.99
    # Eight independent means: without shuffling, equal weights would give the width of one.
    ends = image_intervals(categories)
    assert width == pytest.approx(np.mean([b - a for a, b in ends]) / np.sqrt(8), rel=0.15)
    assert np.isnan(fixed_mean_interval([])).all()
