"""The figures in README's own sentences, counted from the committed records with pandas alone."""

from __future__ import annotations

import json
import re
import statistics
import zipfile
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression

from lovasz_repro.report import quoted
from lovasz_repro.words import points
from tests.helpers import recount
from tests.helpers.places import ROOT

REPORTS = ROOT / "reports"
SPLITS = ("finetune", "finetune_wide")
ANNOUNCED = ("finetune", "finetune_repeat", "finetune_third")
PAPER = ("cross_entropy", "hinge")


def stored(report: str, name: str) -> Any:
    with zipfile.ZipFile(REPORTS / report / "records.zip") as content:
        return json.loads(content.read(name))


def words(name: str) -> str:
    """A text file in one line."""
    return " ".join((ROOT / name).read_text("utf-8").split())


@pytest.fixture(scope="module")
def text() -> str:
    return words("README.md")


@pytest.fixture(scope="module")
def runs() -> str:
    return words("reports/README.md")


@pytest.fixture(scope="module")
def compared() -> str:
    return words("reports/compare/report.md")


def ends_of(what: str, compared: str) -> str:
    """The interval of what the comparison page says."""
    found = re.search(rf"{what} \S+ points \[(.*?)\]", compared)
    assert found, what
    return found[1]


def test_the_images_that_are_scored_and_seen(runs: str) -> None:
    lists = stored("finetune", "study.json")["data"]["lists"]
    scored = recount.images(REPORTS / "finetune/records.zip")["id"].nunique()
    assert scored == lists["fold0_val"]["images"] + lists["fold1_val"]["images"]
    for name in SPLITS:
        assert recount.images(REPORTS / name / "records.zip")["id"].nunique() == scored
    assert f"All {scored:,} val images are scored in each split" in runs
    seen = lists["fold0_train"]["images"] - lists["fold1_val"]["images"]
    trained = stored("finetune", "cells/cat/hinge/fold0-seed0/result.json")["train_images"]
    assert f"the {seen:,} `trainaug` images, {100 * seen / trained:.0f} % of those" in runs


def gains(report: str) -> tuple[pd.DataFrame, pd.Series]:
    """The rows of a report, and by category the gain of the Lovász hinge over cross-entropy."""
    rows = recount.images(REPORTS / report / "records.zip")
    return rows, gain(rows)


def gain(rows: pd.DataFrame, over: str = "cross_entropy", loss: str = "lovasz_hinge") -> pd.Series:
    levels = recount.by_category(rows, "iou")
    return 100 * (levels[loss] - levels[over])


def partitions(*reports: str) -> list[pd.DataFrame]:
    return recount.partitions([REPORTS / name / "records.zip" for name in reports])


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


def rates(report: str) -> pd.Series:
    """The chosen learning rates by fold and loss."""
    tuned = stored(report, "tuning.json")
    chosen = {
        (fold, loss): entry["lr"]
        for fold, own in tuned.items() if isinstance(own, dict)
        for loss, entry in own.items()
    }  # fmt: skip
    return pd.Series(chosen).sort_index()


def in_points(values: pd.Series) -> list[str]:
    return [points(value / 100) for value in values]


def test_the_gain_falls_as_the_rate_of_cross_entropy_rises(text: str) -> None:
    every = pd.concat(map(folds, SPLITS))
    assert len(every) == 6
    low, high = (every[(every["rate"] > 1e-4) == above]["all"] for above in (False, True))
    assert every["rate"].rank().corr(every["all"].rank()) < -0.9
    assert len(low) == len(high) == 3
    assert low.min() > high.max()
    (least, most), (lowest, highest) = (in_points(own.agg(["min", "max"])) for own in (low, high))
    assert f"{least} to {most} points in the three folds with at most 1e-4" in text
    assert f"{lowest} to {highest} in the three with 3.3e-4" in text


