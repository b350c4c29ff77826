"""TensorBoard's view of a whole study: the losses side by side, one chart per category."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from lovasz_repro.records import load


def write_overview(runs: Path) -> None:
    """Write a run `overview/<loss>` per loss: the score by category, mean over folds and seeds.

    TensorBoard colours by run, so that a category's chart has a line per loss in its own colour.
    Custom Scalars shows the same charts.
    """
    folder = runs / "tensorboard" / "overview"
    shutil.rmtree(folder, ignore_errors=True)  # events are only ever appended
    records = load(runs, gallery=False)
    if records.curves.empty:
        return
    measure, name = ("miou", "mIoU") if records.multiclass else ("image_iou", "image-IoU")
    means = records.curves.groupby(["loss", "category", "step"], sort=True)[measure].mean()
    for loss, curves in means.groupby(level="loss"):
        with SummaryWriter(str(folder / str(loss))) as writer:
            for (_, category, step), value in curves.items():
                writer.add_scalar(f"{name}/{category}", value, step)
            charts = {
                category: ["Multiline", [f"{name}/{category}"]]
                for category in records.grid.categories
            }
            writer.add_custom_scalars({f"{name} on val by training loss": charts})
