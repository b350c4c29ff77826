"""The verdict on Lovász-Softmax, from tables whose answer is known."""

from __future__ import annotations

import pandas as pd
import pytest

from lovasz_repro.analysis.multiclass import claim, largest_move
from lovasz_repro.records import UNTRAINED


def table(
    lovasz: float, low: float, high: float, reference: float, untrained: float
) -> pd.DataFrame:
    gain = {"difference": lovasz - reference, "difference_low": low, "difference_high": high}
    rows = [
        {"loss": "cross_entropy", "value": reference, "batch_size": 10, "cells": 6},
        {"loss": "lovasz_softmax", "value": lovasz, "batch_size": 10, "cells": 6, **gain},
        {"loss": UNTRAINED, "value": untrained, "batch_size": 0, "cells": 2},
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.52, 0.01, 0.03, 0.50, 0.48), "reproduced"),
        ((0.48, -0.03, -0.01, 0.50, 0.48), "not reproduced"),
        ((0.505, -0.01, 0.02, 0.50, 0.48), "undecided"),
        ((0.5002, -0.001, 0.001, 0.50, 0.4999), "not tested"),
        # A loss that has moved the network was put to the test, even where the verdict is open.
        ((0.5002, -0.001, 0.001, 0.50, 0.4985), "undecided"),
        # A difference that is clear stays clear, however small.
        ((0.5004, 0.0001, 0.0007, 0.50, 0.50), "reproduced"),
    ],
)
def test_a_claim_is_not_tested_where_no_loss_moves_the_network(
    values: tuple[float, float, float, float, float], verdict: str
) -> None:
    found = claim(table(*values))
    assert found.verdict == verdict
    assert ("No loss" in found.explanation) == (verdict == "not tested")


def test_without_the_network_before_fine_tuning_nothing_is_said_of_it() -> None:
    rows = table(0.5002, -0.001, 0.001, 0.50, 0.4999)
    rows = rows[rows["loss"] != UNTRAINED]
    assert pd.isna(largest_move(rows))
    assert claim(rows).verdict == "undecided"