def test_folds_whose_rates_are_swapped_swap_their_gains(text: str) -> None:
    before, after = folds("finetune_third"), gains("finetune_rates")[0]
    swapped = {fold: gain(own).mean() for fold, own in after.groupby("fold")}
    (slow, first), (fast, second) = zip(before["rate"], in_points(before["all"]), strict=True)
    then = in_points(pd.Series([swapped[4], swapped[5]]))
    assert (slow, fast) == (1e-5, 3.3e-4)
    assert "we swapped the rates first chosen for cross-entropy, 1e-5 and 3.3e-4, and" in text
    assert f"{first} fell to {then[0]}, and {second} rose to {then[1]}." in text
    assert f"So it was: {then[0]} on fold 4, {then[1]} on fold 5" in words("experiments/README.md")
    with zipfile.ZipFile(REPORTS / "finetune_rates/records.zip") as content:
        for fold, rate in ((4, fast), (5, slow)):
            name = f"cells/cat/cross_entropy/fold{fold}-seed1/result.json"
            assert json.loads(content.read(name))["lr"] == rate


def test_the_splits_as_they_were_announced(text: str, compared: str) -> None:
    """The means are counted by hand; the intervals are the comparison page's."""
    for over, said in (("cross_entropy", "cross-entropy"), ("hinge", "hinge")):
        mean = sum(gain(rows, over).mean() for rows in partitions(*ANNOUNCED)) / 300
        ends = re.search(rf"{re.escape(points(mean))} points \[([^]]*)\] over {said}", compared)
        assert ends
        assert f"{points(mean)} [{ends[1]}] over {said}" in text
    table = pd.read_csv(REPORTS / "compare/tables/splits-fewer-rates.csv").query("subset == 'all'")
    row = table.set_index("loss").loc["soft_jaccard"]
    change, low, high = (points(row[name]) for name in ("difference", "low", "high"))
    assert f"soft Jaccard's over cross-entropy is {change} [{low}, {high}]" in text
    assert "up to 1e-4, and further only from a best rate at the edge." in text
    for name in ANNOUNCED[1:]:
        assert max(stored(name, "study.json")["config"]["tuning"]["lrs"]) == 1e-4
    old, new = pd.concat(map(rates, ANNOUNCED[1:])), rates("finetune_wide")
    assert old.index.equals(new.index)
    before, after = pd.concat(map(folds, ANNOUNCED[1:])), folds("finetune_wide")
    other = before["rate"].to_numpy() != after["rate"].to_numpy()
    assert list(before["all"][other]) == [before["all"].max()]  # the fold with the largest gain
    changed = [(fold, loss) for (fold, loss), lr in new.items() if lr != old[fold, loss]]
    assert {fold for fold, _ in changed} == {"fold4"}
    assert sorted(loss for _, loss in changed) == ["cross_entropy", "hinge"]
    assert all(new[place] > old[place] for place in changed)
    assert "Only cross-entropy and hinge in fold 4 differ, at a higher rate" in text
    assert "in fold 4 its trials went on to higher rates and cross-entropy's did not" in text
    tried = [
        {trial["lr"] for trial in stored("finetune_third", "tuning.json")["fold4"][loss]["trials"]}
        for loss in ("soft_jaccard", "cross_entropy")
    ]
    assert max(tried[0]) > 1e-4 >= max(tried[1])


def test_what_the_protocol_says_of_the_wide_range(text: str, runs: str) -> None:
    """Its gain, its new trials, and its time."""
    protocol = words("experiments/README.md")
    table = pd.read_csv(REPORTS / "compare/tables/gains-table.csv").set_index("experiment")
    row = table.loc["finetune_wide"].set_index("loss").loc["lovasz_hinge"]
    change, low, high = (points(row[name]) for name in ("difference", "low", "high"))
    assert row["difference"] == pytest.approx(gains("finetune_wide")[1].mean() / 100)
    assert f"and the gain is {change} [{low}, {high}]" in protocol

    def trials(report: str) -> set[tuple[Any, ...]]:
        return {
            (fold, loss, trial["lr"], trial["category"])
            for fold, own in stored(report, "tuning.json").items() if isinstance(own, dict)
            for loss in ("hinge", "soft_jaccard", "mixed")
            for trial in own[loss]["trials"]
        }  # fmt: skip

    new = len(trials("finetune_wide").difference(*map(trials, ANNOUNCED[1:])))
    assert f"before any of the {new} new trials" in protocol
    assert f"before the {new} trials of hinge, soft Jaccard and the mixture" in runs
    for name, said in (
        ("finetune_repeat", "half as many cells took almost {} hours"),
        ("finetune_wide", "in-all-folds), about {} hours."),
    ):
        machine = stored(name, "machine.json")
        seconds = sum(part["seconds"] for part in (machine, *machine["earlier"]))
        assert said.format(round(seconds / 3600)) in text


