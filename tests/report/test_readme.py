"""The figures in README's own sentences, counted from the committed records with pandas alone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.helpers import recount
from tests.helpers.places import ROOT

REPORTS = ROOT / "reports"


def stored(report: str, name: str) -> Any:
    with zipfile.ZipFile(REPORTS / report / "records.zip") as content:
        return json.loads(content.read(name))


@pytest.fixture(scope="module")
def text() -> str:
    """README's words, whatever its line breaks."""
    return " ".join(Path(ROOT / "README.md").read_text("utf-8").split())


def test_the_images_that_are_scored_and_seen(text: str) -> None:
    lists = stored("finetune", "study.json")["data"]["lists"]
    scored = recount.images(REPORTS / "finetune/records.zip")["id"].nunique()
    assert scored == lists["fold0_val"]["images"] + lists["fold1_val"]["images"]
    assert f"All {scored:,} val images are scored" in text
    seen = lists["fold0_train"]["images"] - lists["fold1_val"]["images"]
    trained = stored("finetune", "cells/cat/hinge/fold0-seed0/result.json")["train_images"]
    assert f"the {seen:,} `trainaug` images, {100 * seen / trained:.0f} % of those" in text


def test_the_gain_of_each_seed(text: str) -> None:
    rows = recount.images(REPORTS / "finetune/records.zip")
    said = []
    for part in (rows, rows[rows["has_category"] == 1]):
        for _, own in part.groupby("seed"):
            levels = recount.by_category(own, "iou")
            said.append(f"+{100 * (levels['lovasz_hinge'] - levels['cross_entropy']).mean():.1f}")
    assert f"Seed 0 alone gives {said[0]} points, seed 1 alone {said[1]}" in text
    assert said[2] == said[3]
    assert f"on images with the category each gives {said[2]}." in text


def test_the_rates_of_the_other_split(text: str) -> None:
    here, there = (stored(name, "tuning.json") for name in ("finetune", "finetune_repeat"))
    rates = [here[f"fold{fold}"]["cross_entropy"]["lr"] for fold in (0, 1)]
    ratio = there["fold2"]["cross_entropy"]["lr"] / rates[0]
    assert rates[0] == rates[1]
    assert round(ratio) == 3
    assert "cross-entropy's chosen rate is three times as high" in text


def test_how_more_steps_did(text: str) -> None:
    choices = []
    for own in stored("finetune", "tuning.json").values():
        for entry in own.values() if isinstance(own, dict) else []:
            trials = pd.DataFrame(entry["trials"]).query("lr == @entry['lr']")
            means = trials.groupby("steps")["image_iou"].mean()
            choices.append(means[180] - means[60])
    assert len(choices) == 10
    assert max(choices) < 0
    assert "180 steps at the same rate lower the held-out image-IoU in all ten choices" in text


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
