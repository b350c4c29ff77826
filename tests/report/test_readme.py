"""The figures in README's own sentences, counted from the committed records with pandas alone."""

from __future__ import annotations

import json
import re
import statistics
import zipfile
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression

from lovasz_repro.words import points
from tests.helpers import recount
from tests.helpers.places import ROOT

REPORTS = ROOT / "reports"
SPLITS = ("finetune", "finetune_repeat")
THREE = (*SPLITS, "finetune_third")


def stored(report: str, name: str) -> Any:
    with zipfile.ZipFile(REPORTS / report / "records.zip") as content:
        return json.loads(content.read(name))


def words(name: str) -> str:
    """A text file in one line."""
    return " ".join((ROOT / name).read_text("utf-8").split())


@pytest.fixture(scope="module")
def text() -> str:
    return words("README.md")


def test_the_images_that_are_scored_and_seen(text: str) -> None:
    lists = stored("finetune", "study.json")["data"]["lists"]
    scored = recount.images(REPORTS / "finetune/records.zip")["id"].nunique()
    assert scored == lists["fold0_val"]["images"] + lists["fold1_val"]["images"]
    for name in THREE:
        assert recount.images(REPORTS / name / "records.zip")["id"].nunique() == scored
    assert f"All {scored:,} val images are scored in each split" in text
    seen = lists["fold0_train"]["images"] - lists["fold1_val"]["images"]
    trained = stored("finetune", "cells/cat/hinge/fold0-seed0/result.json")["train_images"]
    assert f"the {seen:,} `trainaug` images, {100 * seen / trained:.0f} % of those" in text


def gains(report: str) -> tuple[pd.DataFrame, pd.Series]:
    """The rows of a report, and by category the gain of the Lovász hinge over cross-entropy."""
    rows = recount.images(REPORTS / report / "records.zip")
    return rows, gain(rows)


def gain(rows: pd.DataFrame, over: str = "cross_entropy", loss: str = "lovasz_hinge") -> pd.Series:
    levels = recount.by_category(rows, "iou")
    return 100 * (levels[loss] - levels[over])


def folds(name: str) -> pd.DataFrame:
    """A row per fold: the rate chosen for cross-entropy, and the gain of the Lovász hinge."""
    tuned = stored(name, "tuning.json")
    return pd.DataFrame(
        {
            "rate": tuned[f"fold{fold}"]["cross_entropy"]["lr"],
            "all": gain(own).mean(),
            "present": gain(own[own["has_category"] == 1]).mean(),
        }
        for fold, own in gains(name)[0].groupby("fold")
    )


def in_points(values: pd.Series) -> list[str]:
    return [points(value / 100) for value in values]


def written(rate: float) -> str:
    """1e-5, 3.3e-4"""
    return f"{rate:.1e}".replace(".0e", "e").replace("e-0", "e-")


def test_the_gain_falls_as_the_rate_of_cross_entropy_rises(text: str) -> None:
    every = pd.concat(map(folds, THREE)).sort_values("rate", kind="stable")
    assert len(every) == 6
    said = [
        f"{' and '.join(in_points(own['all']))} at {written(rate)}"
        for rate, own in every.groupby("rate")
    ]
    assert f"cross-entropy rises: {', '.join(said)} (with the category" in text
    *among, last = in_points(every["present"])
    assert f"(with the category {', '.join(among)} and {last})" in text
    assert every["rate"].rank().corr(every["all"].rank()) < -0.9
    low, high = (sorted(every[(every["rate"] > 1e-4) == above]["all"]) for above in (False, True))
    assert len(low) == 4
    least, *_, most = in_points(low)
    assert f"{least} to {most} in the four folds with at most 1e-4" in text
    assert f"{' and '.join(in_points(high))} in the two with 3.3e-4" in text


