"""A data module on the generated shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lovasz_repro.config import Base, Data, Experiment, Network
from lovasz_repro.data.binary import SamplePlan
from lovasz_repro.data.datamodule import DataModule, Task
from lovasz_repro.data.reading import Source
from lovasz_repro.models.deeplab import build
from lovasz_repro.study.workspace import Workspace

BIRD = 3


@pytest.fixture(scope="module")
def source(shapes_root: Path) -> Source:
    torch.manual_seed(0)
    network = Network(kind="deeplab_v2", backbone="test_resnet", output_stride=16)
    data = Data(
        root=str(shapes_root), train_list="fold{fold}_train", val_list="fold{fold}_val",
        cache=str(shapes_root / "cache"), image_size=81,
    )  # fmt: skip
    workspace = Workspace(Experiment("tiny", data=data, network=network, base=Base("all")))
    return workspace.source(build(network), None)


def module(source: Source, test_batch: int = 1) -> DataModule:
    index = np.arange(len(source.cache.ids))
    plan = SamplePlan(0, 4, [(index, 1.0)], (0.5, 1.5), flip=True)
    result = DataModule(
        source, Task(BIRD, "background"), plan, index,
        epoch_steps=3, crop_size=65, eval_batch=4, test_batch=test_batch,
    )  # fmt: skip
    result.setup()
    return result
