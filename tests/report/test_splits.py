"""Studies on different splits of the images, together: against counts from their records."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from lovasz_repro.analysis.claims import PAPER_LOSSES
from lovasz_repro.analysis.decide import decisions
from lovasz_repro.analysis.resample import mean_interval
from lovasz_repro.analysis.scores import Arm, Scores
from lovasz_repro.analysis.stats import REFERENCE, compare, gains
from lovasz_repro.records import Records, load
from lovasz_repro.report.splits import (
    _of_more_splits,
    _splits_of,
    _with_other_rates,
    joined,
    same_but_for_split,
    section,
)
from lovasz_repro.words import points
from tests.helpers import recount
from tests.helpers.places import ROOT

REPORTS = ROOT / "reports"
SPLITS = ("finetune", "finetune_repeat", "finetune_third")
NAMES = ("head", "head_voc", "finetune_180", "finetune_channel", *SPLITS)


@pytest.fixture(scope="module")
def studies() -> dict[str, Records]:
    return {name: load(REPORTS / name / "records.zip", gallery=False) for name in NAMES}


@pytest.fixture(scope="module")
def choices(studies: dict[str, Records]) -> pd.DataFrame:
    return decisions(Scores(joined([studies[name] for name in SPLITS])))


def levels(column: str, present: bool) -> pd.DataFrame:
    """(categories, losses): the mean over the studies of each one's mean."""
    found = []
    for name in SPLITS:
        rows = recount.images(REPORTS / name / "records.zip")
        rows = rows[rows["has_category"] == 1] if present else rows
        found.append(recount.by_category(rows, column))
    return sum(found[1:], found[0]).dropna(axis="columns") / len(found)


def test_studies_of_one_network_on_different_lists_are_found(studies: dict[str, Records]) -> None:
    assert tuple(same_but_for_split(studies)) == SPLITS
    others = {name: studies[name] for name in NAMES if name not in SPLITS}
    assert section(others, {}) is None
    unsaid = {name: replace(own, study=own.study | {"config": {}}) for name, own in studies.items()}
    assert same_but_for_split(unsaid) == {}
    own = studies["finetune_repeat"]
    again = replace(own, study=own.study | {"config": own.study["config"] | {"network": {}}})
    assert same_but_for_split({"finetune": studies["finetune"], "other": again}) == {}


def test_a_study_that_is_not_whole_is_left_out(studies: dict[str, Records]) -> None:
    """The first may have fewer losses: then those of both are compared."""
    whole, own = studies["finetune"], studies["finetune_repeat"]
    fewer = own.study["grid"] | {"losses": own.study["grid"]["losses"][1:]}
    lacking = replace(own, study=own.study | {"grid": fewer})
    assert same_but_for_split({"finetune": whole, "other": lacking}) == {}
    assert set(same_but_for_split({"other": lacking, "finetune": whole})) == {"other", "finetune"}
    cell = own.grid.cells()[0]
    for lack in ({"missing": [cell]}, {"failed": {cell: "lost"}}, {"stale": [cell]}):
        begun = replace(own, **lack)
        assert same_but_for_split({"finetune": whole, "other": begun}) == {}


def test_with_other_rates_to_choose_from(studies: dict[str, Records]) -> None:
    """What a study that repeats two splits changes: counted by hand from the records."""
    wide = load(REPORTS / "finetune_wide/records.zip", gallery=False)
    every = studies | {"finetune_wide": wide}
    whole = same_but_for_split(every)
    assert tuple(whole) == SPLITS
    (text,) = _with_other_rates(every, whole)
    gain = {}
    for name in (*SPLITS, "finetune_wide"):
        rows = recount.images(REPORTS / name / "records.zip")
        levels = recount.by_category(rows, "iou")
        gain[name] = (levels["lovasz_hinge"] - levels["cross_entropy"]).mean()
    after = gain["finetune_wide"]
    before = (gain["finetune_repeat"] + gain["finetune_third"]) / 2
    assert "finetune_wide repeats finetune_repeat and finetune_third with a first range" in text
    assert f"On the same folds the gain is {points(after)} points [" in text
    assert f"with the rates chosen before it was {points(before)} points [" in text
    assert f"over all 6 folds is {points((gain['finetune'] + 2 * after) / 3)} points [" in text

    config = wide.study["config"] | {"tuning": wide.study["config"]["tuning"] | {"lrs": []}}
    given = replace(wide, study=wide.study | {"config": config})  # with an older tuning.json
    assert _with_other_rates(every | {"finetune_wide": given}, whole) == []

    del every["finetune_third"]  # then its folds 4 and 5 would be compared with nothing
    assert _with_other_rates(every, same_but_for_split(every)) == []


def test_what_the_third_split_says_alone(studies: dict[str, Records]) -> None:
    """The first of the announced questions: categories random, folds given."""
    scores = Scores(studies[SPLITS[2]])
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


