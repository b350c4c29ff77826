"""What the cells of an experiment share, opened when first used: lists, caches, folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger
from torch import nn

from lovasz_repro import files
from lovasz_repro.config import Experiment, Optim
from lovasz_repro.config.sections import of_fold
from lovasz_repro.data.binary import SamplePlan, balanced_selection, check_both
from lovasz_repro.data.cache import ImageCache
from lovasz_repro.data.datamodule import DataModule, Task
from lovasz_repro.data.folds import share_out
from lovasz_repro.data.integrity import Digests, content_digest, digests
from lovasz_repro.data.reading import Source
from lovasz_repro.data.voc import VOC
from lovasz_repro.environment import keep_freed_memory
from lovasz_repro.errors import UserError
from lovasz_repro.models.deeplab import DeepLab, build, state_digest
from lovasz_repro.records import Json
from lovasz_repro.study.features import with_features
from lovasz_repro.training.logs import make_loggers
from lovasz_repro.training.loop import device_type

NETWORK_BYTES = 10 << 30
"""Memory of a GPU that a training needs beside the data; more than ResNet-101's at 321²."""


def room_for_data(free: float) -> float:
    """How many of a GPU's free bytes the data may take: all but `NETWORK_BYTES`, at least half."""
    return max(free / 2, free - NETWORK_BYTES)


