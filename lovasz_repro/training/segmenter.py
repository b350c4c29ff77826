"""Lightning modules: all labels at once, or one category against the rest. Their batches are
`datamodule.Batch`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

from lovasz_repro.config import Optim
from lovasz_repro.data.datamodule import Batch
from lovasz_repro.data.voc import VOID
from lovasz_repro.errors import UserError
from lovasz_repro.losses import (
    Loss,
    cross_entropy,
    hinge,
    lovasz_hinge,
    soft_jaccard,
)
from lovasz_repro.models.deeplab import VOC_LABELS, DeepLab, not_finite, to_native
from lovasz_repro.records import MEASURES, Json
from lovasz_repro.training.metrics import (
    ImageIoU,
    LabelIoU,
    confusion,
    iou,
    iou_at_thresholds,
    label_confusion,
    oracle_iou,
)


class NonFiniteError(UserError):
    """A loss, a measure or a weight became infinite or NaN."""


class Segmenter(pl.LightningModule):
    """Base class of the modules: the optimiser, the training step and the logging.

    Validation logs its measures as `val/<measure>`, for loggers and for callbacks such as
    `ModelCheckpoint(monitor="val/image_iou", mode="max")`.

    Args:
        network: inputs -> logits (B, K, h, w) on the grid: a DeepLab, or only its head, whose
            inputs then are features.
        loss: (logits, target (B, h, w)) -> scalar.
        optim: the schedule. lr: the head's learning rate.
        stride: pixels of the canvas per cell of the grid.

    Attributes:
        curve: one row per validation.
        measure: the column of the curve that a progress bar shows.
    """

    measure: str

    def __init__(
        self, network: nn.Module, loss: Loss, optim: Optim, lr: float, stride: int
    ) -> None:
        super().__init__()
        self.network = network
        self._loss = loss
        self.optim = optim
        self.lr = lr
        self.stride = stride
        self.curve: list[dict[str, float]] = []
        self._loss_sum = torch.zeros(())  # of the steps since the last validation
        self._steps = 0
        self._train_loss = math.nan

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return logits.float()

    def native(self, batch: Batch, logits: Tensor) -> Tensor:
        """(B, K, h, w) logits of whole images -> (B, K, H, W), as `batch.native`."""
        height, width = batch.native.shape[1:]
        return to_native(logits, batch.sizes, batch.native_sizes, (height, width), self.stride)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The training loss of logits (B, K, h, w) and target (B, h, w)."""
        return self._loss(logits, target)

    def validation_values(self) -> dict[str, float]:
        """Return the measures of the validation that ends, and reset the metrics."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        parts = [("head", self.network, self.lr)]
        if isinstance(own := self.network, DeepLab):
            slow = self.lr * self.optim.backbone_lr_factor
            parts = [("backbone", own.backbone, slow), ("head", own.head, self.lr)]
        groups = []
        for name, part, lr in parts:  # a backbone may have nothing to train
            if trained := [p for p in part.parameters() if p.requires_grad]:
                groups.append({"params": trained, "lr": lr, "name": name})
        optimizer = torch.optim.SGD(
            groups, momentum=self.optim.momentum, weight_decay=self.optim.weight_decay
        )
        drop = int(self.optim.steps * self.optim.drop_at)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.optim.drop_factor if step >= drop else 1.0
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_epoch_start(self) -> None:
        self._loss_sum = torch.zeros((), device=self.device)
        self._steps = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(self(batch.inputs), batch.target)
        if loss.ndim or not loss.requires_grad:
            raise UserError(
                f"loss: it must return a scalar with a gradient, got shape {tuple(loss.shape)}"
                f"{'' if loss.requires_grad else ' without a gradient'}"
            )
        self._loss_sum += loss.detach()
        self._steps += 1
        # Lightning writes only these steps; logging each would cost a thirtieth of a short one.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            # Without batch_size, Lightning searches every tensor of the batch for it.
            self.log("train/loss", loss, on_step=True, on_epoch=False, batch_size=len(batch.target))
        return loss

    def on_validation_start(self) -> None:
        if not (steps := self._steps):  # not within training
            return
        # Reading the loss waits for the device, once.
        mean = float(self.trainer.strategy.reduce(self._loss_sum, reduce_op="mean")) / steps
        self._loss_sum.zero_()
        self._steps = 0
        if not math.isfinite(mean):
            raise NonFiniteError(
                f"training loss {mean} between steps {self.global_step - steps} and "
                f"{self.global_step}, learning rate {self.lr:g}"
            )
        self._train_loss = mean

    def on_validation_epoch_end(self) -> None:
        values = self.validation_values()
        if self.trainer.sanity_checking:  # a few batches before a training
            return
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise NonFiniteError(
                f"validation at step {self.global_step}: {', '.join(broken)} not finite, learning "
                f"rate {self.lr:g}"
            )
        self.curve.append({"step": self.global_step, "train_loss": self._train_loss, **values})
        logged = {f"val/{name}": value for name, value in values.items()}
        # Without `step` Lightning would log the last step's index, not the number of steps done.
        # Every device validates all images: `sync_dist` changes nothing, but Lightning wants it.
        logged["step"] = self.global_step
        self.log_dict(logged, batch_size=1, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = checkpoint["curve"]


class LabelSegmenter(Segmenter):
    """All labels at once: a base network, or a multi-class cell. Its measure is the mIoU over all
    val pixels.

    Args:
        network, loss, optim, lr, stride: as in `Segmenter`.
        labels: K, the background included.

    Attributes:
        label_iou: after a test, (K,) IoU of each label at the files' own sizes, NaN for a label in
            no truth and no prediction.
        rows: after a test, (R, 5) int64, one row per image and label in its truth or prediction:
            the image's index into the cache, the label, and tp, fp and fn in valid pixels at the
            file's size; in the order of the cache.
    """

    measure = "miou"

    def __init__(
        self, network: nn.Module, loss: Loss, optim: Optim, lr: float, stride: int,
        labels: int = VOC_LABELS,
    ) -> None:  # fmt: skip
        super().__init__(network, loss, optim, lr, stride)
        self.labels = labels
        self.metric = LabelIoU(labels)
        self.label_iou = torch.full((labels,), torch.nan)
        self.rows = torch.zeros(0, 5, dtype=torch.int64)
        self._tested: list[Tensor] = []

    def on_fit_end(self) -> None:
        """Raises: NonFiniteError. Logits that are not finite would still have a largest label."""
        if name := not_finite(self.network):
            raise NonFiniteError(f"{name} is not finite at learning rate {self.lr:g}")

    def _counts(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B, K, 3) counts of each image, with which the metric is updated."""
        # Not argmax: on a CPU it takes ten times as long.
        counts = label_confusion(logits.max(1).indices, target, self.labels)
        self.metric.update(counts)
        return counts

    def _take_label_iou(self) -> Tensor:
        values = self.metric.compute()
        self.metric.reset()
        return values

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._counts(self(batch.inputs), batch.target)

    def validation_values(self) -> dict[str, float]:
        return {self.measure: float(self._take_label_iou().nanmean())}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        counts = self._counts(self.native(batch, self(batch.inputs)), batch.native)
        image, label = torch.nonzero(counts.sum(2), as_tuple=True)
        chosen = batch.chosen.to(image.device)[image]
        head = torch.stack([chosen, label], 1)
        self._tested.append(torch.cat([head, counts[image, label]], 1).cpu())

    def on_test_epoch_end(self) -> None:
        self.label_iou = self._take_label_iou()
        rows = torch.cat(self._tested)
        self._tested = []
        self.rows = rows[(rows[:, 0] * self.labels + rows[:, 1]).argsort()]


