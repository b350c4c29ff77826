"""The pictures that TensorBoard shows, against what the masks and the prediction say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lovasz_repro.data.datamodule import Task
from lovasz_repro.data.voc import CATEGORIES, VOID
from lovasz_repro.study.pictures import BLUE, RED, overlay
from lovasz_repro.study.workspace import Workspace
from tests.helpers.studies import tiny

BIRD = CATEGORIES.index("bird") + 1


@pytest.mark.parametrize("said", ["everything", "nothing", "truth"])
def test_the_error_is_red_where_too_much_and_blue_where_missed(
    said: str, shapes_root: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tiny(shapes_root, tmp_path))
    index = int(np.flatnonzero(workspace.present("bird"))[0])
    cache = workspace.images
    side = int(cache.sizes[index].max())  # thumbnails are as large as the image: nothing shrinks
    height, width = cache.sizes[index]
    labels = torch.from_numpy(cache.masks[index, :height, :width].copy())
    bird = torch.zeros(side, side, dtype=torch.bool)
    bird[:height, :width] = labels == BIRD
    void = torch.zeros_like(bird)
    void[:height, :width] = labels == VOID
    prediction = {"everything": bird | True, "nothing": bird & False, "truth": bird}[said]
    image, truth, shown, error = overlay(cache, index, prediction, Task(BIRD, "background"))
    assert (image[:, :height, :width].numpy() == cache.images[index, :, :height, :width]).all()
    assert torch.equal(truth[0] == 255, bird)
    assert torch.equal(truth[0] == 128, void)
    assert torch.equal(shown[0] == 255, prediction)

    def coloured(colour: tuple[int, int, int]) -> Tensor:
        return (error == torch.tensor(colour).view(3, 1, 1)).all(0)

    assert torch.equal(coloured(RED), prediction & ~bird & ~void)
    assert torch.equal(coloured(BLUE), bird & ~prediction)
