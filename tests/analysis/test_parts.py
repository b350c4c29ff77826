"""Table 1, the parts of a gain, prevalence and thresholds, against sums by hand on a few images."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lovasz_repro.analysis.decompose import PARTS, decomposition
from lovasz_repro.analysis.headline import BACKGROUND, UNTRAINED_TUNED, headline
from lovasz_repro.analysis.prevalence import NATURAL, SHARES, crossings, prevalence_gains
from lovasz_repro.analysis.resample import mean_interval
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.analysis.thresholds import chosen_thresholds, threshold_curves
from lovasz_repro.records import UNTRAINED, Cell, Records, load
from tests.helpers import synthetic
from tests.helpers.synthetic import write_study

CATEGORIES = ("bird", "boat", "bus")
LOSSES = (REFERENCE, "soft_jaccard", "lovasz_hinge", UNTRAINED)
# 7 images: 4 with the category and 3 without, so that a half is not half of them.
IMAGES = 7


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    runs = tmp_path_factory.mktemp("few")
    write_study(runs, categories=CATEGORIES, losses=LOSSES, images_per_cell=IMAGES)
    return load(runs)


@pytest.fixture(scope="module")
def scores(records: Records) -> Scores:
    return Scores(records)


def mean(records: Records, category: str, loss: str, column: str, present: int | None) -> float:
    """Over the rows of images.csv, one after the other; `present`: of those images only."""
    values = [
        row[column]
        for _, row in records.images.iterrows()
        if (row["category"], row["loss"]) == (category, loss)
        and present in (None, row["has_category"])
    ]
    return float(sum(values) / len(values))


def gain(records: Records, loss: str, column: str, present: int | None = None) -> np.ndarray:
    """By category."""
    return np.array(
        [
            mean(records, category, loss, column, present)
            - mean(records, category, REFERENCE, column, present)
            for category in CATEGORIES
        ]
    )


class TestHeadline:
    def test_levels_and_gains_are_means_over_images(self, records: Records, scores: Scores) -> None:
        table = headline(scores).set_index("row")
        assert list(table.index) == [*LOSSES, UNTRAINED_TUNED, BACKGROUND]
        for loss in LOSSES:
            for column, source, present in (
                ("value", "iou", None), ("present", "iou", 1), ("absent", "iou", 0),
                ("tuned", "tuned_iou", None),
            ):  # fmt: skip
                expected = np.mean([mean(records, c, loss, source, present) for c in CATEGORIES])
                assert table.loc[loss, column] == pytest.approx(expected), (loss, column)
            if loss != REFERENCE:
                by_hand = gain(records, loss, "iou")
                assert table.loc[loss, "difference"] == pytest.approx(by_hand.mean())
                ends = table.loc[loss, ["difference_low", "difference_high"]].to_numpy(float)
                np.testing.assert_allclose(ends, mean_interval(by_hand))

    def test_dataset_iou_is_a_ratio_of_sums(self, records: Records, scores: Scores) -> None:
        rows = records.images.query("loss == 'lovasz_hinge'")
        sums = rows.groupby("category")[["tp", "fp", "fn"]].sum()
        expected = (sums["tp"] / sums.sum(axis=1)).mean()
        found = headline(scores).set_index("row").loc["lovasz_hinge", "dataset_iou"]
        assert found == pytest.approx(expected)

    def test_no_foreground_scores_the_share_of_images_without_the_category(
        self, scores: Scores
    ) -> None:
        row = headline(scores).set_index("row").loc[BACKGROUND]
        assert row["value"] == pytest.approx(3 / 7)
        assert (row["present"], row["absent"], row["dataset_iou"]) == (0, 1, 0)

    def test_the_untrained_network_at_its_threshold(self, records: Records, scores: Scores) -> None:
        table = headline(scores).set_index("row")
        chosen = table.loc[UNTRAINED_TUNED]
        assert chosen["value"] == table.loc[UNTRAINED, "tuned"]
        reference = table.loc[REFERENCE, "tuned"]  # like with like
        assert chosen["difference"] == pytest.approx(chosen["value"] - reference)
        assert np.isnan(chosen["tuned"])

    def test_categories_that_differ_widen_one_interval_only(self, tmp_path: Path) -> None:
        """A gain that is large in some categories and small in others is uncertain for categories
        like these; for these categories it is not."""
        names = synthetic.CATEGORIES[:10]
        write_study(tmp_path, categories=names, losses=LOSSES[:3], seeds=(0,), images_per_cell=40)
        records = load(tmp_path)
        images = records.images.copy()
        step = images["category"].map(names.index) / 20
        images["iou"] += np.where(images["loss"] == "lovasz_hinge", step, 0)
        table = headline(Scores(Records(**{**vars(records), "images": images}))).set_index("row")
        row = table.loc["lovasz_hinge"]
        like_these = row["difference_high"] - row["difference_low"]
        these = row["these_high"] - row["these_low"]
        assert row["these_low"] < row["difference"] < row["these_high"]
        assert these < 0.5 * like_these

    def test_without_cells_every_row_is_there_and_empty(self, records: Records) -> None:
        empty = Records(**{**vars(records), "images": records.images.iloc[:0]})
        table = headline(Scores(empty))
        assert table["value"].isna().all()
        assert (table["categories"] == 0).all()


class TestDecomposition:
    def test_parts_are_those_of_the_images(self, records: Records, scores: Scores) -> None:
        table = decomposition(scores).set_index(["part", "loss"])
        share = 4 / 7
        for loss in LOSSES[1:]:
            chosen = gain(records, loss, "tuned_iou")
            whole = gain(records, loss, "iou")
            oracle = gain(records, loss, "oracle_iou", 1)
            present = gain(records, loss, "iou", 1)
            expected = {
                "gain": whole,
                "operating_point": whole - chosen,
                "both_chosen": chosen,
                "present": share * present,
                "absent": (1 - share) * gain(records, loss, "iou", 0),
                "shape": share * oracle,
                "placement": share * (present - oracle),
                "oracle": oracle,
            }
            assert set(expected) == set(PARTS)
            for part, values in expected.items():
                row = table.loc[(part, loss)]
                assert row["difference"] == pytest.approx(values.mean(), abs=1e-12), part
                np.testing.assert_allclose(
                    [row["low"], row["high"]], mean_interval(values), atol=1e-12
                )

    def test_what_adds_up(self, scores: Scores) -> None:
        table = decomposition(scores).pivot(index="loss", columns="part", values="difference")
        for whole, *parts in (
            ("gain", "operating_point", "both_chosen"),
            ("gain", "present", "absent"),
            ("present", "shape", "placement"),
        ):
            np.testing.assert_allclose(table[parts].sum(axis=1), table[whole], atol=1e-12)

    def test_a_lower_threshold_alone_has_no_shape(self, records: Records) -> None:
        """A loss that differs by its operating point only: better at 0, equal where it is chosen,
        equal at each image's own threshold."""
        images = records.images.copy()
        keys = ["category", "fold", "seed", "id"]
        reference = images[images["loss"] == REFERENCE].set_index(keys)
        mine = images["loss"] == "lovasz_hinge"
        index = pd.MultiIndex.from_frame(images.loc[mine, keys])
        for column in ("tuned_iou", "oracle_iou"):
            images.loc[mine, column] = reference[column].loc[index].to_numpy()
        changed = Scores(Records(**{**vars(records), "images": images}))
        row = decomposition(changed).pivot(index="loss", columns="part", values="difference").loc[
            "lovasz_hinge"
        ]  # fmt: skip
        assert row["operating_point"] == pytest.approx(row["gain"])
        assert (row["both_chosen"], row["shape"]) == (0, 0)


