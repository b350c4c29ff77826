"""Val images that TensorBoard shows of a cell, each with truth, prediction and error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize
from torchvision.utils import draw_segmentation_masks, make_grid

from lovasz_repro.data.cache import ImageCache
from lovasz_repro.data.datamodule import DataModule, Task
from lovasz_repro.data.voc import VOID
from lovasz_repro.training.segmenter import BinarySegmenter

TITLE = "val/image, truth, prediction, error (red: too much, blue: missed)"
RED, BLUE = (230, 51, 26), (26, 128, 230)


def log_pictures(
    loggers: Sequence[Logger], module: BinarySegmenter, data: DataModule, count: int
) -> None:
    """Write `count` val images of a tested module to TensorBoard."""
    boards = [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
    if not count or not boards:
        return
    panels: list[Tensor] = []
    for i in np.linspace(0, len(module.rows) - 1, count).astype(int):
        cache, index = data.source.cache, module.rows[i]["index"]
        panels += overlay(cache, index, module.thumbnails[i], data.task)
    for logger in boards:
        logger.experiment.add_image(TITLE, make_grid(panels, 4, 0), module.curve[-1]["step"])


def overlay(cache: ImageCache, index: int, prediction: Tensor, task: Task) -> list[Tensor]:
    """(3, C, C) uint8 each: image, truth, prediction, error. prediction: (C, C) bool."""
    side = prediction.shape[-1]
    h, w = cache.sizes[index]
    height, width = (max(1, round(side * n / max(h, w))) for n in (h, w))

    def small(array: np.ndarray, mode: InterpolationMode) -> Tensor:
        """(C, h, w) shrunk to the thumbnail's size, at the top left of a square."""
        planes = resize(torch.from_numpy(array.copy()), [height, width], mode)
        return F.pad(planes, (0, side - width, 0, side - height))

    image = small(cache.images[index, :, :h, :w], InterpolationMode.BILINEAR)
    labels = small(cache.masks[index, None, :h, :w], InterpolationMode.NEAREST_EXACT)
    truth = task.target(labels, labels.eq(task.label or 0).flatten(1).any(1))[0]
    grey = torch.where(truth == VOID, 128, 255 * (truth == 1)).byte().expand(3, -1, -1)
    error = (image * 0.35).byte()
    wrong = torch.stack([prediction & (truth == 0), ~prediction & (truth == 1)])
    if wrong.any():
        error = draw_segmentation_masks(error, wrong, alpha=1.0, colors=[RED, BLUE])
    return [image, grey, (255 * prediction).byte().expand(3, -1, -1), error]