class BinarySegmenter(Segmenter):
    """One category against the rest under any loss, measured by all four losses and image-IoU.

    A finished cell that kept its weights: `lovasz_repro.study.kept.load_cell(folder).network`.
    A checkpoint of your own Trainer: `load_from_checkpoint(path, network=..., loss=...)`; it holds
    the other arguments.

    Args:
        network: as in `Segmenter`, with one channel.
        loss: (logits, target) of one shape (B, ...) -> scalar.
        optim: the schedule, or its fields.
        lr, stride: as in `Segmenter`.

    Attributes:
        threshold: on the logits, chosen on held-out images, for the `tuned_` columns of a test.
        rows: after a test, `records.IMAGE_COLUMNS` of each image but its id, with its `index`.
        threshold_ious: after a test, (N, T) the IoU of each image at each of `THRESHOLDS`.
        thumbnails: after a test, each image's prediction on its canvas, (C, C) bool.
    """

    measure = "image_iou"
    THUMBNAIL = 160  # side of a thumbnail's canvas in pixels

    def __init__(
        self, network: nn.Module, loss: Loss, optim: Optim | Mapping[str, Any], lr: float,
        stride: int,
    ) -> None:  # fmt: skip
        optim = optim if isinstance(optim, Optim) else Optim(**optim)
        super().__init__(network, loss, optim, lr, stride)
        self.save_hyperparameters(
            {"optim": asdict(optim), "lr": lr, "stride": stride}, logger=False
        )
        self.threshold = 0.0
        self.image_iou = ImageIoU()
        means: dict[str, Metric | MetricCollection] = {}
        for name in MEASURES:
            means[name] = MeanMetric(nan_strategy="disable")  # NaN stays NaN
        self.losses = MetricCollection(means)
        self.rows: list[Json] = []
        self.threshold_ious: list[Tensor] = []
        self.thumbnails: list[Tensor] = []

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits[:, 0], target)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch.inputs)[:, 0]
        self.image_iou.update(logits > 0, batch.target)
        for name, value in measures(logits, batch.target).items():
            self.losses[name].update(value)

    def validation_values(self) -> dict[str, float]:
        values = {name: float(metric.compute()) for name, metric in self.losses.items()}
        values[self.measure] = float(self.image_iou.compute())
        self.losses.reset()
        self.image_iou.reset()
        return values

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Tensor]:
        """The logits of each image at its file's size, (H, W) float32, on the CPU."""
        logits = self.native(batch, self(batch.inputs))[:, 0].cpu()
        sizes = batch.native_sizes.tolist()
        return [row[:height, :width] for row, (height, width) in zip(logits, sizes, strict=True)]

    def on_test_epoch_start(self) -> None:
        self.rows, self.threshold_ious, self.thumbnails = [], [], []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        grids = self(batch.inputs)
        logits = self.native(batch, grids)[:, 0]
        rows = image_rows(logits, batch.native, self.threshold)
        self.threshold_ious += list(iou_at_thresholds(logits, batch.native).cpu())
        chosen = batch.chosen.tolist()
        self.rows += [{"index": i, **row} for i, row in zip(chosen, rows, strict=True)]
        self.thumbnails += self._thumbnails(batch, grids)

    def on_test_epoch_end(self) -> None:
        """Sort what was tested into the order of the cache."""
        order = sorted(range(len(self.rows)), key=lambda i: self.rows[i]["index"])
        self.rows = [self.rows[i] for i in order]
        self.thumbnails = [self.thumbnails[i] for i in order]
        self.threshold_ious = [self.threshold_ious[i] for i in order]

    def _thumbnails(self, batch: Batch, grids: Tensor) -> list[Tensor]:
        """(C, C) bool each: the image, its longest side C pixels, at the top left."""
        side = self.THUMBNAIL
        ratio = side / batch.sizes.amax(1, keepdim=True)
        sizes = (batch.sizes * ratio).round().clamp(min=1).long()
        small = to_native(grids, batch.sizes, sizes, (side, side), self.stride)
        return list((small[:, 0] > 0).cpu())


