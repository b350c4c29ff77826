"""The typed configuration of an experiment; every default is the original's value.

One YAML file in `experiments/` fills these classes; any key can be overridden on the command line
(`--optim.steps 200`). Unknown keys, wrong types and impossible values are errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lovasz_repro.config.digest import check_settings, settings_digest
from lovasz_repro.config.sections import (
    Base,
    Cells,
    Data,
    Network,
    Optim,
    Runtime,
    Tuning,
    check_steps,
)
from lovasz_repro.errors import UserError, choices
from lovasz_repro.schema import ALL_LABELS, batch_of, is_name, without_batch

__all__ = [
    "Base", "Cells", "Data", "Experiment", "Network", "Optim", "Runtime", "Tuning",
    "check_settings", "settings_digest",
]  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One file of `experiments/`.

    Args:
        name: its records go to <runs>/<name>, its report to reports/<name>.
        task: `binary`, a category against the rest, as in the paper's main experiment; or
            `multiclass`, all labels at once under the softmax losses.
        expected: how long it takes on what, for a person who asks before it is run. If it names a
            GPU, run_all.sh asks for one.
        runs: folder of all records.
        mixtures: losses of one's own, as weights of registered ones.
        data: which images, and what training and evaluation see of them.
        network: the segmentation network.
        base: how the network that every cell starts from is made.
        optim: SGD for the cells.
        tuning: how learning rates and steps are chosen.
        cells: the grid of categories, losses, folds and seeds.
        runtime: where and how it runs.
    """

    name: str
    task: Literal["binary", "multiclass"] = "binary"
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
        self._check_names()
        self.optim.check("optim.")
        self._fill_categories()
        self._check_losses()
        for steps in self.tuning.steps:
            check_steps("tuning.steps", steps, self.optim.validate_every)
        self._check_sizes()
        trained = self.network.kind != "deeplab_v2" or self.network.weights
        if self.base.train == "none" and not trained:
            raise UserError(
                "base.train: none needs a network with weights for all labels of its own"
            )

    def _check_names(self) -> None:
        for where, name in [("name", self.name), *(("mixtures", name) for name in self.mixtures)]:
            _check_name(where, name)
        if self.mixtures:
            from lovasz_repro.losses import LOSSES, MULTICLASS_LOSSES
            from lovasz_repro.records import UNTRAINED

            for name in sorted({*LOSSES, *MULTICLASS_LOSSES, UNTRAINED} & set(self.mixtures)):
                raise UserError(f"mixtures: {name!r} is taken; give the mixture another name")

    def _fill_categories(self) -> None:
        """Name the categories that the task has, where the configuration need not."""
        if self.multiclass:
            if self.runtime.keep_weights != "none":
                raise UserError("runtime.keep_weights: a multi-class study keeps none")
            for key in ("cells", "tuning"):
                whole = replace(getattr(self, key), categories=[ALL_LABELS])
                object.__setattr__(self, key, whole)
        elif not self.cells.categories:
            whole = replace(self.cells, categories=list(self.data.classes))
            object.__setattr__(self, "cells", whole)
        for category in self.cells.categories:
            self.known_category(category, "cells.categories")
        for category in self.tuning.categories if self.tuning.lrs else []:
            self.known_category(category, "tuning.categories")

    def _check_losses(self) -> None:
        for loss in self.cells.losses:
            self.known_loss(loss)
            for steps in {self.optim.validate_every, self.optim.steps, *self.tuning.steps}:
                if steps * self.optim.batch_size % self.batch_size(loss):
                    raise UserError(
                        f"cells.losses: {loss}: {steps} steps of {self.optim.batch_size} images "
                        f"are no whole number of steps of {self.batch_size(loss)}"
                    )

    def _check_sizes(self) -> None:
        """Batches are shared by the devices; the network's grid meets the canvas's corners."""
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
                below = (size - 1) // stride * stride + 1
                raise UserError(
                    f"data.{key}: {size} is not a multiple of {stride}, plus 1; {below} and "
                    f"{below + stride} are"
                )

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name

    @property
    def multiclass(self) -> bool:
        return self.task == "multiclass"

    @property
    def measure(self) -> str:
        """The key of the measure that validation shows and that chooses a learning rate."""
        return "miou" if self.multiclass else "image_iou"

    def batch_size(self, loss: str) -> int:
        """Images a step of a loss of `cells.losses`."""
        return batch_of(loss) or self.optim.batch_size

    def steps(self, loss: str, steps: int) -> int:
        """How many steps of a loss see as many images as `steps` of `optim.batch_size`."""
        return steps * self.optim.batch_size // self.batch_size(loss)

    def known_category(self, name: str, key: str = "category") -> str:
        """`name`; raises UserError listing the categories there are."""
        there = [ALL_LABELS] if self.multiclass else self.data.classes
        if name not in there:
            raise UserError(f"{key}: there is no {name!r}; {choices(name, there)}")
        return name

    def known_loss(self, name: str) -> str:
        """`name`; raises UserError listing the losses there are."""
        from lovasz_repro.losses import LOSSES, MULTICLASS_LOSSES

        there = [*(MULTICLASS_LOSSES if self.multiclass else LOSSES), *self.mixtures]
        bare = without_batch(name) if self.multiclass else name
        if bare not in there:
            other = "binary" if self.multiclass else "multiclass"
            hint = ""
            if bare in (LOSSES if self.multiclass else MULTICLASS_LOSSES):
                hint = f". A study with task: {other} has it"
            raise UserError(f"loss: there is no {name!r}; {choices(bare, there)}{hint}")
        _check_name("loss", name)  # the registry takes any
        self.loss(name)
        return name

    def loss(self, name: str) -> Callable[[Any, Any], Any]:
        """A loss (logits, target) -> scalar of the task's registry or of `mixtures`."""
        # Not above, not even for its types, which jsonargparse looks up: `--help` would wait a
        # second for torch.
        from lovasz_repro.losses import LOSSES, MULTICLASS_LOSSES, make_loss

        bare = without_batch(name)
        try:
            spec = self.mixtures.get(bare, bare)
            return make_loss(spec, MULTICLASS_LOSSES if self.multiclass else LOSSES)
        except ValueError as error:
            raise UserError(f"mixtures.{name}: {error}") from error

    def digest(self, data: dict[str, Any]) -> str:
        """Hash of what changes a number in every cell's records: configuration, data, code.

        Left out: the grid, folders, and what only changes where it runs, so a study can grow; and
        what a cell's own result.json says (its rate, steps, and the weights of a mixture).

        Args:
            data: what `study.json` says of the lists and weights.
        """
        return settings_digest(asdict(self), data)


def _check_name(where: str, name: str) -> None:
    if not is_name(name):
        raise UserError(
            f"{where}: {name!r} is to be the name of a folder: letters, digits, _ . and - "
            "(without '..')"
        )
