"""The sections of an experiment's configuration, one class each."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from lovasz_repro.data.voc import CATEGORIES
from lovasz_repro.errors import UserError
from lovasz_repro.schema import is_name

LARGEST = 2**53
"""What a record can hold of a fold or a seed."""

MAX_CLASSES = 253
"""Labels are bytes; 254 and 255 have a meaning of their own."""


def _check_positive(part: object, prefix: str, *keys: str) -> None:
    """Raise UserError naming the key whose value is not a finite number above 0; None is left."""
    for key in keys:
        if (value := getattr(part, key)) is not None and not 0 < value < math.inf:
            raise UserError(f"{prefix}{key}: {value} is not a positive number")


def _check_not_negative(part: object, prefix: str, *keys: str) -> None:
    for key in keys:
        if not 0 <= (value := getattr(part, key)) < math.inf:
            raise UserError(f"{prefix}{key}: {value} is negative or not finite")


def check_count(key: str, number: int) -> None:
    """Raise UserError naming the key if a record cannot hold this fold or seed."""
    if not 0 <= number <= LARGEST:
        raise UserError(f"{key}: {number} is not from 0 to 2^53")


def _check_counts(part: object, prefix: str, *keys: str) -> None:
    for key in keys:
        for number in getattr(part, key):
            check_count(f"{prefix}{key}", number)


def _check_once(part: object, prefix: str, *keys: str) -> None:
    """Raise UserError naming the key if a value stands in its list twice."""
    for key in keys:
        if twice := [x for x, times in Counter(getattr(part, key)).items() if times > 1]:
            raise UserError(f"{prefix}{key}: {twice[0]} is named twice")


def of_fold(name: str, fold: int) -> str:
    """The name with {fold} replaced; other braces stay."""
    return name.replace("{fold}", str(fold))


def check_steps(key: str, steps: int, validate_every: int) -> None:
    if steps < 1 or steps % validate_every:
        raise UserError(
            f"{key}: {steps} is not a positive multiple of validate_every ({validate_every})"
        )


@dataclass(frozen=True)
class Data:
    """Which images, and what training and evaluation see of them.

    Args:
        root: folder that holds VOCdevkit/VOC2012, or JPEGImages, SegmentationClass and ImageSets
            as that folder does.
        classes: names of the labels 1, 2, … in the masks; 0 is background, 255 void. The default
            is VOC's 20.
        train_list: list of training images; {fold} is replaced by the cell's fold.
        val_list: list of the images that are scored.
        cache: folder of the memory-mapped arrays.
        image_size: longest side in the cache in pixels, a multiple of the output stride
            plus 1, so that the network's grid meets the canvas's corners; larger images are
            shrunk to it, smaller ones kept.
        crop_size: side of the training crop in pixels, as above.
        views: fixed random crops per image. Where a part of the network is frozen (network.train:
            top or head), its output is computed once for each of them, and training draws among
            them, the same for every loss. 0: the whole image, neither scaled nor cropped.
        scale: smallest and largest random scale of a training image.
        flip: mirror half of the training crops.
        positive_fraction: share of the training draws that come from images with the category.
        void_in_empty: what void pixels are in an image without the category. The original sets
            everything there to background.
        negatives: val images without the category per val image with it.
        val_seed: of the draw of images without the category, for scoring and for holding out.
    """

    root: str = "data/voc"
    classes: list[str] = field(default_factory=lambda: list(CATEGORIES))
    train_list: str = "trainaug"
    val_list: str = "val"
    cache: str = ".cache"
    image_size: int = 513
    crop_size: int = 321
    views: int = 0
    scale: tuple[float, float] = (0.5, 1.5)
    flip: bool = True
    positive_fraction: float = 0.5
    void_in_empty: Literal["background", "void"] = "background"
    negatives: float = 1.0
    val_seed: int = 0

    def __post_init__(self) -> None:
        self._check_classes()
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise UserError(f"data.scale: {self.scale} is not 0 < smallest <= largest < infinity")
        _check_not_negative(self, "data.", "views", "val_seed")
        # Scores are told apart by images with the category and without, so there are negatives.
        _check_positive(self, "data.", "image_size", "crop_size", "negatives")
        if not 0 <= self.positive_fraction <= 1:
            raise UserError(f"data.positive_fraction: {self.positive_fraction} is not in [0, 1]")

    def _check_classes(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise UserError(
                f"data.classes: {len(self.classes)} names; there can be 1 to {MAX_CLASSES}"
            )
        for name in self.classes:
            if not is_name(name) or name == "background":
                raise UserError(
                    f"data.classes: {name!r} cannot name a class and its folder; up to 128 "
                    "letters, digits and _ - . can, and background is label 0"
                )
            if self.classes.count(name) > 1:
                raise UserError(f"data.classes: {name!r} is there twice")

    @property
    def labels(self) -> int:
        """How many labels there are, background included."""
        return len(self.classes) + 1

    def label(self, category: str) -> int:
        """The category's label in the masks, and its channel in a base network."""
        return self.classes.index(category) + 1


