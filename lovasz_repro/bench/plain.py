"""The usual way to train: a transform per image that decodes its files, and a short module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from lovasz_repro.config import Optim
from lovasz_repro.data.voc import VOID


class Files(Dataset[tuple[Tensor, Tensor]]):
    """The usual data set: decodes an image and its mask, and transforms the pair by itself."""

    def __init__(
        self, files: list[tuple[str, str]], label: int, size: int, scale: tuple[float, float],
        source: Any,
    ) -> None:  # fmt: skip
        self.files = files
        self.label = label
        self.stride = source.stride
        self.transform = v2.Compose(
            [
                v2.ScaleJitter((size, size), scale, InterpolationMode.BILINEAR, antialias=True),
                v2.RandomCrop(size, pad_if_needed=True, fill=_PADDING),
                v2.RandomHorizontalFlip(),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(source.mean.tolist(), source.std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.files[index]
        labels: NDArray[np.uint8] = np.asarray(Image.open(mask))
        target = np.where(labels == VOID, VOID, labels == self.label).astype("u1")
        pair = (
            tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(image).convert("RGB"))),
            tv_tensors.Mask(torch.from_numpy(target)),
        )
        picture, aim = self.transform(*pair)
        return picture, aim[:: self.stride, :: self.stride]


_PADDING = {tv_tensors.Image: 0, tv_tensors.Mask: VOID}


class Plain(pl.LightningModule):
    """A module with a training step and an optimiser."""

    def __init__(self, network: torch.nn.Module, loss: Callable[..., Tensor], optim: Optim) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.optim = optim

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, target = batch
        value = self.loss(self.network(images)[:, 0].float(), target)
        self.log("loss", value)
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, self.optim.lr, momentum=self.optim.momentum)