def measures(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The four losses of each image, by `records.MEASURES`: (B, ...) and (B, ...) -> (B,) each."""
    return {
        "cross_entropy": cross_entropy(logits, target, reduction="none"),
        "hinge": hinge(logits, target, reduction="none"),
        "soft_jaccard": soft_jaccard(logits, target, per_image=True, reduction="none"),
        "lovasz_hinge": lovasz_hinge(logits, target, per_image=True, reduction="none"),
    }


def image_rows(logits: Tensor, target: Tensor, threshold: float) -> list[Json]:
    """`records.IMAGE_COLUMNS` of each image but its id, from logits and target (B, H, W)."""
    columns = {"has_category": (target == 1).flatten(1).any(1)}
    for prefix, cut in (("", 0.0), ("tuned_", threshold)):
        counts = confusion(logits > cut, target)
        names = ("tp", "fp", "fn")
        columns |= {prefix + n: c for n, c in zip(names, counts.unbind(1), strict=True)}
        columns[prefix + "iou"] = iou(counts)
    columns["oracle_iou"] = oracle_iou(logits, target)
    valid = (target != VOID).flatten(1).sum(1)
    columns["object_fraction"] = (columns["tp"] + columns["fn"]).double() / valid.clamp(min=1)
    columns |= measures(logits, target)
    # One copy from the device; exact, since no count of pixels is beyond float64.
    table = torch.stack([column.double() for column in columns.values()], 1).tolist()
    whole = {name for name, column in columns.items() if not column.is_floating_point()}
    return [
        {n: int(v) if n in whole else v for n, v in zip(columns, row, strict=True)} for row in table
    ]