@dataclass(frozen=True)
class Network:
    """The segmentation network.

    Args:
        kind: `deeplab_v2` (a timm backbone with the summed atrous head), torchvision's
            `deeplabv3_resnet101` with its COCO weights, or `deeplabv3_mobilenetv2`, TensorFlow's
            published network, trained on COCO and VOC (`lovasz-repro data weights` fetches it).
        backbone: name of the timm model; only for deeplab_v2.
        weights: file with a state dict, of the backbone (deeplab_v2 only) or of the whole network,
            such as another experiment's runs/<name>/base/fold{fold}/network.pt. {fold} is replaced
            by the cell's fold. None: from scratch for deeplab_v2, torchvision's download for
            deeplabv3_resnet101; deeplabv3_mobilenetv2 needs its file.
        output_stride: pixels of the image per cell of the output grid; 8 for
            deeplabv3_resnet101, 16 for deeplabv3_mobilenetv2.
        rates: dilation rates of the head's four branches (deeplab_v2 only).
        score: the binary score of a category. `channel`: its channel, as the original.
            `log_odds`: its channel minus the log-sum-exp of the others, whose zero is where the
            network of all labels itself is undecided.
        train: what a cell trains: `all` of the network, its `top` from the block `split` on, or
            its `head`. The output of what lies before is computed once.
        split: name of the first block that `top` trains, such as blocks.7 (mobilenetv2) or layer4
            (resnet101).
        freeze_batchnorm: keep the statistics and the affine part of BatchNorm as loaded. False
            only for a network from scratch, and only in its base: a cell always freezes.
    """

    kind: Literal["deeplab_v2", "deeplabv3_resnet101", "deeplabv3_mobilenetv2"] = (
        "deeplabv3_resnet101"
    )
    backbone: str = "tf_efficientnet_lite0"
    weights: str | None = None
    output_stride: Literal[8, 16] = 8
    rates: tuple[int, int, int, int] = (6, 12, 18, 24)
    score: Literal["channel", "log_odds"] = "channel"
    train: Literal["all", "top", "head"] = "all"
    split: str = "layer4"
    freeze_batchnorm: bool = True

    def __post_init__(self) -> None:
        stride = {"deeplabv3_resnet101": 8, "deeplabv3_mobilenetv2": 16}.get(self.kind)
        if stride not in (None, self.output_stride):
            raise UserError(
                f"network.output_stride: {self.kind} has {stride}, not {self.output_stride}"
            )
        if self.kind == "deeplabv3_mobilenetv2" and not self.weights:
            raise UserError(
                "network.weights: deeplabv3_mobilenetv2 needs its file; `lovasz-repro data weights`"
                " fetches it"
            )
        if self.kind != "deeplab_v2" and not self.freeze_batchnorm:
            raise UserError(f"network.freeze_batchnorm: {self.kind} always freezes it")
        if self.kind == "deeplab_v2" and self.train == "top":
            raise UserError("network.train: top is not possible for deeplab_v2; there is all, head")

    def weights_of(self, fold: int) -> str | None:
        """The weights file of a fold."""
        return self.weights and of_fold(self.weights, fold)


