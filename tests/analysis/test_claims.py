from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from lovasz_repro.analysis.claims import Claim, claims
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import these_interval
from lovasz_repro.records import MEASURES, Cell, Grid, Records, load
from tests.helpers.synthetic import EFFECT, known, write_study

KEYS = ["best_image_iou", "own_measure", "carry_over", "small_objects", "gap_filling"]


def study(effect: Mapping[str, float] = EFFECT, losses: tuple[str, ...] = MEASURES) -> Records:
    return known(effect, losses)


def judged(records: Records) -> dict[str, Claim]:
    found = claims(Scores(records))
    assert [claim.key for claim in found] == KEYS
    return {claim.key: claim for claim in found}


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.12, "reproduced"), (-0.12, "not reproduced"), (0.0, "undecided")]
)
def test_verdicts_follow_a_known_effect(shift: float, verdict: str) -> None:
    found = judged(study({"lovasz_hinge": shift}))
    for key in ("best_image_iou", "carry_over", "gap_filling"):
        claim = found[key]
        assert claim.verdict == verdict
        assert claim.low < claim.effect < claim.high
    assert found["carry_over"].effect == pytest.approx(shift, abs=0.05)
    # Where all sizes gain alike the smallest do not gain most, and where all lose they do not gain.
    assert found["small_objects"].verdict == ("not reproduced" if shift < 0 else "undecided")


def test_each_loss_is_best_on_its_own_measure_until_one_is_not() -> None:
    records = study()
    assert judged(records)["own_measure"].verdict == "reproduced"
    images = records.images.copy()
    # Soft Jaccard is not in the paper's table: whatever it does, no claim of the paper changes.
    images.loc[images["loss"] == "soft_jaccard", list(MEASURES)] -= 0.5
    apart = judged(Records(**{**vars(records), "images": images}))
    assert apart["own_measure"].verdict == "reproduced"
    images.loc[images["loss"] == "hinge", "lovasz_hinge"] -= 0.3
    changed = judged(Records(**{**vars(records), "images": images}))["own_measure"]
    assert changed.verdict == "not reproduced"
    assert "5 of 6" in changed.explanation
    assert "by the Lovász hinge against training with hinge" in changed.explanation
    assert "Soft Jaccard is left out" in changed.explanation


def test_small_objects_gain_most_when_they_do() -> None:
    records = study()
    images = records.images.copy()
    small = (images["loss"] == "lovasz_hinge") & images["object_fraction"].between(1e-9, 0.03)
    images.loc[small, "iou"] += 0.4
    assert judged(Records(**{**vars(records), "images": images}))["small_objects"].verdict == (
        "reproduced"
    )


def test_small_objects_that_lose_least_do_not_gain() -> None:
    records = study()
    images = records.images.copy()
    images.loc[images["loss"] == "lovasz_hinge", "iou"] -= 0.3
    small = (images["loss"] == "lovasz_hinge") & images["object_fraction"].between(1e-9, 0.03)
    images.loc[small, "iou"] += 0.1
    claim = judged(Records(**{**vars(records), "images": images}))["small_objects"]
    assert claim.verdict == "not reproduced"
    assert claim.explanation.startswith("No quarter gains; the smallest objects lose least (−")


def test_small_objects_must_gain_more_than_each_other_quarter() -> None:
    records = study({"lovasz_hinge": 0.12})
    images = records.images.copy()
    halves = images["object_fraction"].where(images["has_category"] > 0)
    middle = halves.groupby(images["category"]).transform("median")
    images.loc[(images["loss"] == "lovasz_hinge") & (halves <= middle), "iou"] += 0.3
    claim = judged(Records(**{**vars(records), "images": images}))["small_objects"]
    assert claim.verdict == "undecided"
    assert claim.hardest == "gain on the smallest quarter minus gain on the second"


def test_a_lower_threshold_alone_fills_no_gaps() -> None:
    records = study({"lovasz_hinge": 0.12})
    assert judged(records)["gap_filling"].verdict == "reproduced"
    images = records.images.copy()
    keys = ["category", "fold", "seed", "id"]
    reference = images[images["loss"] == "cross_entropy"].set_index(keys)
    own = images["loss"] == "lovasz_hinge"
    at = pd.MultiIndex.from_frame(images.loc[own, keys])
    for column in ("tuned_tp", "tuned_fn"):
        images.loc[own, column] = reference.loc[at, column].to_numpy()
    claim = judged(Records(**{**vars(records), "images": images}))["gap_filling"]
    assert (claim.verdict, claim.effect) == ("undecided", 0)
    assert claim.hardest == "recall with both thresholds chosen"


def test_the_interval_for_these_categories_is_of_the_hardest_rival() -> None:
    records = study({"lovasz_hinge": 0.12, "hinge": 0.1})
    scores = Scores(records)
    claim = claims(scores)[0]
    assert claim.hardest == "against hinge"
    ends = these_interval(scores, Arm("lovasz_hinge"), Arm("hinge"))
    assert (claim.these_low, claim.these_high) == ends
    assert ends[0] < claim.effect < ends[1]


def test_another_loss_that_is_better_does_not_touch_the_paper_s_claim() -> None:
    effect = {"lovasz_hinge": 0.12, "soft_jaccard": 0.3}
    assert judged(study(effect))["best_image_iou"].verdict == "reproduced"


def test_the_strongest_rival_decides() -> None:
    claim = judged(study({"lovasz_hinge": 0.12, "hinge": 0.12}))["best_image_iou"]
    assert claim.verdict == "undecided"
    assert "1 of 2" in claim.explanation
    assert "against hinge" in claim.explanation


def test_losses_without_any_difference_are_undecided() -> None:
    records = study()
    same = records.images.assign(**{name: 0.5 for name in ("iou", *MEASURES)})
    found = judged(Records(**{**vars(records), "images": same}))
    for key in ("best_image_iou", "own_measure", "carry_over", "small_objects"):
        assert (found[key].verdict, found[key].effect) == ("undecided", 0)


def test_missing_losses_are_named() -> None:
    found = judged(study(losses=("cross_entropy", "lovasz_hinge")))
    assert found["carry_over"].verdict != "undecided"
    for key in ("best_image_iou", "own_measure"):
        assert found[key].verdict == "undecided"
        assert found[key].explanation == "Needs cells trained with hinge."
        assert math.isnan(found[key].effect)


def test_one_comparable_category_is_not_enough(tmp_path: Path) -> None:
    runs, categories = tmp_path / "runs", ("bird", "cat")
    missing = [Cell("cat", "lovasz_hinge", 0, 0)]
    assert missing[0] in Grid(categories, MEASURES, [0], [0]).cells()
    write_study(runs, categories=categories, losses=MEASURES, seeds=[0], missing=missing)
    for claim in judged(load(runs)).values():
        assert claim.verdict == "undecided"
        assert claim.explanation.startswith("Needs two categories or more")