class TestPrevalence:
    def test_it_is_the_mean_over_a_reweighted_set(self, records: Records, scores: Scores) -> None:
        """At a share of 4 in 7 nothing is reweighted; at others, weights of the images do it."""
        table = prevalence_gains(scores).set_index(["loss", "share"])
        for share in (SHARES[0], NATURAL, SHARES[-1]):
            weighted = []
            for category in CATEGORIES:
                own = records.images[records.images["category"] == category]
                values = {}
                for loss in ("lovasz_hinge", REFERENCE):
                    rows = own[own["loss"] == loss]
                    present = rows["has_category"] == 1
                    weights = np.where(
                        present, share / present.sum(), (1 - share) / (~present).sum()
                    )
                    values[loss] = np.average(rows["iou"], weights=weights)
                weighted.append(values["lovasz_hinge"] - values[REFERENCE])
            row = table.loc[("lovasz_hinge", share)]
            assert row["difference"] == pytest.approx(np.mean(weighted))
            ends = mean_interval(np.array(weighted))
            np.testing.assert_allclose([row["low"], row["high"]], ends)

    def test_losses_cross_where_their_curves_do(self, records: Records) -> None:
        images = records.images.copy()
        for loss, shift in (("soft_jaccard", 0.06), ("lovasz_hinge", -0.02)):
            images.loc[images["loss"] == loss, "iou"] = 0.5
            with_it = (images["loss"] == loss) & (images["has_category"] == 1)
            images.loc[with_it, "iou"] += shift
            without = (images["loss"] == loss) & (images["has_category"] == 0)
            images.loc[without, "iou"] -= shift / 4
        scores = Scores(Records(**{**vars(records), "images": images}))
        # 0.06 π - 0.015 (1 - π) = -0.02 π + 0.005 (1 - π), so π = 0.02 / 0.1
        found = crossings(scores).query("above == 'lovasz_hinge' and below == 'soft_jaccard'")
        assert found["share"].tolist() == [pytest.approx(0.2)]
        gains = prevalence_gains(scores).pivot(index="share", columns="loss", values="difference")
        ahead = gains["lovasz_hinge"] > gains["soft_jaccard"]
        assert ahead[ahead.index < 0.2].all()
        assert not ahead[ahead.index > 0.2].any()

    def test_the_natural_share_is_on_the_grid(self) -> None:
        assert NATURAL in SHARES
        assert (SHARES[0], SHARES[-1]) == (0.02, 0.5)

    def test_no_cells_no_rows(self, records: Records) -> None:
        empty = Scores(Records(**{**vars(records), "images": records.images.iloc[:0]}))
        assert prevalence_gains(empty).empty
        assert crossings(empty).empty


