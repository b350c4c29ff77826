"""The loss benchmark on inputs too small to time: what it reports, not how fast."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from lovasz_repro.bench import losses as bench
from lovasz_repro.errors import UserError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [bench.Case(2, 30, 30, gain=0), bench.Case(1, 30, 40, gain=4, classes=3)]
    monkeypatch.setattr(bench, "CASES", cases)


@pytest.mark.usefixtures("small")
def test_table_and_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no name is cut
    pytest.importorskip("segmentation_models_pytorch")
    pytest.importorskip("kornia")
    rows = bench.bench_loss(rounds=1, out=tmp_path / "loss.csv")
    printed = capsys.readouterr().out
    assert len(rows) == 13 + 7
    with (tmp_path / "loss.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["loss"] for row in written] == [row.loss for row in rows]
    assert [float(row["gradient_error"]) for row in written] == [r.gradient_error for r in rows]
    for row in rows:
        assert row.milliseconds > 0
        assert row.megabytes > 0
        # Exact losses to rounding, bins to their width.
        assert row.gradient_error < (0.05 if "bins" in row.loss else 1e-3)
        assert row.loss in printed
    assert [row.times_floor for row in rows if "(torch)" in row.loss] == [1, 1]
    assert rows[0].case == "2x30x30, hard"
    assert rows[-1].case == "1x30x40, 3 classes, easy"


@pytest.mark.usefixtures("small")
def test_missing_libraries_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    rows = bench.bench_loss(rounds=1)
    assert not {row.loss for row in rows} & {"smp", "kornia"}
    assert "segmentation_models_pytorch, kornia" in capsys.readouterr().out


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cpu"):
        bench.bench_loss("cuda")
