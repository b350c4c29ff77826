"""The typed configuration of an experiment; every default is the original's value.

One YAML file in `experiments/` fills these classes; any key can be overridden on the command line
(`--optim.steps 200`). Unknown keys, wrong types and impossible values are errors.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lovasz_repro.errors import UserError
from lovasz_repro.losses import LOSSES, Loss, make_loss
from lovasz_repro.voc import CATEGORIES

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Data:
    """Which images, and what training and evaluation see of them.

    Args:
        root: folder that holds VOCdevkit/VOC2012.
        train_list: list of training images; {fold} is replaced by the cell's fold.
        val_list: list of the images that are scored.
        cache: folder of the memory-mapped arrays.
        image_size: longest side in the cache in pixels, a multiple of the output stride
            plus 1, so that the network's grid meets the canvas's corners; larger images are
            shrunk to it, smaller ones kept.
        crop_size: side of the training crop in pixels, as above.
        scale: smallest and largest random scale of a training image.
        flip: mirror half of the training crops.
        positive_fraction: share of the training draws that come from images with the category.
        void_in_empty: what void pixels are in an image without the category. The original sets
            everything there to background.
        negatives: val images without the category per val image with it.
        val_seed: which of them are drawn.
    """

    root: str = "data/voc"
    train_list: str = "trainaug"
    val_list: str = "val"
    cache: str = ".cache"
    image_size: int = 513
    crop_size: int = 321
    scale: tuple[float, float] = (0.5, 1.5)
    flip: bool = True
    positive_fraction: float = 0.5
    void_in_empty: Literal["background", "void"] = "background"
    negatives: float = 1.0
    val_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"data.scale: {self.scale} is not 0 < smallest <= largest")
        if not 0 <= self.positive_fraction <= 1:
            raise UserError(f"data.positive_fraction: {self.positive_fraction} is not in [0, 1]")


@dataclass(frozen=True)
class Network:
    """The segmentation network.

    Args:
        kind: `deeplab_v2` (a timm backbone with the summed atrous head) or torchvision's
            `deeplabv3_resnet101` with its COCO weights.
        backbone: name of the timm model; only for deeplab_v2.
        weights: file with a state dict, of the backbone (deeplab_v2 only) or of the whole network,
            such as another experiment's runs/<name>/base/fold{fold}/network.pt. {fold} is replaced
            by the cell's fold. None: from scratch for deeplab_v2, torchvision's download for
            deeplabv3_resnet101.
        output_stride: pixels of the image per cell of the output grid.
        rates: dilation rates of the head's four branches.
        train: what a cell trains: the whole network, or the head on features computed once.
        freeze_batchnorm: keep the statistics and the affine part of BatchNorm as loaded. False
            only for a network from scratch, and only in its base: a cell always freezes.
    """

    kind: Literal["deeplab_v2", "deeplabv3_resnet101"] = "deeplabv3_resnet101"
    backbone: str = "tf_efficientnet_lite0"
    weights: str | None = None
    output_stride: Literal[8, 16] = 8
    rates: tuple[int, int, int, int] = (6, 12, 18, 24)
    train: Literal["all", "head"] = "all"
    freeze_batchnorm: bool = True

    def weights_of(self, fold: int) -> str | None:
        """The weights file of a fold."""
        return self.weights and self.weights.format(fold=fold)


@dataclass(frozen=True)
class Optim:
    """SGD for the binary cells.

    Args:
        lr: learning rate of the head where `tuning.lrs` is empty, so no rate is chosen per loss.
        backbone_lr_factor: the backbone's rate as a multiple of the head's.
        momentum, weight_decay: as in SGD.
        steps: training steps of a cell.
        batch_size: images a step.
        drop_at: fraction of the steps after which the rate is multiplied by `drop_factor`.
        drop_factor: see there.
        validate_every: steps between two points of the validation curve; a resumed cell starts
            from the last of them.
    """

    lr: float = 5e-4
    backbone_lr_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    steps: int = 1000
    batch_size: int = 10
    drop_at: float = 0.5
    drop_factor: float = 0.2
    validate_every: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1 or self.steps % self.validate_every:
            raise UserError(
                f"steps: {self.steps} is not a positive multiple of "
                f"validate_every ({self.validate_every})"
            )
        for key in ("lr", "batch_size"):
            if not getattr(self, key) > 0:
                raise UserError(f"{key}: {getattr(self, key)} is not positive")


@dataclass(frozen=True)
class Base:
    """How the 21-way network that every cell of a fold starts from is made.

    Args:
        train: "all" or "head" trains it here with cross-entropy on all 21 labels; "none" takes the
            network's own 21-way weights (deeplabv3_resnet101, or network.weights with a head).
        optim: its schedule.
        seed: of its initialisation and its draws; one base serves all seeds of the cells.
    """

    train: Literal["all", "head", "none"] = "none"
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-3))
    seed: int = 0


@dataclass(frozen=True)
class Tuning:
    """The choice of one learning rate per loss, on training images only.

    A fifth of a fold's training list is held out; each rate trains on the rest and is scored by
    image-IoU on the held-out images, averaged over the categories. Every loss gets the same budget.

    Args:
        lrs: the rates tried; empty: `optim.lr` for every loss.
        categories: which categories are trained for it.
        fold: on which fold's training list.
        steps: training steps per trial.
    """

    lrs: list[float] = field(default_factory=list)
    categories: list[str] = field(default_factory=lambda: ["aeroplane", "cat", "chair", "person"])
    fold: int = 0
    steps: int = 100


@dataclass(frozen=True)
class Cells:
    """The grid: every category × loss × fold × seed is one cell."""

    categories: list[str] = field(default_factory=lambda: list(CATEGORIES))
    losses: list[str] = field(
        default_factory=lambda: ["cross_entropy", "hinge", "soft_jaccard", "lovasz_hinge"]
    )
    folds: list[int] = field(default_factory=lambda: [0])
    seeds: list[int] = field(default_factory=lambda: [0])


DDP = ("ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
"""Strategies that leave the whole network in each process, as everything after a training needs."""


@dataclass(frozen=True)
class Runtime:
    """Where and how it runs.

    Args:
        device: cpu, cuda, or auto (cuda where there is one).
        precision: Lightning's precision. torch takes float32 convolutions in TF32 on a GPU that has
            it.
        eval_batch: val images evaluated at once.
        overlays: how many fixed val images TensorBoard shows; 0: none.
        devices: how many one training shares; each takes its part of every batch. The loss is the
            mean of the parts' losses, so it is another one where a loss is not a mean over images.
        strategy: Lightning's, for several devices: one of its ddp family.
        workers: processes that run a study's cells side by side.
        threads: CPU threads of each; None: torch's choice, or all cores shared out. The last
            digits of sums, and so of the records, depend on it.
        cpus_per_cell, gpus_per_cell: what a cell takes of a Ray cluster; a fraction shares a GPU.
            No GPU is taken where `device` is cpu, or auto and the cluster has none.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    eval_batch: int = 8
    overlays: int = 4
    devices: int = 1
    strategy: str = "auto"
    workers: int = 1
    threads: int | None = None
    cpus_per_cell: float = 1.0
    gpus_per_cell: float = 1.0

    def __post_init__(self) -> None:
        for key in ("devices", "workers", "threads"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"runtime.{key}: {value} is not positive")
        if self.devices > 1 and self.workers > 1:
            raise UserError("runtime.devices, runtime.workers: only one of them can be above 1")
        if self.strategy not in ("auto", *DDP):
            known = ", ".join(["auto", *DDP])
            raise UserError(f"runtime.strategy: {self.strategy!r} is not one of {known}")
        for key in ("cpus_per_cell", "gpus_per_cell"):
            if not (value := getattr(self, key)) > 0:
                raise UserError(f"runtime.{key}: {value} is not positive")
            if value > 1 and value != int(value):
                raise UserError(f"runtime.{key}: {value} is neither whole nor below 1, as Ray asks")

    def numeric(self) -> dict[str, Any]:
        """What changes a number beyond its last digits."""
        return {"precision": self.precision, "devices": self.devices}