class TestThresholds:
    def test_curves_are_means_over_cells_and_categories(
        self, records: Records, scores: Scores
    ) -> None:
        table = threshold_curves(records, scores).set_index(["loss", "threshold"])
        rows = records.thresholds.query("loss == 'lovasz_hinge'")
        for threshold in (-8.0, 0.0, 2.5):
            at = rows[rows["threshold"] == threshold].groupby("category")
            present, absent = (at[x].mean().mean() for x in ("present", "absent"))
            row = table.loc[("lovasz_hinge", threshold)]
            assert row["present"] == pytest.approx(present)
            assert row["absent"] == pytest.approx(absent)
            assert row["all"] == pytest.approx((4 * present + 3 * absent) / 7)

    def test_at_zero_it_is_the_image_iou_of_table_1(self, records: Records, scores: Scores) -> None:
        at_zero = threshold_curves(records, scores).query("threshold == 0").set_index("loss")
        value = headline(scores).set_index("row")
        for loss, column in product(LOSSES, (("all", "value"), ("absent", "absent"))):
            assert at_zero.loc[loss, column[0]] == pytest.approx(
                value.loc[loss, column[1]], abs=1e-6
            )

    def test_the_median_threshold_is_shown(self, records: Records, scores: Scores) -> None:
        results = {
            cell: {**result, "threshold": cell.seed + cell.fold}
            for cell, result in records.results.items()
        }
        changed = Records(**{**vars(records), "results": results})
        assert chosen_thresholds(changed, scores).to_dict() == dict.fromkeys(LOSSES, 1.0)
        assert Cell("bird", "lovasz_hinge", 0, 0) in results