def test_soft_jaccard_against_cross_entropy_with_the_wide_range(
    studies: dict[str, Records],
) -> None:
    """Of folds 2 to 5 the cells of cross-entropy are those of finetune_wide."""
    wide = load(REPORTS / "finetune_wide/records.zip", gallery=False).images
    taken = [studies[SPLITS[0]]]
    for own in (studies[name] for name in SPLITS[1:]):
        of_wide = (wide["loss"] == REFERENCE) & wide["fold"].isin(own.grid.folds)
        rest = own.images[own.images["loss"] != REFERENCE]
        taken.append(replace(own, images=pd.concat([rest, wide[of_wide]], ignore_index=True)))
    found = []
    for records in ([studies[name] for name in SPLITS], taken):
        row = compare(Scores(joined(records)), Arm("soft_jaccard"), Arm(REFERENCE))
        found.append(f"{points(row['difference'])} [{points(row['low'])}, {points(row['high'])}]")
    protocol = " ".join((ROOT / "experiments/README.md").read_text("utf-8").split())
    assert f"against cross-entropy, is {found[0]}, and {found[1]} against the cross-" in protocol
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"with the wide range its gain is {found[1].replace(' [', ' points [')}." in text
    table = pd.read_csv(REPORTS / "compare/tables/splits-table.csv").query("subset == 'all'")
    assert list(table.loc[table["low"] > 0, "loss"]) == ["soft_jaccard"]
    tried = {
        loss: {trial["lr"] for trial in studies[SPLITS[2]].tuning["fold4"][loss]["trials"]}
        for loss in ("soft_jaccard", REFERENCE)
    }
    assert max(tried["soft_jaccard"]) > 1e-4 >= max(tried[REFERENCE])


def test_a_split_that_has_finished_the_paper_s_losses_only(studies: dict[str, Records]) -> None:
    """It is not in the table, but its losses are compared over all splits."""
    own = studies[SPLITS[-1]]
    left = [cell for cell in own.grid.cells() if cell.loss in ("soft_jaccard", "mixed")]
    begun = replace(
        own,
        missing=left,
        results={cell: x for cell, x in own.results.items() if cell not in left},
        images=own.images[~own.images["loss"].isin(["soft_jaccard", "mixed"])],
    )
    every = studies | {SPLITS[-1]: begun}
    whole = same_but_for_split(every)
    assert tuple(whole) == SPLITS[:2]
    finished = _splits_of(PAPER_LOSSES, every, whole)
    assert tuple(finished) == SPLITS
    scores = Scores(joined(list(finished.values())))
    text = _of_more_splits(finished, whole, scores)
    assert "have finished cross-entropy, hinge and the Lovász hinge, finetune_third only" in text
    for against in ("cross-entropy", "hinge"):
        change = gains(scores, Arm("lovasz_hinge"), Arm(against.replace("-", "_"))).mean()
        assert f"{points(change)} points [" in text


def test_a_study_of_several_partitions_keeps_them_apart(studies: dict[str, Records]) -> None:
    wide = load(REPORTS / "finetune_wide/records.zip", gallery=False)
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
    first = {name: studies[name] for name in SPLITS[:2]}
    found = same_but_for_split({**first, "third": third})
    assert ("third" in found) == joins
    assert set(found) >= set(first)


def test_the_intervals_of_before(studies: dict[str, Records]) -> None:
    """With the splits given: the sentence that reports/README.md keeps of the rule of before."""
    both = Scores(joined([studies[name] for name in SPLITS[:2]]))
    found = {}
    lovasz = "lovasz_hinge"
    for loss, subset in ((lovasz, "present"), (lovasz, "absent"), ("soft_jaccard", "all")):
        gain = gains(both, Arm(loss), Arm(REFERENCE), subset).to_numpy()
        ends = (points(float(end)) for end in mean_interval(gain))
        found[loss, subset] = f"{points(gain.mean())} [{', '.join(ends)}]"
    every = Scores(joined([studies[name] for name in SPLITS]))
    for against in (REFERENCE, "hinge"):
        gain = gains(every, Arm(lovasz), Arm(against)).to_numpy()
        ends = (points(float(end)) for end in mean_interval(gain))
        found[against, "three"] = f"{points(gain.mean())} [{', '.join(ends)}]"
    text = " ".join((REPORTS / "README.md").read_text("utf-8").split())
    assert (
        "Over the three splits the gain over cross-entropy would be "
        f"{found[REFERENCE, 'three']} and over hinge {found['hinge', 'three']}:"
    ) in text
    assert (
        f"the gain with the category was {found['lovasz_hinge', 'present']} before, without it "
        f"{found['lovasz_hinge', 'absent']}, soft Jaccard's {found['soft_jaccard', 'all']}."
    ) in text


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("tuned", ["", "tuned_"])
def test_a_category_is_the_mean_over_the_splits(
    choices: pd.DataFrame, tuned: str, present: bool
) -> None:
    counted = levels(f"{tuned}iou", present)
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
