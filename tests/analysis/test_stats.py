from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.resample import fixed_mean_interval, holm, mean_interval, sign_flip
from lovasz_repro.analysis.scores import SIZES, Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.errors import UserError
from lovasz_repro.records import MEASURES, Cell, Records, load
from tests.helpers.synthetic import write_study

CATEGORIES = ("bird", "boat", "bus", "cat")
LOSSES = (*MEASURES, "mixed")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    runs = tmp_path_factory.mktemp("whole")
    write_study(runs, categories=CATEGORIES, losses=LOSSES)
    return load(runs)


@pytest.fixture(scope="module")
def scores(records: Records) -> Scores:
    return Scores(records)


def without(records: Records, *cells: Cell) -> Records:
    """The same records with these cells not run."""
    keys = ["category", "loss", "fold", "seed"]
    gone = pd.MultiIndex.from_tuples([(c.category, c.loss, c.fold, c.seed) for c in cells])
    kept = ~pd.MultiIndex.from_frame(records.images[keys]).isin(gone)
    return Records(**{**vars(records), "images": records.images[kept]})


def by_hand(images: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean over the images of all folds and seeds: (categories, losses); cells are of one size."""
    return images.groupby(["category", "loss"])[column].mean().unstack()


def test_levels_are_means_over_images(records: Records, scores: Scores) -> None:
    for column in ("iou", "tuned_iou", "hinge"):
        found = stats.levels(scores, column).set_index(["category", "loss"])["value"].unstack()
        expected = by_hand(records.images, column)
        pd.testing.assert_frame_equal(found, expected, check_names=False)


def test_dataset_iou_is_a_ratio_of_sums(records: Records, scores: Scores) -> None:
    for prefix in ("", "tuned_"):
        counts = [f"{prefix}{name}" for name in ("tp", "fp", "fn")]
        sums = records.images.groupby(["category", "loss"])[counts].sum()
        expected = (sums[counts[0]] / sums.sum(axis=1)).unstack()
        table = stats.levels(scores, f"{prefix}dataset_iou").set_index(["category", "loss"])
        pd.testing.assert_frame_equal(table["value"].unstack(), expected, check_names=False)
    assert table["value"].between(table["low"], table["high"]).all()


def test_mean_differences_stand_on_the_categories(records: Records, scores: Scores) -> None:
    values = by_hand(records.images, "iou")
    table = stats.mean_differences(scores).set_index("loss")
    assert list(table.index) == [loss for loss in LOSSES if loss != REFERENCE]
    for loss, row in table.iterrows():
        gain = (values[loss] - values[REFERENCE]).to_numpy()
        assert row["difference"] == pytest.approx(gain.mean())
        assert row["difference"] == pytest.approx(row["value"] - row["reference_value"])
        np.testing.assert_allclose([row["low"], row["high"]], mean_interval(gain))
        assert row["p"] == sign_flip(gain)
        assert (row["categories"], row["cells"]) == (4, 16)
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))


def test_differences_per_category_are_paired(records: Records, scores: Scores) -> None:
    table = stats.differences(scores)
    values = by_hand(records.images, "iou")
    gains = values.sub(values[REFERENCE], axis=0)
    expected = [gains.loc[row.category, row.loss] for row in table.itertuples()]
    np.testing.assert_allclose(table["difference"], expected)
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))
    # Losses share the images and their difficulty: unpaired, the width would be that of two levels.
    both = [f(scores, "iou", "present") for f in (stats.differences, stats.levels)]
    paired, level = ((t["high"] - t["low"]).mean() for t in both)
    assert paired < 0.8 * np.sqrt(2) * level


def test_subsets_split_the_images(records: Records, scores: Scores) -> None:
    images = records.images
    for subset, flag in (("present", 1), ("absent", 0)):
        expected = by_hand(images[images["has_category"] == flag], "iou")
        table = stats.levels(scores, subset=subset).set_index(["category", "loss"])
        pd.testing.assert_frame_equal(table["value"].unstack(), expected, check_names=False)
    table = stats.by_presence(scores)
    whole = stats.mean_differences(scores).set_index("loss")["difference"]
    # Half of the images are of each kind.
    pd.testing.assert_series_equal(
        table.groupby("loss")["difference"].mean(), whole, check_like=True
    )


def test_sizes_are_quarters_of_each_categorys_objects(records: Records, scores: Scores) -> None:
    rows = records.images[records.images["has_category"] == 1].copy()
    quarter = rows.groupby("category")["object_fraction"].transform(
        lambda fraction: pd.qcut(fraction, 4, labels=False)
    )
    table = stats.by_size(scores).set_index(["subset", "loss"])
    for index, size in enumerate(SIZES):
        values = by_hand(rows[quarter == index], "iou")
        gain = (values["lovasz_hinge"] - values[REFERENCE]).mean()
        assert table.loc[(size, "lovasz_hinge"), "difference"] == pytest.approx(gain)
    assert table["fraction_low"].is_monotonic_increasing
    assert (table["fraction_low"] < table["fraction_high"]).all()


def test_missed_and_false_add_up_to_what_iou_lacks(scores: Scores) -> None:
    table = stats.gap_filling(scores).pivot(index="loss", columns="measure", values="difference")
    gain = stats.mean_differences(scores, "iou", "present").set_index("loss")["difference"]
    np.testing.assert_allclose(
        table["missed"] + table["false"], -gain[table.index], atol=1e-6
    )  # CSV: 7 digits


def test_recall_leaves_out_images_without_an_object(records: Records, scores: Scores) -> None:
    rows = records.images[records.images["has_category"] == 1].copy()
    rows["recall"] = rows["tp"] / (rows["tp"] + rows["fn"])
    found = stats.levels(scores, "recall").set_index(["category", "loss"])["value"].unstack()
    pd.testing.assert_frame_equal(found, by_hand(rows, "recall"), check_names=False)


def test_what_a_chosen_threshold_changes(records: Records, scores: Scores) -> None:
    plain, tuned = (by_hand(records.images, name).mean() for name in ("iou", "tuned_iou"))
    table = stats.gains_by_choosing(scores).set_index("loss")["difference"]
    assert table.to_dict() == pytest.approx((tuned - plain).to_dict())


def test_own_measure_matrix_marks_the_best(scores: Scores) -> None:
    table = stats.own_measure_matrix(scores)
    best = table[table["best"]].set_index("measure")["loss"]
    assert len(table) == 6 * len(LOSSES)
    assert all(best[measure] == measure for measure in MEASURES)
    assert best["iou"] == "lovasz_hinge"


def test_a_category_with_a_missing_cell_is_left_out_not_averaged(records: Records) -> None:
    scores = Scores(without(records, Cell("boat", "hinge", 1, 0)))
    table = stats.mean_differences(scores).set_index("loss")
    assert (table.loc["hinge", "categories"], table.loc["hinge", "cells"]) == (3, 12)
    assert table.loc["mixed", "categories"] == 4
    rest = by_hand(records.images, "iou").drop("boat")
    assert table.loc["hinge", "value"] == pytest.approx(rest["hinge"].mean())
    assert table.loc["hinge", "reference_value"] == pytest.approx(rest[REFERENCE].mean())
    levels = stats.mean_levels(scores).set_index("loss")
    assert (levels["categories"] == 3).all()
    assert levels.loc["mixed", "value"] == pytest.approx(rest["mixed"].mean())
    assert "boat" not in set(stats.differences(scores).query("loss == 'hinge'")["category"])
    shown = stats.levels(scores).set_index(["category", "loss"]).loc[("boat", "hinge")]
    assert (shown["cells"], shown["expected_cells"]) == (3, 4)


def test_a_loss_without_cells_is_shown_as_missing(records: Records) -> None:
    cells = [cell for cell in records.grid.cells() if cell.loss == "mixed"]
    scores = Scores(without(records, *cells))
    row = stats.mean_levels(scores).set_index("loss").loc["mixed"]
    assert np.isnan([row["value"], row["low"], row["high"]]).all()
    assert row["categories"] == 0
    assert stats.mean_levels(scores).set_index("loss").loc["hinge", "categories"] == 4
    assert np.isnan(stats.mean_differences(scores).set_index("loss").loc["mixed", "p_holm"])


TABLES: list[Callable[[Scores], pd.DataFrame]] = [
    stats.levels,
    stats.mean_levels,
    stats.differences,
    stats.mean_differences,
    stats.own_measure_matrix,
    stats.by_presence,
    stats.by_size,
    stats.gap_filling,
    stats.gains_by_choosing,
]


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_the_same_each_time_and_stand_empty(
    table: Callable[[Scores], pd.DataFrame], records: Records, scores: Scores
) -> None:
    shuffled = Records(**{**vars(records), "images": records.images.sample(frac=1, random_state=0)})
    first = table(scores)
    pd.testing.assert_frame_equal(table(Scores(shuffled)), first, check_exact=True)
    empty = table(Scores(without(records, *records.grid.cells())))
    assert list(empty.columns) == list(first.columns)
    assert "difference" not in empty or empty["difference"].isna().all()


def test_cells_with_different_images_are_refused(records: Records) -> None:
    images = records.images.copy()
    cell = Cell("bird", "hinge", 0, 1)
    rows = images.query("category == 'bird' and loss == 'hinge' and fold == 0 and seed == 1").index
    images.loc[rows[0], "id"] = "another"
    with pytest.raises(UserError, match=cell.path):
        Scores(Records(**{**vars(records), "images": images}))


def test_unknown_names_are_refused(scores: Scores) -> None:
    with pytest.raises(ValueError, match="precision"):
        scores.values(["bird"], Arm("hinge", "precision"))
    with pytest.raises(ValueError, match="tuned_hinge"):
        scores.values(["bird"], Arm("hinge", "tuned_hinge"))
    with pytest.raises(ValueError, match="size5"):
        scores.values(["bird"], Arm("hinge"), "size5")


def test_one_seed_and_one_fold_are_enough(tmp_path: Path) -> None:
    write_study(tmp_path, categories=["bird"], losses=LOSSES[:2], folds=[0], seeds=[0])
    scores = Scores(load(tmp_path))
    row = stats.differences(scores).iloc[0]
    assert row["low"] < row["difference"] < row["high"]
    mean = stats.mean_differences(scores).iloc[0]
    assert mean["difference"] == pytest.approx(row["difference"])
    assert np.isnan(mean["low"])


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Three partitions of two folds. Folds 2 and 4 score the images of fold 0 again, and in the
    last partition all images with the category gain 0.05 more under the Lovász hinge."""
    runs = tmp_path_factory.mktemp("repeated")
    write_study(runs, categories=CATEGORIES, losses=LOSSES, folds=range(6), seeds=[0])
    records = load(runs)
    images = records.images.copy()
    fold, number = images["fold"] % 2, images["id"].str[-5:]
    images["id"] = "2007_" + fold.astype(str) + number
    last = (images["fold"] >= 4) & (images["loss"] == "lovasz_hinge") & (images["has_category"] > 0)
    images.loc[last, "iou"] += 0.05
    config = {**records.study["config"], "cells": {"folds_per_partition": 2}}
    changed = {"images": images, "study": {**records.study, "config": config}}
    return Records(**{**vars(records), **changed})


class TestPartitions:
    def test_an_image_counts_once_with_its_mean(self, repeated: Records) -> None:
        scores = Scores(repeated)
        ((terms, _),) = scores.folds("cat", [Arm("lovasz_hinge")])
        assert terms.shape == (80, 1, 3, 2)
        rows = repeated.images[
            (repeated.images["category"] == "cat") & (repeated.images["loss"] == "lovasz_hinge")
        ]
        expected = rows.groupby("id")["iou"].mean().sort_index()
        np.testing.assert_allclose(terms[:, 0, :, 0].mean(axis=1), expected)
        levels = stats.levels(scores).set_index(["category", "loss"])
        assert levels.loc[("cat", "lovasz_hinge"), "images"] == 80
        assert levels.loc[("cat", "lovasz_hinge"), "value"] == pytest.approx(expected.mean())

    def test_images_of_one_partition_alone_stay_in(self, repeated: Records) -> None:
        images = repeated.images.copy()
        negative = (images["fold"] >= 4) & (images["has_category"] == 0)
        images.loc[negative, "id"] = "other" + images.loc[negative, "id"].astype(str)
        scores = Scores(Records(**{**vars(repeated), "images": images}))
        ((terms, _),) = scores.folds("cat", [Arm("hinge")])
        assert len(terms) == 80 + 40
        assert (terms[..., 1].sum(axis=(1, 2)) > 0).all()
        values = scores.values(["cat"], Arm("hinge"))
        own = images[(images["category"] == "cat") & (images["loss"] == "hinge")]
        assert values["cat"] == pytest.approx(own["iou"].mean())

    def test_their_spread_is_in_the_intervals(self, repeated: Records) -> None:
        scores = Scores(repeated)
        arm, against = Arm("lovasz_hinge"), Arm(REFERENCE)
        row = stats.compare(scores, arm, against)
        assert list(scores.random_folds) == list(range(6))
        table = pd.DataFrame(
            {fold: stats.gains(one, arm, against) for fold, one in scores.random_folds.items()}
        )  # a row per category, a column per fold
        assert row["difference"] == pytest.approx(table.mean().mean())
        # Two-way analysis of variance: a sum of squares at a time.
        units, folds = table.shape
        between = units * table.mean().var()
        total = ((table - table.mean().mean()) ** 2).sum().sum()
        rest = total - between * (folds - 1) - folds * table.mean(axis=1).var() * (units - 1)
        excess = (between - rest / ((units - 1) * (folds - 1))) / (units * folds)
        spread = np.sqrt(excess) * scipy.stats.t.ppf(0.975, folds - 1)
        assert spread > 0.01
        low, high = mean_interval(stats.gains(scores, arm, against).to_numpy())
        expected = np.hypot((high - low) / 2, spread)
        assert (row["high"] - row["low"]) / 2 == pytest.approx(expected)

    def test_quarters_of_size_are_those_of_all_folds(self, repeated: Records) -> None:
        scores = Scores(repeated)
        for one in scores.random_folds.values():
            assert one.borders is scores.borders

    def test_one_that_has_just_begun_has_no_level_of_the_losses_to_come(
        self, repeated: Records
    ) -> None:
        begun = [cell for cell in repeated.grid.cells() if cell.fold >= 4]
        first = begun[0]
        scores = Scores(without(repeated, *begun[1:]))
        levels = stats.mean_levels(scores).set_index("loss")
        assert set(levels["categories"]) == {len(CATEGORIES) - 1}
        assert np.isfinite(levels[["value", "low", "high"]].to_numpy()).all()
        last = scores.random_folds[first.fold]
        assert list(stats.level(last, Arm(first.loss)).index) == [first.category]
        assert stats.level(last, Arm("hinge")).empty

    def test_one_partition_has_no_spread(self, scores: Scores, repeated: Records) -> None:
        images = repeated.images[repeated.images["fold"].isin([2, 3])]
        for one in (scores, Scores(replace(repeated, images=images))):
            assert one.partitions == 1
            assert one.random_folds == {}


@pytest.mark.parametrize("folds", [4, 6])
@pytest.mark.parametrize("shared", [0.0, 0.1, 0.8])
def test_the_interval_covers_what_all_units_of_a_fold_share(folds: int, shared: float) -> None:
    """20 units, whose own spread and rest are as in the studies."""
    draw = np.random.default_rng(folds)
    hits: list[bool] = []
    without: list[bool] = []
    for _ in range(400):
        values = draw.normal(0, shared, (folds, 1)) + draw.normal(0, 0.5, 20)
        values += draw.normal(0, 0.8, (folds, 20))
        for found, parts in ((hits, list(values)), (without, [])):
            low, high = mean_interval(values.mean(axis=0), parts)
            found.append(bool(low <= 0 <= high))
    assert 0.93 <= np.mean(hits) <= 0.99
    assert shared < 0.5 or np.mean(without) < 0.8


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_the_interval_of_these_units_covers_what_folds_do(shared: float) -> None:
    """The units' own parts are fixed; images are part of the rest, the others training runs."""
    draw = np.random.default_rng(3)
    units = draw.normal(0, 0.5, 20)
    hits, wider = [], []
    for _ in range(300):
        values = units + draw.normal(0, shared, (6, 1)) + draw.normal(0, 0.6, (6, 20))
        mean = values.mean(axis=0)
        images = [x + draw.normal(0, 0.3 / np.sqrt(6), 500) for x in mean]
        categories: list[Any] = [
            SimpleNamespace(value=x, values=np.resize(near, 1_999), share=0, training_variances=[])
            for x, near in zip(mean, images, strict=True)
        ]
        low, high = fixed_mean_interval(categories, list(values))
        hits.append(bool(low <= units.mean() <= high))
        wider.append(np.ptp(mean_interval(mean, list(values))) > high - low)
    assert 0.93 <= np.mean(hits) <= 0.99
    assert np.mean(wider) > 0.99


def test_what_folds_lack_is_left_out() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(0, 1, (4, 20)) + draw.normal(0, 1, (4, 1))
    whole = values.mean(axis=0)
    expected = mean_interval(whole, list(values))
    nothing = np.full(20, np.nan)
    np.testing.assert_array_equal(mean_interval(whole, [*values, nothing]), expected)
    np.testing.assert_array_equal(mean_interval(whole, [values[0], nothing]), mean_interval(whole))
    more, ends = np.append(whole, 0.0), np.full((4, 1), [[np.nan]])
    lacking = list(np.concatenate([values, ends], axis=1))
    np.testing.assert_allclose(
        np.ptp(mean_interval(more, lacking)) ** 2 - np.ptp(mean_interval(more)) ** 2,
        np.ptp(expected) ** 2 - np.ptp(mean_interval(whole)) ** 2,
    )
