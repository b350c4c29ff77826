"""TensorBoard's view of a whole study: the losses side by side, one chart per category."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from lovasz_repro.records import load


def write_overview(runs: Path) -> None:
    """Write the run `overview`: image-IoU over steps, mean over folds and seeds, and the layout
    that puts a category's losses into one chart (TensorBoard's Custom Scalars)."""
    folder = runs / "tensorboard" / "overview"
    shutil.rmtree(folder, ignore_errors=True)  # events are only ever appended
    records = load(runs)
    if records.curves.empty:
        return
    means = records.curves.groupby(["category", "loss", "step"], sort=True)["image_iou"].mean()
    charts: dict[str, list[str]] = {}
    with SummaryWriter(str(folder)) as writer:
        for (category, loss, step), value in means.items():
            tag = f"{category}/{loss}"
            writer.add_scalar(tag, value, step)
            if tag not in charts.setdefault(category, []):
                charts[category].append(tag)
        layout = {
            "image-IoU on val by training loss": {
                category: ["Multiline", tags] for category, tags in charts.items()
            }
        }
        writer.add_custom_scalars(layout)