def test_folds_whose_rates_are_swapped_swap_their_gains(text: str) -> None:
    before, after = folds("finetune_third"), gains("finetune_rates")[0]
    swapped = {fold: gain(own).mean() for fold, own in after.groupby("fold")}
    (slow, first), (fast, second) = zip(before["rate"], in_points(before["all"]), strict=True)
    then = in_points(pd.Series([swapped[4], swapped[5]]))
    assert (
        f"at {written(fast)} the fold with {first} has {then[0]}, at {written(slow)} that with "
        f"{second} has {then[1]}."
    ) in text
    assert f"So it was: {then[0]} on fold 4, {then[1]} on fold 5" in words("experiments/README.md")
    with zipfile.ZipFile(REPORTS / "finetune_rates/records.zip") as content:
        for fold, rate in ((4, fast), (5, slow)):
            name = f"cells/cat/cross_entropy/fold{fold}-seed1/result.json"
            assert json.loads(content.read(name))["lr"] == rate


def test_with_one_range_of_rates_for_all_folds(text: str) -> None:
    """The mean is counted by hand; the interval is the report's."""
    _, by_category = gains("finetune_wide")
    row = pd.read_csv(REPORTS / "finetune_wide/tables/image-iou.csv", index_col="row")
    change, *ends = row.loc["lovasz_hinge", ["difference", "difference_low", "difference_high"]]
    assert 100 * change == pytest.approx(by_category.mean())
    shown = f"{points(change)} [{', '.join(map(points, ends))}]"
    assert f"over the four folds of both other splits is {shown}" in text
    assert f"and the gain is {shown}" in words("experiments/README.md")
    old, new = pd.concat(map(folds, THREE[1:])), folds("finetune_wide")
    changed = old["rate"].to_numpy() != new["rate"].to_numpy()
    assert list(old["all"][changed]) == [old["all"].max()]  # the fold with the largest gain
    assert list(new["rate"][changed]) == [3.3e-4]
    assert "cross-entropy gets 3.3e-4 in the fold with +1.2, too" in text


def test_what_both_splits_say_together(text: str) -> None:
    """The means are counted by hand; the intervals are the comparison page's."""
    splits = [recount.images(REPORTS / name / "records.zip") for name in SPLITS]

    def over_both(loss: str, over: str = "cross_entropy", part: str = "") -> pd.Series:
        own = [rows.query(part) if part else rows for rows in splits]
        return sum(gain(rows, over, loss) for rows in own) / len(own)

    def shown(mean: pd.Series, ends: str, unit: str = "") -> str:
        return f"{points(mean.mean() / 100)}{unit} [{ends}]"

    table = pd.read_csv(REPORTS / "compare/tables/splits-table.csv").set_index(["subset", "loss"])
    ends = {key: f"{points(row.low)}, {points(row.high)}" for key, row in table.iterrows()}
    compared = " ".join((REPORTS / "compare/report.md").read_text("utf-8").split())
    hinge = re.search(r"against hinge the difference is \S+ points \[(.*?)\]", compared)
    assert hinge
    gained, soft = (
        shown(over_both(loss), ends["all", loss], unit)
        for loss, unit in (("lovasz_hinge", " points"), ("soft_jaccard", ""))
    )
    more = shown(over_both("lovasz_hinge", "hinge"), hinge[1])
    assert (
        f"Lovász hinge gains {gained} over cross-entropy and {more} over hinge; soft Jaccard per "
        f"batch gains {soft} over cross-entropy."
    ) in text
    third = gains("finetune_third")[1]
    every = (2 * over_both("lovasz_hinge") + third) / 3
    over_all = re.search(r"Over all of them the Lovász hinge gains \S+ points \[(.*?)\]", compared)
    assert over_all
    said = f"finished for two losses so far, makes the first {shown(every, over_all[1])}"
    assert said in text