@dataclass(frozen=True)
class Experiment:
    """One file of `experiments/`.

    Args:
        name: its records go to <runs>/<name>, its report to reports/<name>.
        expected: how long it takes on what, for a person who asks before it is run.
        runs: folder of all records.
        mixtures: losses of one's own, as weights of registered ones.
        data, network, base, optim, tuning, cells, runtime: see each.
    """

    name: str
    expected: str = "unknown"
    runs: str = "runs"
    mixtures: dict[str, dict[str, float]] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    base: Base = field(default_factory=Base)
    optim: Optim = field(default_factory=Optim)
    tuning: Tuning = field(default_factory=Tuning)
    cells: Cells = field(default_factory=Cells)
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        for category in [*self.cells.categories, *self.tuning.categories]:
            known_category(category)
        for loss in self.cells.losses:
            self.known_loss(loss)
        devices = self.runtime.devices
        for where, optim in (("optim", self.optim), ("base.optim", self.base.optim)):
            if optim.batch_size % devices:
                raise UserError(
                    f"{where}.batch_size: {optim.batch_size} images cannot be shared equally by "
                    f"{devices} devices (runtime.devices)"
                )
        stride = self.network.output_stride
        for key in ("image_size", "crop_size"):
            if getattr(self.data, key) % stride != 1:
                size = getattr(self.data, key)
                raise UserError(f"data.{key}: {size} is not a multiple of {stride}, plus 1")
        trained = self.network.kind != "deeplab_v2" or self.network.weights
        if self.base.train == "none" and not trained:
            raise UserError("base.train: none needs a network with 21-way weights of its own")

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name

    def known_loss(self, name: str) -> str:
        """`name`; raises UserError listing the losses there are."""
        if name not in self.mixtures and name not in LOSSES:
            there = ", ".join([*LOSSES, *self.mixtures])
            raise UserError(f"loss: there is no {name!r}; there is {there}")
        self.loss(name)
        return name

    def loss(self, name: str) -> Loss:
        """A loss of `LOSSES` or of `mixtures`."""
        return make_loss(self.mixtures.get(name, name))

    def digest(self, data: dict[str, Any]) -> str:
        """Hash of what changes a number in a cell's records: configuration, data lists, code.

        The grid, folders, and what only changes where it runs are left out, so a study can grow.
        `data` is what `study.json` says of the lists and weights.
        """
        config = asdict(self)
        for key in ("name", "expected", "runs", "cells"):
            del config[key]
        config["runtime"] = self.runtime.numeric()
        for key in ("root", "cache"):
            del config["data"][key]
        del config["network"]["weights"]  # its content is in `data`
        text = json.dumps([config, data, numerics_digest()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


NUMERICS = (
    "augment", "binary", "cache", "cell", "datamodule", "deeplab", "losses", "lovasz", "metrics",
    "segmenter", "training", "voc", "workspace",
)  # fmt: skip
"""The modules whose code can change a number in the records."""


def numerics_digest() -> str:
    """Hash of the source of the numeric modules."""
    content = b"".join((PACKAGE / f"{name}.py").read_bytes() for name in NUMERICS)
    return hashlib.sha256(content).hexdigest()


def known_category(name: str) -> str:
    """`name`; raises UserError listing the categories there are."""
    if name not in CATEGORIES:
        raise UserError(f"category: there is no {name!r}; there is {', '.join(CATEGORIES)}")
    return name
