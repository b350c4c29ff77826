"""Scores on seen and unseen images: by hand for a network that knows one label, and the adjusted
difference against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

from lovasz_repro.__main__ import main
from lovasz_repro.bench import seen
from lovasz_repro.data.voc import VOC
from tests.helpers.places import ROOT


class AlwaysBackground(nn.Module):
    """Background with probability 1/2, the 20 others together 1/2."""

    mean, std, stride = torch.zeros(3), torch.ones(3), 8

    def forward(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), 21, images.shape[2] // 8 + 1, images.shape[3] // 8 + 1)
        scores[:, 0] = np.log(20)
        return scores


def test_each_image_has_its_row(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "build", lambda *_, **__: AlwaysBackground())
    out = tmp_path / "seen.csv"
    given = ["--config", str(ROOT / "experiments/demo.yaml"), "--data.root", str(shapes_root)]
    lists = ["--lists", "[fold0_val, fold1_val]", "--out", str(out)]
    assert main(["bench", "seen", *given, "--data.image_size", "513", *lists]) == 0
    table = pd.read_csv(out, keep_default_na=False)
    voc = VOC(shapes_root)
    assert table["id"].tolist() == [*voc.ids("fold0_val"), *voc.ids("fold1_val")]
    for row in table.itertuples():
        mask = voc.mask(row.id)
        counted = mask[mask != 255]
        labels = np.unique(counted)
        share = (counted == 0).mean()
        expected = share / len(labels)  # the others have an IoU of 0
        assert row.image_miou == pytest.approx(expected, abs=1e-5)
        right = share * np.log(2) + (1 - share) * np.log(40)
        assert row.cross_entropy == pytest.approx(right, abs=1e-5)
        assert len(row.labels.split()) == len(labels) - 1


def test_an_image_that_does_not_fit_is_named(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(seen, "build", lambda *_, **__: AlwaysBackground())
    given = ["--config", str(ROOT / "experiments/demo.yaml"), "--data.root", str(shapes_root)]
    lists = ["--lists", "[fold0_val]", "--out", str(tmp_path / "seen.csv")]
    assert main(["bench", "seen", *given, "--data.image_size", "33", *lists]) == 1
    said = capsys.readouterr().err
    assert "data.image_size: 33" in said
    assert VOC(shapes_root).ids("fold0_val")[0] in said


def test_the_advantage_is_that_of_a_regression() -> None:
    random = np.random.default_rng(0)
    names = np.array(["bird", "cat", "dog"])
    there = random.random((400, 3)) < 0.4
    inside = random.random(400) < 0.3 + 0.4 * there[:, 0]  # seen images hold more birds
    value = 0.05 * inside + there @ [0.3, -0.1, 0.0] + random.normal(0, 0.02, 400)
    table = pd.DataFrame(
        {
            "list": np.where(inside, "train", "val"),
            "labels": [" ".join(names[row]) for row in there],
            "image_miou": value,
        }
    )
    found, low, high = seen.advantage(table, "image_miou", "train")
    known = np.column_stack([inside, there, np.log1p(there.sum(axis=1))])
    assert found == pytest.approx(LinearRegression().fit(known, value).coef_[0])
    assert low < 0.05 < high
    assert high - low < 0.012
