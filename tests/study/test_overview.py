"""TensorBoard's overview against the curves in the records."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lovasz_repro.records import load
from lovasz_repro.study.overview import write_overview
from tests.helpers.synthetic import write_study


def test_one_run_per_loss_with_a_chart_per_category(tmp_path: Path) -> None:
    losses = ["cross_entropy", "lovasz_hinge"]
    write_study(
        tmp_path, categories=["cat", "dog"], losses=losses, folds=[0, 1], seeds=[0],
        images_per_cell=6,
    )  # fmt: skip
    for _ in range(2):  # written anew, not appended to
        write_overview(tmp_path)
    curves = load(tmp_path).curves
    for loss in losses:
        events = EventAccumulator(str(tmp_path / "tensorboard" / "overview" / loss))
        events.Reload()
        assert set(events.Tags()["scalars"]) >= {"image-IoU/cat", "image-IoU/dog"}
        points = {event.step: event.value for event in events.Scalars("image-IoU/cat")}
        rows = curves.query("loss == @loss and category == 'cat'")
        expected = rows.groupby("step")["image_iou"].mean()
        assert points == pytest.approx(expected.to_dict(), abs=1e-6)
