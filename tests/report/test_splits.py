"""Studies on different splits of the images, together: against counts from their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pytest

from lovasz_repro.analysis.decide import decisions
from lovasz_repro.analysis.resample import mean_interval
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, compare, gains
from lovasz_repro.records import Records, load
from lovasz_repro.report.document import Paragraph, Table
from lovasz_repro.report.splits import (
    _with_fewer_rates,
    joined,
    same_but_for_split,
    section,
)
from lovasz_repro.words import points
from tests.helpers import recount
from tests.helpers.places import ROOT

REPORTS = ROOT / "reports"
SPLITS = ("finetune", "finetune_wide")
ANNOUNCED = ("finetune", "finetune_repeat", "finetune_third")
OTHERS = ("head", "head_voc", "finetune_180", "finetune_channel")
NAMES = (*OTHERS, *ANNOUNCED, "finetune_wide")


@pytest.fixture(scope="module")
def studies() -> dict[str, Records]:
    return {name: load(REPORTS / name / "records.zip", gallery=False) for name in NAMES}


@pytest.fixture(scope="module")
def choices(studies: dict[str, Records]) -> pd.DataFrame:
    return decisions(Scores(joined([studies[name] for name in SPLITS])))


def levels(names: Sequence[str], column: str, present: bool = False) -> pd.DataFrame:
    """(categories, losses): the mean over the partitions of each one's mean."""
    found = [
        recount.by_category(rows[rows["has_category"] == 1] if present else rows, column)
        for rows in recount.partitions([REPORTS / name / "records.zip" for name in names])
    ]
    assert len(found) == 3
    return sum(found[1:], found[0]).dropna(axis="columns") / len(found)


def test_studies_of_one_network_on_different_lists_are_found(studies: dict[str, Records]) -> None:
    """finetune_wide has the lists of two others, and more rates to choose from."""
    assert tuple(same_but_for_split(studies)) == SPLITS
    backwards = dict(reversed(studies.items()))
    assert set(same_but_for_split(backwards)) == set(SPLITS)
    assert tuple(same_but_for_split(studies, most_rates=False)) == ANNOUNCED
    assert section({name: studies[name] for name in OTHERS}, {}) is None
    unsaid = {name: replace(own, study=own.study | {"config": {}}) for name, own in studies.items()}
    assert same_but_for_split(unsaid) == {}
    own = studies["finetune_repeat"]
    again = replace(own, study=own.study | {"config": own.study["config"] | {"network": {}}})
    assert same_but_for_split({"finetune": studies["finetune"], "other": again}) == {}


def test_a_study_that_is_not_whole_or_smaller_is_left_out(studies: dict[str, Records]) -> None:
    whole, own = studies["finetune"], studies["finetune_repeat"]
    for part in ("losses", "categories"):
        fewer = own.study["grid"] | {part: own.study["grid"][part][1:]}
        lacking = replace(own, study=own.study | {"grid": fewer})
        assert same_but_for_split({"finetune": whole, "other": lacking}) == {}
        assert same_but_for_split({"other": lacking, "finetune": whole}) == {}
    cell = own.grid.cells()[0]
    for lack in ({"missing": [cell]}, {"failed": {cell: "lost"}}, {"stale": [cell]}):
        begun = replace(own, **lack)
        assert same_but_for_split({"finetune": whole, "other": begun}) == {}
    wide = replace(studies["finetune_wide"], missing=[cell])
    assert tuple(same_but_for_split(studies | {"finetune_wide": wide})) == ANNOUNCED


def test_with_fewer_rates_to_choose_from(studies: dict[str, Records]) -> None:
    """What the splits as first announced say: counted by hand from the records."""
    own = same_but_for_split(studies)
    text, table = _with_fewer_rates(studies, own)
    assert isinstance(text, Paragraph)
    assert isinstance(table, Table)
    assert text.text.startswith(
        "finetune_repeat and finetune_third ran on the folds of finetune_wide with a narrower"
    )
    counted = levels(ANNOUNCED, "iou")
    rows = table.data[table.data["subset"] == "all"].set_index("loss")
    for loss, row in rows.iterrows():
        gain = counted[loss] - counted[REFERENCE]
        assert row["difference"] == pytest.approx(gain.mean())
    for against in (REFERENCE, "hinge"):
        gain = counted["lovasz_hinge"] - counted[against]
        assert f"{points(gain.mean())} points [" in text.text
    without = {name: own for name, own in studies.items() if name != "finetune_wide"}
    assert _with_fewer_rates(without, same_but_for_split(without)) == []


def test_what_the_announced_splits_say() -> None:
    """In the protocol: the intervals are the comparison page's."""
    protocol = " ".join((ROOT / "experiments/README.md").read_text("utf-8").split())
    table = pd.read_csv(REPORTS / "compare/tables/splits-fewer-rates.csv")
    rows = table[table["subset"] == "all"].set_index("loss")
    low_high = {
        loss: f"[{points(row['low'])}, {points(row['high'])}]" for loss, row in rows.iterrows()
    }
    for loss, said in (
        ("lovasz_hinge", "the Lovász hinge gains {} points over cross-entropy {}"),
        ("soft_jaccard", "soft Jaccard against cross-entropy, is {} {}"),
    ):
        assert said.format(points(rows.loc[loss, "difference"]), low_high[loss]) in protocol


