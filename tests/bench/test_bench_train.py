"""The benchmarks of training run, and what they say of themselves adds up."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from lovasz_repro.__main__ import main
from lovasz_repro.bench.plain import Files
from lovasz_repro.data.voc import VOC
from tests.helpers.studies import command


def bench(what: str, shapes_root: Path, runs: Path) -> list[str]:
    return ["bench", what, *command(shapes_root, runs)[1:], "--category", "bird"]


def test_three_ways_to_train(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "train.csv"
    arguments = [*bench("train", shapes_root, tmp_path), "--steps", "2", "--rounds", "1"]
    assert main([*arguments, "--out", str(out), "--trained", "[all, head]", "--cell"]) == 0
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    experiments = {row["experiment"] for row in table}
    assert experiments == {"demo-all", "demo-head"}
    for name in experiments:
        adds_up({row["what"]: row for row in table if row["experiment"] == name})
    assert "this pipeline" in capsys.readouterr().out


def adds_up(rows: dict[str, dict[str, str]]) -> None:
    ways = ["bare step", "this pipeline", "Lightning, DataLoader, transforms"]
    assert [name for name, row in rows.items() if row["kind"] == "way"] == ways
    bare = float(rows["bare step"]["milliseconds"])
    for name in ways:
        each = float(rows[name]["milliseconds"])
        assert float(rows[name]["ratio"]) == pytest.approx(bare / each)
    parts = [row for row in rows.values() if row["kind"] == "part"]
    assert sum(float(row["ratio"]) for row in parts) == pytest.approx(1)
    ours = float(rows["this pipeline"]["milliseconds"])
    assert sum(float(row["milliseconds"]) for row in parts) == pytest.approx(ours)
    cell = {name: row for name, row in rows.items() if row["kind"] == "cell"}
    assert [name.split(",")[0] for name in cell] == ["training", "validation", "evaluation"]
    assert "training, 6 steps" in cell
    assert "validation, 3 times" in cell
    assert sum(float(row["ratio"]) for row in cell.values()) == pytest.approx(1)


def test_the_plain_data_set_gives_the_same_kind_of_sample(shapes_root: Path) -> None:
    class Source:
        stride = 16
        mean = std = torch.full((3,), 0.5)

    voc = VOC(shapes_root)
    name = next(n for n in voc.ids("fold0_train") if (voc.mask(n) == 3).any())
    files = [(str(voc.image_path(name)), str(voc.mask_path(name)))]
    image, target = Files(files, 3, 65, (0.5, 1.5), Source())[0]
    assert image.shape == (3, 65, 65)
    assert image.abs().max() <= 1
    assert target.shape == (5, 5)
    assert set(np.unique(target)) <= {0, 1, 255}