class Workspace:
    """An experiment with its data and networks. Each is opened when first used.

    Creating one changes settings of the whole process: threads, memory, subnormal numbers, and
    Lightning's rank.

    Args:
        rank: which of `runtime.devices` this process has; only 0 writes records.
    """

    def __init__(self, config: Experiment, rank: int = 0) -> None:
        self.config = config
        self.rank = rank
        self.folder = config.folder
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        # Gradients of confident pixels are subnormal numbers, with which a CPU multiplies several
        # times slower. Torch's threads inherit the setting when they start.
        torch.set_flush_denormal(True)
        keep_freed_memory()
        # If SLURM started several processes, Lightning would take them for ranks of one training,
        # of which only the first logs.
        rank_zero_only.rank = rank  # type: ignore[attr-defined]
        self._sources: dict[str, Source] = {}
        self.bases: dict[int, tuple[DeepLab, str]] = {}
        self._holdouts: dict[int, NDArray[np.int64]] = {}

    @cached_property
    def device(self) -> torch.device:
        """Raises: UserError if CUDA is asked for but absent."""
        wanted = device_type(self.config.runtime.device, "runtime.device")
        return torch.device(wanted, self.rank) if wanted == "cuda" else torch.device(wanted)

    @cached_property
    def voc(self) -> VOC:
        return VOC(Path(self.config.data.root), self.config.data.classes)

    def list_ids(self, kind: str, fold: int) -> list[str]:
        """The ids of the `train` or `val` list of a fold."""
        return self.voc.ids(self.list_name(kind, fold))

    def list_name(self, kind: str, fold: int) -> str:
        return of_fold(getattr(self.config.data, f"{kind}_list"), fold)

    @cached_property
    def folds(self) -> list[int]:
        """The folds that the data's lists make; [0] if the list names have no {fold}."""
        template = self.config.data.val_list
        if "{fold}" not in template:
            return [0]
        pattern = re.escape(template).replace(re.escape("{fold}"), r"(\d+)")
        matches = (re.fullmatch(pattern, name) for name in self.voc.list_names())
        folds = sorted(int(match[1]) for match in matches if match)
        if not folds:
            raise UserError(
                f"data.val_list: no list is called {template!r} in {self.voc.lists_folder}; "
                f"there is {', '.join(self.voc.list_names())}"
            )
        return folds

    @cached_property
    def contents(self) -> Digests:
        """The hashes of all images and masks that the lists of a fold name."""
        kinds = ("train", "val")
        ids = {name for fold in self.folds for kind in kinds for name in self.list_ids(kind, fold)}
        return digests(self.voc, ids, Path(self.config.data.cache))

    @cached_property
    def data(self) -> Json:
        """The data entry of `study.json`: all folds' lists and the weights, with hashes.

        Raises: UserError if an image is in both lists of a fold.
        """
        lists = {}
        for fold in self.folds:
            train, val = (self.list_ids(kind, fold) for kind in ("train", "val"))
            if both := set(train) & set(val):
                raise UserError(
                    f"{len(both)} images are in the training and the val list of fold {fold}, "
                    f"{min(both)} the first: {self.voc.lists_folder}"
                )
            for kind, ids in (("train", train), ("val", val)):
                name = self.list_name(kind, fold)
                digest = files.sha256("\n".join(ids).encode())
                lists[name] = {
                    "images": len(ids),
                    "sha256": digest,
                    "content": content_digest(self.voc, ids, self.contents),
                }
        weights = []
        for path in dict.fromkeys(map(self.config.network.weights_of, self.folds)):
            if path is None:
                return {"lists": lists}
            if not Path(path).is_file():
                raise UserError(f"network.weights: there is no file {path}")
            digest = files.sha256(Path(path).read_bytes())
            weights.append({"file": Path(path).name, "sha256": digest})
        return {"lists": lists, "weights": weights}

    @cached_property
    def digest(self) -> str:
        """Hash of the settings, without the images' content, which `open_run` compares."""
        return self.config.digest(self.data)

    @cached_property
    def images(self) -> ImageCache:
        data = self.config.data
        return ImageCache.open(self.voc, self.contents, data.image_size, Path(data.cache))

    def holdout(self, fold: int) -> NDArray[np.int64]:
        """The images of a fold's training list that nothing is trained on; see `config.Tuning`.

        Raises: UserError if there is none.
        """
        if fold in self._holdouts:
            return self._holdouts[fold]
        tuning = self.config.tuning
        listed = set(self.list_ids("train", fold))
        if tuning.holdout_list is not None:
            listed &= set(self.voc.ids(tuning.holdout_list))
        candidates = self.images.indices(sorted(listed))
        counts = self.images.counts[candidates]
        labels = [frozenset((np.flatnonzero(row[1:]) + 1).tolist()) for row in counts]
        parts = share_out(labels, tuning.holdout, seed=0) if labels else []
        part = np.array(parts, dtype=np.int64)
        if not (part == 0).any():
            raise UserError(
                f"tuning.holdout_list: the training list of fold {fold} and "
                f"{tuning.holdout_list!r} share {len(candidates)} images, too few to hold any out"
            )
        self._holdouts[fold] = candidates[part == 0]
        return self._holdouts[fold]

    def train_index(self, fold: int) -> NDArray[np.int64]:
        """The images that bases, trials and cells of a fold train on, as indices into the cache."""
        return np.setdiff1d(self.index("train", fold), self.holdout(fold))

    def source(self, network: DeepLab, frozen: nn.Module | None) -> Source:
        """The arrays to read from: images, or the output of the frozen part of `network`."""
        stride = network.stride
        digest = state_digest(frozen) if frozen else ""
        if (key := f"{stride}-{digest}") not in self._sources:
            cache = self.images
            source = Source(
                cache, cache.images, cache.masks,
                np.ascontiguousarray(cache.masks[:, ::stride, ::stride]), None, stride,
                network.mean.cpu(), network.std.cpu(),
            )  # fmt: skip
            if frozen is not None:
                frozen = frozen.to(self.device).eval()
                source = with_features(
                    source, frozen, digest, self.config.data, self.config.runtime, self.device
                )
            # Where no training starts from the images they are read once, to score a base.
            trained_on = frozen is not None or "all" in (
                self.config.base.train,
                self.config.network.train,
            )
            if self.device.type == "cuda" and trained_on:
                size = sum(rows.nbytes for rows in source.needed().values())
                free = torch.cuda.mem_get_info(self.device)[0] / self.config.runtime.workers
                if size < room_for_data(free):
                    source = source.resident(self.device)
            self._sources[key] = source
        return self._sources[key]

    def features(self) -> None:
        """Compute the features of bases that train only a head, before several processes need
        them."""
        if self.config.base.train == "head":
            for fold in self.config.cells.folds:
                whole = build(self.config.network, fold, labels=self.config.data.labels)
                self.source(whole, whole.split("head", "")[0])
            self.forget()

    def forget(self) -> None:
        """Free this process's GPU arrays so that worker processes can use the memory."""
        self._sources.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def loggers(self, name: str, version: str) -> list[Logger]:
        """The loggers of a training; none above rank 0."""
        kinds = [] if self.rank else self.config.runtime.loggers
        return make_loggers(kinds, self.folder, name, version)

    def base_folder(self, fold: int) -> Path:
        return self.folder / "base" / f"fold{fold}"

    def index(self, kind: str, fold: int) -> NDArray[np.int64]:
        """The images of a fold's list as indices into the cache."""
        return self.images.indices(self.list_ids(kind, fold))

    def present(self, category: str) -> NDArray[np.bool_]:
        """(N,) whether each image of the cache holds the category."""
        return self.images.counts[:, self.config.data.label(category)] > 0

    def check_draws(self, categories: Iterable[str], folds: Iterable[int]) -> None:
        """Raise UserError if none or all of a fold's training images contain a category."""
        for fold in folds:
            index = self.train_index(fold)
            for category in categories:
                check_both(self.present(category)[index], f"{category}, fold {fold}")

    def selection(
        self, category: str, index: NDArray[np.int64], limit: int | None = None
    ) -> NDArray[np.int64]:
        """Of these images: `limit` or all with the category, `data.negatives` times as many without
        it.

        Raises: UserError if none or all hold the category: both kinds are reported.
        """
        data = self.config.data
        present = self.present(category)[index]
        chosen = balanced_selection(present, data.negatives, data.val_seed, limit)
        if not present.any() or present[chosen].all():
            which = "each" if present.any() else "none"
            raise UserError(f"{category}: {which} of the {len(index)} images to score holds it")
        return index[chosen]

    def data_module(
        self, source: Source, task: Task, plan: SamplePlan, val_index: NDArray[np.int64],
        optim: Optim,
    ) -> DataModule:  # fmt: skip
        return DataModule(
            source, task, plan, val_index,
            epoch_steps=optim.validate_every,
            crop_size=self.config.data.crop_size,
            share=(self.rank, self.config.runtime.devices),
            eval_batch=self.config.runtime.eval_batch,
            # At the files' sizes one image fills a CPU's caches.
            test_batch=self.config.runtime.eval_batch if self.device.type == "cuda" else 1,
        )  # fmt: skip
