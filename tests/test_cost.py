"""The cost model gives back the seconds that it was made from, and adds them up as workers do."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_study import command

from lovasz_repro import cost
from lovasz_repro.__main__ import main
from lovasz_repro.config import Optim
from lovasz_repro.cost import Rates, measured
from lovasz_repro.records import Json, write_json

OPTIM = Optim(steps=100, validate_every=50)
TRUE = Rates(step=0.2, validate=0.01, evaluate=0.03, overhead=1.5, base=60.0, source="a test")


def taken(images: int, slower: float = 1.0) -> Json:
    """The cost.json of a cell that keeps to TRUE."""
    return {
        "images": images,
        "train_seconds": slower * 100 * TRUE.step,
        "validate_seconds": slower * 2 * images * TRUE.validate,
        "evaluate_seconds": slower * images * TRUE.evaluate,
        "total_seconds": slower * (20 + images * 0.05) + TRUE.overhead,
    }


def test_rates_are_those_of_the_cells() -> None:
    costs = [taken(80), taken(300), taken(120), taken(90, slower=7)]  # one was disturbed
    rates = measured(costs, OPTIM, [{"total_seconds": 60.0}], "a test")
    for name in ("step", "validate", "evaluate", "overhead", "base"):
        assert getattr(rates, name) == pytest.approx(getattr(TRUE, name), rel=1e-6), name


def test_a_cell_is_predicted_from_its_images() -> None:
    assert TRUE.cell(OPTIM, 300) == pytest.approx(taken(300)["total_seconds"])


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [(1, 14.0), (2, 8.0), (3, 6.0), (9, 5.0)],  # two: 3 + 5 on one, 1 + 1 + 4 on the other
)
def test_workers_share_jobs_in_their_order(workers: int, seconds: float) -> None:
    assert cost._shared([3, 1, 1, 4, 5], workers) == pytest.approx(seconds)


def test_dry_run_estimates_by_the_benchmark_until_cells_are_done(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    write_json(folder / cost.FILE, vars(TRUE))
    assert main([*command(shapes_root, tmp_path), "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "4 trials to run" in out
    # 4 trials of 2 steps in one category; 4 cells of 6 steps and 3 validations.
    assert "left: base networks 60 s, learning rates 2 s, cells" in out
    assert "by a test" in out