def test_what_other_runs_show(text: str) -> None:
    """The table of reports/README.md has the interval; the levels are counted here."""
    assert "no change by 180 steps, float32 or training the whole network is told apart" in text
    table = (REPORTS / "README.md").read_text("utf-8")
    for name in ("finetune_180", "finetune_32", "finetune_all"):
        row = next(line for line in table.splitlines() if line.startswith(f"| [{name}]"))
        ends = re.findall(r"<sub>\[(\S+),\s(\S+)\]</sub>", row.replace("−", "-"))
        assert len(ends) == 2
        assert all(float(low) < 0 < float(high) for low, high in ends)
        widest = max(abs(float(end)) for end in ends[0])  # on all images
        assert widest > 1 if name != "finetune_32" else f"(±{widest:.1f})" in text
    channel, _ = gains("finetune_channel")
    rows, _ = gains("finetune")
    rows = rows[rows["category"].isin(channel["category"]) & (rows["fold"] == 0)]
    lower, levels = (recount.by_category(images, "iou").mean() for images in (channel, rows))
    assert "gives lower levels" in text
    row = pd.read_csv(REPORTS / "finetune_channel/tables/image-iou.csv", index_col="row")
    change, *ends = row.loc["lovasz_hinge", ["difference", "difference_low", "difference_high"]]
    assert f"(gain {points(change)} [{', '.join(map(points, ends))}])" in text
    assert (lower < levels[lower.index]).all()


def test_what_head_shows(text: str) -> None:
    rows, by_category = gains("head")
    assert f"report.md): {by_category.mean():+.1f} points over cross-entropy)" in text
    trained = rows[rows["loss"] != "untrained"]
    parts = [gain(part).mean() for _, part in rows.groupby("has_category")]
    assert parts[0] > 0 > parts[1]  # without the category, with it
    levels = recount.by_category(trained, "iou").mean()
    assert levels.idxmax() == "soft_jaccard"
    assert levels[["cross_entropy", "hinge", "lovasz_hinge"]].idxmax() == "lovasz_hinge"
    assert "the Lovász hinge is best of the paper's three" in text
    tuned = recount.by_category(rows, "tuned_iou").mean()
    assert tuned.idxmax() == "untrained"


def test_what_the_better_base_leaves(text: str) -> None:
    """The gains are counted by hand; the intervals are the report's."""
    rows, strong = gains("head_voc")
    others, _ = gains("head")
    weak = gain(others[others["fold"].isin(rows["fold"])])
    table = (REPORTS / "README.md").read_text("utf-8").replace("−", "-")
    row = next(line for line in table.splitlines() if line.startswith("| [head_voc]"))
    assert "[head](head/report.md)" in row
    less = [-float(x) for x in re.findall(r"\| (\S+) <sub>\[(\S+),\s(\S+)\]</sub>", row)[0]]
    assert less[0] == pytest.approx((weak - strong).mean(), abs=0.05)
    assert f"on the same images {less[0]} points [{less[2]}, {less[1]}] less" in text
    shown = pd.read_csv(REPORTS / "head_voc/tables/image-iou.csv", index_col="row")
    assert 100 * shown.loc["lovasz_hinge", "difference"] == pytest.approx(strong.mean())
    for loss, words in (("lovasz_hinge", "it gains {} points {}"), ("soft_jaccard", "{} {} in")):
        change, *ends = (
            points(shown.loc[loss, f"difference{end}"]) for end in ("", "_low", "_high")
        )
        assert words.format(change, f"[{', '.join(ends)}]") in text
    levels = recount.by_category(rows[rows["loss"] != "untrained"], "iou").mean()
    assert levels.idxmax() == "soft_jaccard"  # in head, too: test_what_head_shows