@dataclass(frozen=True)
class Optim:
    """SGD of the cells; under `base.optim` that of the base network.

    Args:
        lr: learning rate of the head; of a cell only where `tuning.lrs` is empty, so that no rate
            is chosen.
        backbone_lr_factor: the backbone's rate as a multiple of the head's.
        momentum: of SGD.
        weight_decay: of SGD.
        steps: training steps; of a cell only where `tuning.steps` is empty, so that none are
            chosen.
        batch_size: images a step.
        drop_at: fraction of the steps after which the rate is multiplied by `drop_factor`.
        drop_factor: what the rate is multiplied by after `drop_at` of the steps.
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

    def check(self, section: str) -> None:
        """Raises: UserError naming the key in its section: `optim.` or `base.optim.`"""
        _check_positive(self, section, "lr", "batch_size", "validate_every")
        _check_not_negative(
            self, section, "backbone_lr_factor", "momentum", "weight_decay", "drop_factor"
        )
        if not 0 < self.drop_at <= 1:
            raise UserError(f"{section}drop_at: {self.drop_at} is not in (0, 1]")
        check_steps(f"{section}steps", self.steps, self.validate_every)


@dataclass(frozen=True)
class Base:
    """How each fold's base network is made; every cell of the fold starts from it.

    Args:
        train: "all" or "head" trains it here with cross-entropy on all labels; "none" takes the
            network's own weights for all labels (deeplabv3_resnet101, or network.weights with a
            head).
        optim: its schedule.
        seed: of its initialisation and its draws; one base serves all seeds of the cells.
    """

    train: Literal["all", "head", "none"] = "none"
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-3))
    seed: int = 0

    def __post_init__(self) -> None:
        self.optim.check("base.optim.")
        if not 0 <= self.seed < 2**32:  # what Lightning can seed NumPy with
            raise UserError(f"base.seed: {self.seed} is not from 0 to 2^32 - 1")


@dataclass(frozen=True)
class Tuning:
    """The choice of learning rate and steps per fold and loss, and of each binary cell's threshold.

    All are chosen on held-out images: images of the fold's own training list that neither its base
    network, nor a trial, nor a cell trains on. What is chosen for a fold serves that fold alone.
    Every loss gets the same trials, by the same rule.

    Args:
        lrs: the rates tried; empty: `optim.lr` for every loss.
        extend: at most so many further rates. While the best rate is the lowest or the highest
            tried, one more beyond it is tried, at the ratio that it has to its neighbour.
        steps: training steps of a trial. The rate is chosen at the first of them; the others are
            tried at that rate. Empty: `optim.steps`.
        categories: which categories a (rate, steps) pair is scored on; its score is their mean.
            A multi-class pair is one trial on all labels, scored by mIoU.
        seeds: the k-th category trains with the k-th of these seeds, in turn.
        holdout: one candidate in so many is held out (5: a fifth), evenly over the categories.
        holdout_list: the candidates are the training images that this list holds too; None: all
            of them. A published network has seen VOC's training images, so with folds of VOC's val
            list this is `val`.
    """

    lrs: list[float] = field(default_factory=list)
    extend: int = 0
    steps: list[int] = field(default_factory=list)
    categories: list[str] = field(
        default_factory=lambda: ["aeroplane", "bottle", "cat", "chair", "person", "train"]
    )
    seeds: list[int] = field(default_factory=lambda: [100, 101])
    holdout: int = 5
    holdout_list: str | None = None

    def __post_init__(self) -> None:
        for lr in self.lrs:
            if not (math.isfinite(lr) and lr > 0):
                raise UserError(f"tuning.lrs: {lr} is not a positive number")
        _check_not_negative(self, "tuning.", "extend")
        if self.extend and len(set(self.lrs)) == 1:
            raise UserError("tuning.extend: needs two rates in tuning.lrs to go on from")
        if self.holdout < 2:
            raise UserError(f"tuning.holdout: {self.holdout} parts leave nothing to train on")
        _check_counts(self, "tuning.", "seeds")
        _check_once(self, "tuning.", "categories")
        for key in ("categories", "seeds"):
            if self.lrs and not getattr(self, key):
                raise UserError(f"tuning.{key}: empty, but tuning.lrs is not")


@dataclass(frozen=True)
class Cells:
    """The grid: every category × loss × fold × seed is one cell. The network before fine-tuning is
    scored beside the losses.

    Args:
        categories: the categories trained and scored; empty: all of data.classes. Where
            `Experiment.task` is multiclass all labels are learned at once, under the name "all".
        losses: the training losses by their names, `mixtures` included. `NAME.batch40` trains with
            40 images a step instead of `optim.batch_size`, on as many images in all: the steps are
            fewer in the same proportion (multiclass only).
        folds: which of the data's folds.
        seeds: of the draws of training images.
        folds_per_partition: how many folds share out the images once. With 2, folds 0 and 1 score
            every image, folds 2 and 3 score every image again, after another partition and with
            other base networks; the report then gives the spread between partitions. 0: all folds
            belong to one partition.
    """

    categories: list[str] = field(default_factory=list)
    losses: list[str] = field(
        default_factory=lambda: ["cross_entropy", "hinge", "soft_jaccard", "lovasz_hinge"]
    )
    folds: list[int] = field(default_factory=lambda: [0])
    seeds: list[int] = field(default_factory=lambda: [0])
    folds_per_partition: int = 0

    def __post_init__(self) -> None:
        for key in ("losses", "folds", "seeds"):
            if not getattr(self, key):
                raise UserError(f"cells.{key}: empty")
        _check_once(self, "cells.", "categories", "losses", "folds", "seeds")
        _check_counts(self, "cells.", "folds", "seeds")
        _check_not_negative(self, "cells.", "folds_per_partition")


DDP = ("ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
"""Strategies that leave the whole network in each process, as everything after a training needs."""


NUMERIC = ("precision", "devices")
"""Keys of `Runtime` that change a number beyond its last digits."""


@dataclass(frozen=True)
class Runtime:
    """Where and how it runs.

    Args:
        device: cpu, cuda, or auto (cuda where there is one).
        precision: Lightning's precision. torch takes float32 convolutions in TF32 on a GPU that has
            it.
        keep_weights: which finished cells keep what they trained, for `lovasz-repro predict`: none,
            the best of each category by image-IoU, or all.
        eval_batch: val images evaluated at once.
        loggers: where a training is logged: tensorboard, csv (metrics.csv beside TensorBoard's
            files), wandb (to be installed apart). Empty: nowhere; the records are kept anyway.
        overlays: how many fixed val images TensorBoard shows; 0: none.
        devices: how many one training shares; each takes its part of every batch. The loss is the
            mean of the devices' losses. It differs for losses over the whole batch.
        strategy: Lightning's, for several devices: one of its ddp family.
        workers: processes that run a study's cells side by side.
        threads: CPU threads of each; None: torch's choice, or all cores shared out. Sums are
            rounded differently with it, and training magnifies that: records made with other
            numbers of threads are not the same.
        cpus_per_cell: CPUs that a cell takes of a Ray cluster.
        gpus_per_cell: GPUs that a cell takes of a Ray cluster; a fraction shares one. None is taken
            where `device` is cpu, or auto and the cluster has none.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    keep_weights: Literal["none", "best", "all"] = "none"
    eval_batch: int = 8
    loggers: list[Literal["tensorboard", "csv", "wandb"]] = field(
        default_factory=lambda: ["tensorboard", "csv"]
    )
    overlays: int = 4
    devices: int = 1
    strategy: str = "auto"
    workers: int = 1
    threads: int | None = None
    cpus_per_cell: float = 1.0
    gpus_per_cell: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(
            self, "runtime.",
            "eval_batch", "devices", "workers", "threads", "cpus_per_cell", "gpus_per_cell",
        )  # fmt: skip
        _check_not_negative(self, "runtime.", "overlays")
        if self.devices > 1 and self.workers > 1:
            raise UserError("runtime.devices, runtime.workers: only one of them can be above 1")
        if self.strategy not in ("auto", *DDP):
            known = ", ".join(["auto", *DDP])
            raise UserError(f"runtime.strategy: {self.strategy!r} is not one of {known}")
        for key in ("cpus_per_cell", "gpus_per_cell"):
            if (value := getattr(self, key)) > 1 and value != int(value):
                raise UserError(f"runtime.{key}: {value} is neither whole nor below 1, as Ray asks")
