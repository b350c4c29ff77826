"""Batches are the same wherever the arrays lie, and at full size whatever is evaluated at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from lovasz_repro.config import Network, Optim
from lovasz_repro.data.binary import SamplePlan
from lovasz_repro.data.reading import Source
from lovasz_repro.data.voc import VOID
from lovasz_repro.losses import hinge
from lovasz_repro.models.deeplab import build
from lovasz_repro.training.segmenter import BinarySegmenter
from tests.helpers.batches import BIRD, module


def test_resident_arrays_give_the_same_batches(source: Source) -> None:
    resident = source.resident(torch.device("cpu"))
    assert isinstance(resident.images, torch.Tensor)
    loaders = ("train_dataloader", "val_dataloader", "test_dataloader")
    for name in loaders:
        there, here = module(resident), module(source)
        for one, other in zip(getattr(there, name)(), getattr(here, name)(), strict=True):
            for left, right in zip(there.prepare(one), here.prepare(other), strict=True):
                assert torch.equal(left, right), name


def test_labels_at_full_size_are_the_files(source: Source) -> None:
    data = module(source, test_batch=3)
    seen = set()
    for raw in data.test_dataloader():
        batch = data.prepare(raw)
        for i, target, (height, width) in zip(
            batch.chosen.tolist(), batch.native, batch.native_sizes.tolist(), strict=True
        ):
            seen.add(i)
            mask = source.cache.native_mask(i)
            assert mask.shape == (height, width)
            expected = (mask == BIRD).astype("u1")
            if (mask == BIRD).any():
                expected[mask == VOID] = VOID
            assert np.array_equal(target[:height, :width], expected)
            assert target[height:].eq(VOID).all()
            assert target[:, width:].eq(VOID).all()
    assert len(seen) == len(source.cache.ids)


def test_evaluation_in_batches_is_that_of_single_images(source: Source) -> None:
    """Counts and IoU to the bit; the losses to the rounding of sums over a padded image."""
    torch.manual_seed(0)
    network = build(Network(kind="deeplab_v2", backbone="test_resnet", output_stride=16))
    tables, pictures = [], []
    for size in (1, 5):
        data = module(source, size)
        segmenter = BinarySegmenter(
            network.binary(BIRD, "channel"), hinge, Optim(), 1e-3, 16
        ).eval()
        segmenter.threshold = 0.01
        segmenter.on_test_epoch_start()
        with torch.inference_mode():
            for number, raw in enumerate(data.test_dataloader()):
                segmenter.test_step(data.prepare(raw), number)
        segmenter.on_test_epoch_end()
        tables.append(pd.DataFrame(segmenter.rows))
        pictures.append(torch.stack(segmenter.thumbnails))
    assert tables[0]["index"].tolist() == sorted(tables[0]["index"])
    assert tables[0]["fp"].sum() > 0
    pd.testing.assert_frame_equal(*tables, rtol=2e-6)
    exact = [c for c in tables[0] if c.endswith(("tp", "fp", "fn", "iou", "index"))]
    pd.testing.assert_frame_equal(tables[0][exact], tables[1][exact], check_exact=True)
    assert torch.equal(*pictures)


def test_what_torch_draws_follows_from_seed_and_epoch(source: Source) -> None:
    """Dropout, in a cell that was resumed or came after others."""
    drawn = []
    for seed in (0, 0, 1):
        data = module(source)
        data.plan = SamplePlan(seed, 4, data.plan.groups)
        next(iter(data.train_dataloader()))
        drawn.append(torch.rand(8))
        torch.rand(3)  # another cell
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