def test_a_chosen_threshold_lowers_every_loss(text: str) -> None:
    rows, _ = gains("finetune")
    trained = [loss for loss in rows["loss"].unique() if loss != "untrained"]
    change = recount.by_category(rows, "tuned_iou") - recount.by_category(rows, "iou")
    assert (change[trained].mean() < 0).all()
    held = []
    with zipfile.ZipFile(REPORTS / "finetune/records.zip") as content:
        for name in content.namelist():
            if name.startswith("cells/") and name.endswith("result.json"):
                held.append(json.loads(content.read(name))["held_out_images"])
    assert f"({statistics.median_low(held)} images in the median cell) lowers the" in text


def test_how_more_steps_did(text: str) -> None:
    choices = []
    for own in stored("finetune", "tuning.json").values():
        for entry in own.values() if isinstance(own, dict) else []:
            trials = pd.DataFrame(entry["trials"]).query("lr == @entry['lr']")
            means = trials.groupby("steps")["image_iou"].mean()
            choices.append(means[180] - means[60])
    repeated = stored("finetune_repeat", "tuning.json")
    folds = [own for own in repeated.values() if isinstance(own, dict)]
    assert {entry["steps"] for own in folds for entry in own.values()} == {60}
    assert "(steps: 60 in the other splits)" in text
    assert len(choices) == 10
    assert max(choices) < 0
    assert "180 steps at the same rate lower the held-out image-IoU in all ten choices" in text


def test_how_fast_the_losses_are(text: str) -> None:
    """On both machines; the slower one's figures are in the sentences of reports/bench."""
    fast, slow = (pd.read_csv(REPORTS / f"bench/loss{name}.csv") for name in ("", "-avx2"))

    def ratios(table: pd.DataFrame, case: str, loss: str) -> pd.Series:
        own = table[table["case"].str.startswith(case) & table["loss"].str.contains(loss)]
        return own["times_floor"]

    bins = [ratios(table, "8x321x321", "hinge bins") for table in (fast, slow)]
    least, most = pd.concat(bins).agg(["min", "max"])
    assert f"{least:.1f} to {most:.1f} times the time of torch's binary cross-entropy" in text
    bench = " ".join((REPORTS / "bench/README.md").read_text("utf-8").split())
    sort = ratios(slow, "8x321x321, hard", "hinge sort")
    many = [
        ratios(slow, "2x512x1024, 19 classes, hard", f"softmax {method}$").item()
        for method in ("bins", "sort")
    ]
    times = slow.set_index(["case", "loss"])["milliseconds"]
    cross_entropy = times["8x321x321, hard", "binary cross-entropy (torch)"]
    assert (
        f"cross-entropy takes {cross_entropy:.1f} ms at 8×321², "
        f"`bins` {bins[1].min():.1f} to {bins[1].max():.1f} times that, `sort` {sort.min():.1f} to "
        f"{sort.max():.1f} times on hard margins"
    ) in bench
    assert (
        f"`bins` takes {many[0]:.1f} times as long as torch's cross-entropy, `sort` {many[1]:.1f} "
        "times."
    ) in bench


def test_how_well_the_network_knows_val() -> None:
    """By Frisch and Waugh: what the labels leave of the score, by what they leave of the list."""
    text = " ".join((REPORTS / "bench/README.md").read_text("utf-8").split())
    table = pd.read_csv(REPORTS / "bench/seen.csv", keep_default_na=False)
    labels = CountVectorizer(token_pattern=r"\S+").fit_transform(table["labels"]).toarray()
    known = np.column_stack([labels, np.log1p(labels.sum(axis=1))])
    inside = (table["list"] == "train").to_numpy(float)
    assert f"on the {inside.sum():.0f} images of" in text
    assert f"on all {(1 - inside).sum():,.0f} of `val`" in text
    rest = [x - LinearRegression().fit(known, x).predict(known) for x in (
        inside, 100 * table["image_miou"], -table["cross_entropy"]
    )]  # fmt: skip
    found = [float(rest[0] @ score / (rest[0] @ rest[0])) for score in rest[1:]]
    assert f"is higher by {found[0]:.1f} points" in text
    assert f"lower by {found[1]:.3f} [" in text


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
