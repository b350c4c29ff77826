"""The decision table and our questions, on records whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.decide import SITUATIONS, decisions
from lovasz_repro.analysis.prevalence import NATURAL, prevalence_gains
from lovasz_repro.analysis.questions import Question, questions
from lovasz_repro.analysis.resample import mean_interval
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import UNTRAINED, Cell, Records, load
from lovasz_repro.report.verdict import natural, use
from lovasz_repro.words import points
from tests.helpers.synthetic import CATEGORIES, known, write_study

LOSSES = (REFERENCE, "hinge", LOVASZ, UNTRAINED)


def study(effect: Mapping[str, float], losses: tuple[str, ...] = LOSSES) -> Records:
    return known(effect, losses)


def answers(records: Records) -> dict[str, Question]:
    return {question.key: question for question in questions(Scores(records))}


class TestDecisions:
    def test_the_highest_mean_is_used(self) -> None:
        records = study({LOVASZ: 0.2, UNTRAINED: -0.2})
        table = decisions(Scores(records))
        assert len(table) == len(SITUATIONS) == 8
        assert (table["loss"] == LOVASZ).all()
        assert (table["low"] > 0).all()
        assert not table["untrained_better"].any()
        images = records.images
        for row in table.itertuples():
            if row.metric == "data_set":
                continue
            column = "tuned_iou" if row.tunable else "iou"
            rows = images if row.empty_images else images[images["has_category"] == 1]
            means = rows.groupby(["category", "loss"])[column].mean().unstack()
            assert row.value == pytest.approx(means[LOVASZ].mean())
            change = (means[LOVASZ] - means[REFERENCE]).to_numpy()
            assert row.difference == pytest.approx(change.mean())
            alike = []
            for loss in ("cross_entropy", "hinge", UNTRAINED):
                low, high = mean_interval((means[loss] - means[LOVASZ]).to_numpy())
                alike += [loss] if low <= 0 <= high else []
            assert row.not_told_apart.split() == alike

    def test_a_loss_that_is_equal_is_not_told_apart(self) -> None:
        records = study({LOVASZ: 0.2, "hinge": 0.2})
        for row in decisions(Scores(records)).itertuples():
            assert {row.loss, *row.not_told_apart.split()} >= {LOVASZ, "hinge"}

    def test_not_training_is_never_used_and_is_said_to_be_better(self) -> None:
        table = decisions(Scores(study({UNTRAINED: 0.3})))
        assert UNTRAINED not in set(table["loss"])
        assert table["untrained_better"].all()

    def test_cross_entropy_has_no_gain_over_itself(self) -> None:
        records = study({REFERENCE: 0.3})
        table = decisions(Scores(records))
        assert (table["loss"] == REFERENCE).all()
        assert table["difference"].isna().all()
        assert "cross-entropy has the highest mean in 8. The best loss is " in use(table)

    def test_one_loss_is_no_choice(self) -> None:
        records = study({}, (LOVASZ, UNTRAINED))
        table = decisions(Scores(records))
        assert table.empty
        assert "cannot be said" in use(table)

    def test_the_sentence_counts_the_cases(self) -> None:
        table = decisions(Scores(study({LOVASZ: 0.2})))
        table["loss"] = [LOVASZ] * 2 + [REFERENCE] * 6
        table["not_told_apart"] = ""
        highest = "cross-entropy has the highest mean in 6 and the Lovász hinge in 2. "
        assert f"{highest}The best loss is told apart from all others in 8." in use(table)
        table["not_told_apart"] = [*7 * ["hinge"], ""]
        assert use(table).endswith("The best loss is told apart from all others in 1.")
        table["not_told_apart"] = [*4 * [REFERENCE], *4 * [f"mixed {UNTRAINED}"]]
        table["untrained_better"] = [True] + [False] * 7
        assert use(table).endswith(
            f"{highest}The best loss is told apart from all others in none; it is not told apart "
            "from cross-entropy in 4 and from the network before fine-tuning in 4. In 1 not "
            "fine-tuning at all is better."
        )

    def test_at_the_natural_share_the_gain_is_another(self) -> None:
        table = prevalence_gains(Scores(study({LOVASZ: 0.2})))
        row = table[(table["loss"] == LOVASZ) & (table["share"] == NATURAL)].iloc[0]
        assert f"would be {points(row['difference'])} points [" in natural(table)
        assert natural(table[table["loss"] != LOVASZ]) == ""


class TestQuestions:
    def test_another_loss_beats_it(self) -> None:
        found = answers(study({LOVASZ: 0.02, "hinge": 0.3}))["any_better"]
        assert (found.answer, found.loss, found.winners) == ("yes", "hinge", ["hinge"])
        assert found.low > 0

    def test_no_loss_beats_it(self) -> None:
        found = answers(study({LOVASZ: 0.3}))["any_better"]
        assert (found.answer, found.winners, found.asked) == ("no", [], 2)
        assert found.high < 0

    def test_training_against_none(self) -> None:
        records = study({LOVASZ: 0.2, UNTRAINED: -0.05})
        found = answers(records)
        for key, column in (("untrained", "iou"), ("untrained_tuned", "tuned_iou")):
            assert (found[key].answer, found[key].asked) == ("yes", 3)
            means = records.images.groupby("loss")[column].mean()
            best = means.drop(UNTRAINED).max() - means[UNTRAINED]
            assert found[key].effect == pytest.approx(best)
        far = answers(study({UNTRAINED: -0.3}))
        assert (far["untrained"].answer, far["untrained"].asked) == ("open", 0)
        assert "below predicting nothing" in far["untrained"].note
        assert far["untrained_tuned"].answer == "yes"
        worse = answers(study({UNTRAINED: 0.3}))
        assert {worse[key].answer for key in ("untrained", "untrained_tuned")} == {"no"}

    def test_dataset_iou_against_image_iou(self) -> None:
        records = study({LOVASZ: 0.2})
        assert answers(records)["dataset_iou"].answer == "yes"
        images = records.images.copy()
        images.loc[images["loss"] == LOVASZ, "fp"] += 50_000
        against = answers(Records(**{**vars(records), "images": images}))["dataset_iou"]
        assert against.answer == "no"
        assert against.effect < 0

    def test_without_cells_all_are_open(self, tmp_path: Path) -> None:
        categories = CATEGORIES[:8]
        missing = [
            Cell(c, x, f, 0) for c in categories for x in (LOVASZ, UNTRAINED) for f in (0, 1)
        ]
        write_study(tmp_path, categories=categories, losses=LOSSES, seeds=[0], missing=missing)
        for found in answers(load(tmp_path)).values():
            assert found.answer == "open"
            assert found.note