def test_where_the_cells_of_the_wide_range_come_from(runs: str) -> None:
    """By the bytes of their images' table."""
    earlier = ("finetune_repeat", "finetune_third", "finetune_rates")
    before: dict[tuple[str, bytes], str] = {}
    for name in earlier:
        with zipfile.ZipFile(REPORTS / name / "records.zip") as content:
            for path in content.namelist():
                if path.endswith("images.csv"):
                    before.setdefault((path, content.read(path)), name)
    found: Counter[str] = Counter()
    with zipfile.ZipFile(REPORTS / "finetune_wide/records.zip") as content:
        for path in content.namelist():
            if path.endswith("images.csv"):
                source = before.get((path, content.read(path)))
                assert source or "/hinge/fold4-" in path
                found[source or "new"] += 1
    assert f"trained {found['new']} of its {found.total()} cells, hinge in fold 4." in runs
    first, second, third = (f"`{name}` ({found[name]})" for name in earlier)
    assert f"The others are those of {first}, {second} and {third}, byte for byte." in runs


def test_the_rates_that_readme_advises(text: str) -> None:
    """Those chosen from the wide range, in all six folds."""
    chosen = [
        {loss: own[loss]["lr"] for loss in ("cross_entropy", "lovasz_hinge")}
        for name in ("finetune", "finetune_wide")
        for own in stored(name, "tuning.json").values()
        if isinstance(own, dict)
    ]
    assert len(chosen) == 6
    factors = [own["cross_entropy"] / own["lovasz_hinge"] for own in chosen]
    assert {own["lovasz_hinge"] for own in chosen} == {1e-5, 3e-5}
    least, most = round(min(factors)), round(max(factors))
    said = (
        f"needs a lower rate: here 1e-5 or 3e-5, {least} to {most} times lower than cross-entropy's"
    )
    assert said in text


def test_what_the_splits_say_together(text: str, compared: str) -> None:
    """The means are counted by hand; the intervals are the comparison page's."""
    splits = partitions(*SPLITS)
    assert len(splits) == 3

    def mean(over: str) -> str:
        return points(sum(gain(rows, over).mean() for rows in splits) / len(splits) / 100)

    table = pd.read_csv(REPORTS / "compare/tables/splits-table.csv").set_index(["subset", "loss"])
    row = table.loc["all", "lovasz_hinge"]
    other = ends_of("against hinge the gain is", compared)
    assert (
        f"Over three splits of the images the Lovász hinge gains {mean('cross_entropy')} points of "
        f"image-IoU over cross-entropy [{points(row['low'])}, {points(row['high'])}] and "
        f"{mean('hinge')} over hinge [{other}];"
    ) in text
    gain_of = {row: quoted.IMAGE_IOU["lovasz_hinge"] - quoted.IMAGE_IOU[row] for row in PAPER}
    assert f"the paper reports {'† and '.join(map(points, gain_of.values()))}†." in text
    level = pd.read_csv(REPORTS / "compare/tables/splits-levels.csv", index_col="row")
    given = [
        "[{}, {}]".format(*map(points, level.loc[loss, ["these_low", "these_high"]]))
        for loss in ("lovasz_hinge", "soft_jaccard")
    ]
    assert f"in the table are above zero: {' and '.join(given)}." in text
    above = table.loc["all"]
    assert not (above["low"] > 0).any()  # "No other loss is told apart"
    # "No gain as large as the paper's", and "undecided".
    ends = {"cross_entropy": f"{points(row['low'])}, {points(row['high'])}", "hinge": other}
    for name, said in ends.items():
        low, high = (float(end.replace("−", "-")) for end in said.split(", "))
        assert low < 0 < high < 100 * gain_of[name]


