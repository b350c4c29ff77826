"""The 21-way network that all cells of a fold start from: published, or trained here."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytorch_lightning as pl
from rich.console import Console

from lovasz_repro.data.binary import SamplePlan
from lovasz_repro.data.datamodule import Task
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json, write_bytes, write_json
from lovasz_repro.losses import softmax_cross_entropy
from lovasz_repro.models.deeplab import DeepLab, build, not_finite, state_digest
from lovasz_repro.study.devices import on_all
from lovasz_repro.study.kept import stored_base
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.callbacks import Stopwatch
from lovasz_repro.training.logs import log_final
from lovasz_repro.training.loop import fit, make_trainer, saved, test
from lovasz_repro.training.segmenter import LabelSegmenter, NonFiniteError

console = Console(stderr=True, markup=False)


def base_network(workspace: Workspace, fold: int) -> tuple[DeepLab, str]:
    """The base network of a fold and its digest. It is made if it does not exist."""
    if fold not in workspace.bases:
        if not is_made(workspace, fold):
            on_all(workspace, _make, fold)
        folder, network = workspace.base_folder(fold), workspace.config.network
        workspace.bases[fold] = stored_base(folder, network, workspace.config.data.labels)
    return workspace.bases[fold]


def is_made(workspace: Workspace, fold: int) -> bool:
    """Whether a fold has a base network of the current settings; records.zip holds no networks."""
    folder = workspace.base_folder(fold)
    path = folder / "result.json"
    made = path.exists() and read_json(path).get("hash") == workspace.digest
    return made and (folder / "network.pt").exists()


def _make(workspace: Workspace, fold: int) -> None:
    started = time.perf_counter()
    base, folder = workspace.config.base, workspace.base_folder(fold)
    if not workspace.rank:
        how = (
            "taking the network's own weights, and scoring it" if base.train == "none"
            else f"training it, {base.optim.steps} steps; all cells of the fold start from it"
        )  # fmt: skip
        console.print(f"Base network of fold {fold}: not there yet: {how}", soft_wrap=True)
    pl.seed_everything(base.seed, verbose=False)
    labels = workspace.config.data.labels
    network = build(workspace.config.network, fold, labels=labels, complete=base.train == "none")
    frozen, trained = network.split("head" if base.train == "head" else "all", "")
    source = replace(workspace.source(network, frozen), views=0, view_features=None)
    module = LabelSegmenter(
        trained, softmax_cross_entropy, base.optim, base.optim.lr, network.stride, labels
    )
    plan = SamplePlan(
        base.seed, base.optim.batch_size, [(workspace.train_index(fold), 1.0)],
        workspace.config.data.scale, workspace.config.data.flip,
    )  # fmt: skip
    task = Task(None, "void")
    data = workspace.data_module(source, task, plan, workspace.index("val", fold), base.optim)
    loggers = [] if base.train == "none" else workspace.loggers("base", f"fold{fold}")
    trainer = make_trainer(
        module, workspace.config.runtime, workspace.device, f"base fold {fold}", folder=folder,
        identity=f"study {workspace.digest}; fold {fold}", loggers=loggers,
    )  # fmt: skip
    try:
        if base.train != "none":
            fit(trainer, module, data)
        if name := not_finite(network):
            raise NonFiniteError(f"{name} is not finite")
    except NonFiniteError as error:
        raise UserError(
            f"base.optim.lr: the base network of fold {fold} diverged at "
            f"{base.optim.lr:g} ({error}); a lower rate may help"
        ) from error
    test(trainer, module, data)
    if workspace.rank:
        return
    network = network.cpu()
    write_bytes(folder / "network.pt", saved(network.state_dict()))
    cost = Stopwatch.of(trainer).spent(started)
    write_json(folder / "cost.json", cost)
    names = ("background", *workspace.config.data.classes)
    ious = dict(zip(names, module.label_iou.tolist(), strict=True))
    miou = float(module.label_iou.nanmean())
    write_json(
        folder / "result.json",
        {
            "fold": fold,
            "hash": workspace.digest,
            "sha256": state_digest(network),
            "steps": 0 if base.train == "none" else base.optim.steps,
            "miou": miou,
            # A label that is neither in the val masks nor predicted has no IoU.
            "iou": {name: value for name, value in ious.items() if not math.isnan(value)},
            "curve": module.curve,
        },
    )
    (folder / "resume.ckpt").unlink(missing_ok=True)
    log_final(loggers, {}, {"final/miou": miou}, base.optim.steps)
    console.print(f"Base network of fold {fold}: mIoU {miou:.3f}, {cost['total_seconds']:.0f} s")
