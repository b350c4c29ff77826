"""The surrogates against brute force, and against quadrature in the limit of many pixels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from lovasz_repro.report.surrogates import BIASES, LABELINGS, sweep, two_pixels

INTEGRATION_ERROR = 2e-3  # of 10,000 quantiles against the distribution they stand for


def jaccard_loss(wrong: set[int], foreground: set[int]) -> float:
    return len(wrong) / len(foreground | wrong) if wrong else 0.0


def lovasz_extension(errors: list[float], foreground: set[int]) -> float:
    """By the definition as an integral over thresholds of the Jaccard loss of {error > t}."""
    ends = sorted({0.0, *(error for error in errors if error > 0)})
    total = 0.0
    for low, high in itertools.pairwise(ends):
        total += (high - low) * jaccard_loss(
            {i for i, e in enumerate(errors) if e > low}, foreground
        )
    return total


@pytest.mark.parametrize("labeling", LABELINGS)
def test_two_pixels_are_the_lovasz_extension(labeling: tuple[int, int]) -> None:
    axis = np.linspace(-2, 2, 9)
    values = two_pixels(labeling, axis)
    foreground = {i for i, label in enumerate(labeling) if label}
    signs = [1 if label else -1 for label in labeling]
    for (row, second), (column, first) in itertools.product(enumerate(axis), enumerate(axis)):
        errors = [1 - sign * score for sign, score in zip(signs, (first, second), strict=True)]
        assert values[row, column] == pytest.approx(lovasz_extension(errors, foreground))


@pytest.mark.parametrize("bias", [-2.0, -0.5, 1.0])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_sweep_is_the_limit_of_many_pixels(share: float, bias: float) -> None:
    """Foreground errors are N(1/2 - b, 1), background errors N(1/2 + b, 1)."""
    one = sweep(share)
    place = int((BIASES - bias).abs().argmin())
    on, off = norm(0.5 - bias), norm(0.5 + bias)

    def jaccard_above(threshold: float) -> float:
        missed, false = share * on.sf(threshold), (1 - share) * off.sf(threshold)
        return float((missed + false) / (share + false))

    def mean(loss: object) -> float:
        assert callable(loss)
        parts = [quad(lambda e, n=n: loss(e) * n.pdf(e), -12, 12, limit=200)[0] for n in (on, off)]
        return float(share * parts[0] + (1 - share) * parts[1])

    expected = {
        "jaccard": jaccard_above(1.0),  # wrong where the margin is below zero
        "lovasz_hinge": quad(jaccard_above, 0, 12)[0],
        "hinge": mean(lambda error: max(error, 0.0)),
        "cross_entropy": mean(lambda error: math.log1p(math.exp(error - 1))),
    }
    for name, value in expected.items():
        assert one.values[name][place] == pytest.approx(value, abs=INTEGRATION_ERROR), name


def test_cross_entropy_asks_for_the_log_odds() -> None:
    """The posterior of these scores is logistic in score + log-odds of the prior."""
    assert sweep(0.1).bias("cross_entropy") == pytest.approx(math.log(0.1 / 0.9), abs=0.05)


def test_the_lovasz_hinge_comes_closest_where_classes_are_even() -> None:
    one = sweep(0.5)
    distance = {name: abs(one.bias(name) - one.bias("jaccard")) for name in one.values}
    del distance["jaccard"]
    assert min(distance, key=distance.__getitem__) == "lovasz_hinge"