def test_what_other_runs_show(runs: str) -> None:
    """The table of reports/README.md has the interval; the levels are counted here."""
    assert "No change by 180 steps, float32 or training the whole network is told apart" in runs
    table = (REPORTS / "README.md").read_text("utf-8")
    for name in ("finetune_180", "finetune_32", "finetune_all"):
        row = next(line for line in table.splitlines() if line.startswith(f"| [{name}]"))
        ends = re.findall(r"<sub>\[(\S+),\s(\S+)\]</sub>", row.replace("−", "-"))
        assert len(ends) == 2
        assert all(float(low) < 0 < float(high) for low, high in ends)
        widest = max(abs(float(end)) for end in ends[0])  # on all images
        assert (
            widest > 1 if name != "finetune_32" else f"(±{widest:.1f} points on all images)" in runs
        )
    channel, _ = gains("finetune_channel")
    rows, _ = gains("finetune")
    rows = rows[rows["category"].isin(channel["category"]) & (rows["fold"] == 0)]
    lower, levels = (recount.by_category(images, "iou").mean() for images in (channel, rows))
    assert "gives lower levels" in runs
    row = pd.read_csv(REPORTS / "finetune_channel/tables/image-iou.csv", index_col="row")
    change, *ends = row.loc["lovasz_hinge", ["difference", "difference_low", "difference_high"]]
    assert f"(gain {points(change)} [{', '.join(map(points, ends))}])" in runs
    assert (lower < levels[lower.index]).all()


def test_what_heads_show(text: str) -> None:
    """The gains are counted by hand; the intervals and the verdict are the reports'."""
    jaccard = []
    for name, said in (("head", "{} points over cross-entropy {}"), ("head_voc", "{} points {}")):
        rows, by_category = gains(name)
        shown = pd.read_csv(REPORTS / name / "tables/image-iou.csv", index_col="row")
        change, *ends = shown.loc[
            "lovasz_hinge", ["difference", "difference_low", "difference_high"]
        ]
        assert 100 * change == pytest.approx(by_category.mean())
        assert said.format(points(change), f"[{', '.join(map(points, ends))}]") in text
        levels = recount.by_category(rows[rows["loss"] != "untrained"], "iou").mean()
        assert levels.idxmax() == "soft_jaccard"
        row = shown.loc["soft_jaccard", ["difference", "difference_low", "difference_high"]]
        assert row["difference_low"] > 0
        jaccard.append("{} [{}, {}]".format(*map(points, row)))
        if name == "head":
            with_category = gain(rows[rows["has_category"] == 1]).mean()
            assert f"images with the category lose {-with_category:.1f} points" in text
    highest = f"has the highest mean: {' and '.join(jaccard)} over cross-entropy."
    assert f"In both, soft Jaccard per batch {highest}" in text
    claims = pd.read_csv(REPORTS / "head/tables/claims.csv", index_col="key")
    assert claims.loc["best_image_iou", "verdict"] == "reproduced"
    assert "On a head on frozen ImageNet features the claim is reproduced" in text


def test_a_chosen_threshold_lowers_every_loss(runs: str) -> None:
    rows, _ = gains("finetune")
    trained = [loss for loss in rows["loss"].unique() if loss != "untrained"]
    change = recount.by_category(rows, "tuned_iou") - recount.by_category(rows, "iou")
    assert (change[trained].mean() < 0).all()
    held = []
    with zipfile.ZipFile(REPORTS / "finetune/records.zip") as content:
        for name in content.namelist():
            if name.startswith("cells/") and name.endswith("result.json"):
                held.append(json.loads(content.read(name))["held_out_images"])
    assert (
        f"({statistics.median_low(held)} in the median cell) lowers the image-IoU of every loss"
        in runs
    )


def test_how_more_steps_did(runs: str) -> None:
    choices = []
    for own in stored("finetune", "tuning.json").values():
        for entry in own.values() if isinstance(own, dict) else []:
            trials = pd.DataFrame(entry["trials"]).query("lr == @entry['lr']")
            means = trials.groupby("steps")["image_iou"].mean()
            choices.append(means[180] - means[60])
    repeated = stored("finetune_wide", "tuning.json")
    folds = [own for own in repeated.values() if isinstance(own, dict)]
    assert {entry["steps"] for own in folds for entry in own.values()} == {60}
    assert "`finetune_wide` uses 60." in runs
    assert len(choices) == 10
    assert "In most cells the loss still falls then." in runs
    for name in SPLITS:
        curves = recount.images(REPORTS / name / "records.zip", "curve.csv")
        ends = (
            curves.sort_values("step")
            .groupby(recount.KEYS)["train_loss"]
            .agg(lambda x: x.iloc[-1] < 0.99 * x.iloc[-2] if len(x) > 1 else None)
        )
        assert ends.dropna().mean() > 0.5
    assert max(choices) < 0
    assert "180 steps at the rate chosen for 60 lower the held-out image-IoU in all ten" in runs


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