def test_what_the_third_split_says_alone(studies: dict[str, Records]) -> None:
    """The first of the announced questions: categories random, folds given."""
    scores = Scores(studies["finetune_third"])
    assert scores.partitions == 1
    found = [compare(scores, Arm("lovasz_hinge"), Arm(x)) for x in (REFERENCE, "hinge")]
    text = " ".join((ROOT / "experiments/README.md").read_text("utf-8").split())
    change, than_hinge = (
        [points(row[name]) for name in ("difference", "low", "high")] for row in found
    )
    assert (
        f"the Lovász hinge gains {change[0]} points over cross-entropy [{', '.join(change[1:])}] "
        f"and {than_hinge[0]} over hinge [{', '.join(than_hinge[1:])}]."
    ) in text


def test_a_study_of_several_partitions_keeps_them_apart(studies: dict[str, Records]) -> None:
    wide = studies["finetune_wide"]
    for several in ([studies["finetune"], wide], [wide, studies["finetune"]]):
        every = joined(several)
        assert sorted(every.grid.folds) == list(range(6))
        assert Scores(every).partitions == 3
        rows = every.images.query("loss == 'hinge' or loss == 'lovasz_hinge'")
        pairs = rows.groupby(rows["fold"] // 2)["id"].nunique()
        assert (pairs == 1449).all()  # each partition scores every image


@pytest.mark.parametrize(("folds", "joins"), [([4, 5], True), ([3, 4], False)])
def test_other_folds_of_the_same_lists_are_another_split(
    studies: dict[str, Records], folds: list[int], joins: bool
) -> None:
    own = studies["finetune_repeat"]
    third = replace(own, study=own.study | {"grid": own.study["grid"] | {"folds": folds}})
    first = {name: studies[name] for name in ANNOUNCED[:2]}
    found = same_but_for_split({**first, "third": third})
    assert ("third" in found) == joins
    assert set(found) >= set(first)


def test_the_intervals_of_before(studies: dict[str, Records]) -> None:
    """With the splits given: what reports/README.md keeps of the rule of before."""
    lovasz, jaccard = "lovasz_hinge", "soft_jaccard"
    first_two, shown, as_run = (
        Scores(joined([studies[name] for name in names]))
        for names in (ANNOUNCED[:2], SPLITS, ANNOUNCED)
    )

    def said(scores: Scores, loss: str, against: str = REFERENCE, subset: str = "all") -> str:
        gain = gains(scores, Arm(loss), Arm(against), subset).to_numpy()
        low, high = map(float, mean_interval(gain))
        if scores is not first_two:
            assert (low > 0) == ((scores, against) != (shown, "hinge"))
        return f"{points(gain.mean())} [{points(low)}, {points(high)}]"

    text = " ".join((REPORTS / "README.md").read_text("utf-8").split())
    assert (
        f"In README's table the gain over cross-entropy would be {said(shown, lovasz)}, just above "
        f"zero, soft Jaccard's {said(shown, jaccard)}, and the gain over hinge "
        f"{said(shown, lovasz, 'hinge')}; with the rates first tried {said(as_run, lovasz)} over "
        f"cross-entropy and {said(as_run, lovasz, 'hinge')} over hinge."
    ) in text
    assert (
        f"the gain with the category was {said(first_two, lovasz, subset='present')} before, "
        f"without it {said(first_two, lovasz, subset='absent')}, soft Jaccard's "
        f"{said(first_two, jaccard)}."
    ) in text


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("tuned", ["", "tuned_"])
def test_a_category_is_the_mean_over_the_splits(
    choices: pd.DataFrame, tuned: str, present: bool
) -> None:
    counted = levels(SPLITS, f"{tuned}iou", present)
    case = (choices["empty_images"] != present) & (choices["tunable"] == bool(tuned))
    row = choices[case & (choices["metric"] == "per_image")].iloc[0]
    means = counted.drop(columns="untrained").mean()
    assert row["loss"] == means.idxmax()
    assert row["value"] == pytest.approx(means.max())
    gain = counted[row["loss"]] - counted["cross_entropy"]
    assert row["difference"] == pytest.approx(gain.mean())
    assert row["categories"] == len(gain)


def test_a_loss_that_one_study_lacks_is_left_out(studies: dict[str, Records]) -> None:
    whole = studies["finetune"]
    grid = whole.study["grid"] | {"losses": ["cross_entropy", "lovasz_hinge", "untrained"]}
    less = replace(
        whole,
        study=whole.study | {"grid": grid},
        images=whole.images[whole.images["loss"].isin(grid["losses"])],
    )
    both = joined([whole, less])
    assert set(both.images["loss"]) == set(both.grid.losses) == set(grid["losses"])
    assert list(both.grid.folds) == [0, 1, 2, 3]
    assert Scores(both).partitions == 2
    values, alone = (Scores(r).values(["cat"], Arm("lovasz_hinge")) for r in (both, whole))
    assert values["cat"] == pytest.approx(alone["cat"])
