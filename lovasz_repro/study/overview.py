"""TensorBoard's view of a whole study: the losses side by side, one chart per category."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from lovasz_repro.records import load


def write_overview(runs: Path) -> None:
    """Write a run `overview/<loss>` each: image-IoU by category, mean over folds and seeds.

    TensorBoard colours by run, so a category's chart has a line per loss, each of its own colour.
    The same charts are laid out under Custom Scalars.
    """
    folder = runs / "tensorboard" / "overview"
    shutil.rmtree(folder, ignore_errors=True)  # events are only ever appended
    records = load(runs)
    if records.curves.empty:
        return
    means = records.curves.groupby(["loss", "category", "step"], sort=True)["image_iou"].mean()
    for loss, curves in means.groupby(level="loss"):
        with SummaryWriter(str(folder / str(loss))) as writer:
            for (_, category, step), value in curves.items():
                writer.add_scalar(f"image-IoU/{category}", value, step)
            charts = {
                category: ["Multiline", [f"image-IoU/{category}"]]
                for category in records.grid.categories
            }
            writer.add_custom_scalars({"image-IoU on val by training loss": charts})
