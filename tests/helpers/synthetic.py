"""Records of a study that never ran, written to disk in the layout of `records.py`.

The numbers are drawn so that they look like those of a study: images differ, categories differ, a
loss shifts image-IoU by a known `effect`, and that shift varies with the category and the seed.
"""

from __future__ import annotations

import functools
import tempfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lovasz_repro.config import Cells, Experiment, Optim, Tuning
from lovasz_repro.files import write_json
from lovasz_repro.records import MEASURES, UNTRAINED, Cell, Grid, Json, Records, load
from lovasz_repro.records.cells import CURVE_COLUMNS, write_cell
from lovasz_repro.study.identity import _settings

CATEGORIES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
LOSSES = ("cross_entropy", "hinge", "soft_jaccard", "lovasz_hinge", "mixed", UNTRAINED)
EFFECT = {
    "lovasz_hinge": 0.05,
    "mixed": 0.03,
    "soft_jaccard": 0.02,
    "hinge": -0.01,
    UNTRAINED: -0.04,
}
RATES = (0.001, 0.003, 0.01, 0.03)

Floats = NDArray[np.float64]


def generator(*key: object) -> np.random.Generator:
    """A stream of its own for every key, the same on every machine."""
    return np.random.default_rng([zlib.crc32(str(part).encode()) for part in key])


def truth(category: str, fold: int, count: int) -> pd.DataFrame:
    """What every loss and seed shares: ids, presence (first half), sizes in pixels, difficulty."""
    draw = generator("truth", category, fold)
    present = np.arange(count) < (count + 1) // 2
    pixels = draw.integers(80_000, 180_000, count)
    size = np.clip(draw.lognormal(-2.5, 1.0, count), 5e-4, 0.9)
    return pd.DataFrame(
        {
            "id": [f"2007_{fold}{i:05d}" for i in range(count)],
            "has_category": present.astype(int),
            "pixels": pixels,
            "object": np.where(present, np.maximum(1, np.round(size * pixels)), 0),
            "difficulty": draw.normal(0, 0.15, count),
        }
    )


def counts(images: pd.DataFrame, iou: Floats, false_alarm: Floats) -> dict[str, Floats]:
    """tp, fp, fn, iou as whole pixels: half of what lacks in IoU is missed, half is false.

    false_alarm: (N,) share of the image that is wrongly foreground where the category is absent.
    """
    area = images["object"].to_numpy(float)
    present = area > 0
    union = area / (iou + (1 - iou) / 2)
    tp = np.minimum(np.round(iou * union), area)
    fp = np.where(present, np.round(union - area), np.round(false_alarm * images["pixels"]))
    total = fp + area
    # `where` leaves the 1 of an empty union in place.
    ratio = np.divide(tp, total, out=np.ones_like(tp), where=total > 0)
    return {"tp": tp, "fp": fp, "fn": area - tp, "iou": ratio}


def images_of(cell: Cell, count: int, effect: float) -> pd.DataFrame:
    """The rows of images.csv of one cell."""
    images = truth(cell.category, cell.fold, count)
    draw = generator("cell", cell)
    level = 0.55 + generator("category", cell.category).normal(0, 0.08)
    shift = effect + generator("shift", cell.category, cell.loss).normal(0, 0.02)
    seed = draw.normal(0, 0.01)
    score = level + shift + seed + images["difficulty"].to_numpy() + draw.normal(0, 0.08, count)
    alarm = np.where(draw.random(count) < 0.3 - effect, draw.uniform(0.001, 0.1, count), 0)
    plain = counts(images, np.clip(score, 0.02, 0.98), alarm)
    tuned = counts(images, np.clip(score + 0.02, 0.02, 0.98), alarm * (draw.random(count) < 0.8))
    measures = {
        name: 0.4 * (1.5 - plain["iou"]) + 0.1 * (name != cell.loss) + draw.uniform(0, 0.1, count)
        for name in MEASURES
    }
    return pd.DataFrame(
        {
            "id": images["id"],
            "has_category": images["has_category"],
            **{name: v if name == "iou" else v.astype(int) for name, v in plain.items()},
            **{f"tuned_{name}": v if name == "iou" else v.astype(int) for name, v in tuned.items()},
            "oracle_iou": np.maximum(np.maximum(plain["iou"], tuned["iou"]), images["object"] == 0),
            "object_fraction": images["object"] / images["pixels"],
            **measures,
        }
    )


def curve_of(cell: Cell, steps: int) -> pd.DataFrame:
    """The rows of curve.csv: six validations, falling losses and rising image-IoU. Of the untrained
    network there is one, at step 0."""
    draw = generator("curve", cell)
    step = np.linspace(steps / 6, steps, 6).astype(int) if steps else np.zeros(1)
    steps = max(steps, 1)
    decay = np.exp(-3 * step / steps)
    table = {name: 0.3 + 0.7 * decay + draw.normal(0, 0.01, len(step)) for name in MEASURES}
    image_iou = 0.6 - 0.3 * decay + draw.normal(0, 0.01, len(step))
    train_loss = np.where(step > 0, 0.2 + 0.8 * decay, np.nan)
    columns = {"step": step, "train_loss": train_loss, **table, "image_iou": image_iou}
    return pd.DataFrame(columns)[list(CURVE_COLUMNS)]


def thresholds_of(images: pd.DataFrame) -> pd.DataFrame:
    """The rows of thresholds.csv: at 0 what images.csv has, worse on both sides."""
    threshold = np.linspace(-8, 8, 33)
    present, absent = (images["iou"][images["has_category"] == k].mean() for k in (1, 0))
    return pd.DataFrame(
        {
            "threshold": threshold,
            "present": present * np.exp(-((threshold / 6) ** 2)),
            "absent": np.clip(absent + 0.05 * threshold, 0, 1),
        }
    )


def write_study(
    runs: Path,
    *,
    categories: Sequence[str] = CATEGORIES[:3],
    losses: Sequence[str] = LOSSES,
    folds: Sequence[int] = (0, 1),
    seeds: Sequence[int] = (0, 1),
    images_per_cell: int = 40,
    effect: Mapping[str, float] = EFFECT,
    experiment: str = "head",
    generated: bool = False,
    missing: Collection[Cell] = (),
    failed: Mapping[Cell, str] | None = None,
    stale: Collection[Cell] = (),
    gallery: Sequence[Json] = (),
) -> None:
    """Write a whole study to `runs`: 1,000 cells of 140 images in well under a minute.

    effect: per loss, the shift in the IoU of images with the category (losses not named: 0) and in
    the share of images without it that stay empty.
    missing: cells to leave out; failed: cells to leave with that error; stale: cells to write under
    another hash. gallery: the entries of gallery.json, whose pictures are the caller's.
    """
    grid = Grid(categories, losses, folds, seeds)
    content = study(grid, experiment, generated, images_per_cell)
    write_json(runs / "study.json", content)
    write_json(runs / "machine.json", MACHINE)
    trained = [loss for loss in losses if loss != UNTRAINED]
    tuning = {f"fold{k}": {loss: tuned(loss, k, categories) for loss in trained} for k in folds}
    write_json(runs / "tuning.json", tuning)
    for fold in folds:
        write_json(runs / f"base/fold{fold}/result.json", base(fold, categories, content["hash"]))
        write_json(runs / f"base/fold{fold}/cost.json", cost("base", fold))
    for cell in grid.cells():
        if failed and cell in failed:
            write_json(runs / cell.path / "failed.json", {"error": failed[cell]})
        elif cell not in missing:
            shift = effect.get(cell.loss, 0.0)
            lr = 0.0 if cell.loss == UNTRAINED else tuning[f"fold{cell.fold}"][cell.loss]["lr"]
            digest = "0dd" if cell in stale else content["hash"]
            write_one(runs, cell, images_per_cell, shift, digest, lr)
    if gallery:
        write_json(runs / "gallery/gallery.json", {"images": list(gallery)})


def known(effect: Mapping[str, float], losses: Sequence[str]) -> Records:
    """The records of a whole study of one seed and eight categories; do not change them."""
    return _known(tuple(effect.items()), tuple(losses))


@functools.cache
def _known(effect: tuple[tuple[str, float], ...], losses: tuple[str, ...]) -> Records:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        own = CATEGORIES[:8]
        write_study(runs, categories=own, losses=losses, seeds=(0,), effect=dict(effect))
        return load(runs)


def write_one(runs: Path, cell: Cell, count: int, effect: float, digest: str, lr: float) -> None:
    """One finished cell."""
    images = images_of(cell, count, effect)
    steps = 0 if cell.loss == UNTRAINED else 300
    tp, union = images["tp"].sum(), images[["tp", "fp", "fn"]].to_numpy().sum()
    result = {
        **vars(cell),
        "hash": digest,
        "base": "ab" * 32,
        "lr": lr,
        "steps": steps,
        "threshold": 0.25,
        "image_iou": float(images["iou"].mean()),
        "dataset_iou": float(tp / max(union, 1)),
        "tuned_image_iou": float(images["tuned_iou"].mean()),
        "images": len(images),
    }
    tables = {
        "images.csv": images,
        "curve.csv": curve_of(cell, steps),
        "thresholds.csv": thresholds_of(images),
    }
    write_cell(runs / cell.path, tables, result, cost(cell))


def study(grid: Grid, experiment: str, generated: bool, count: int) -> Json:
    """The content of study.json."""
    lists = {f"fold{k}_{part}": count for k in grid.folds for part in ("train", "val")}
    config = Experiment(
        experiment,
        optim=Optim(steps=300),
        tuning=Tuning(list(RATES), categories=list(grid.categories), seeds=[0, 1]),
        cells=Cells(
            list(grid.categories), [loss for loss in grid.losses if loss != UNTRAINED],
            list(grid.folds), list(grid.seeds),
        ),
    )  # fmt: skip
    data: Json = {"lists": {k: {"images": n, "sha256": "cd" * 32} for k, n in lists.items()}}
    return {
        "experiment": experiment,
        "generated": generated,
        "hash": config.digest(data),
        "grid": {name: list(value) for name, value in vars(grid).items()},
        "config": _settings(config),
        "data": data,
    }


def base(fold: int, categories: Sequence[str], hash_: str) -> Json:
    """The content of a base network's result.json."""
    iou = {name: 0.5 + 0.01 * i for i, name in enumerate(categories)}
    mean = float(np.mean(list(iou.values())))
    digest = {"hash": hash_, "sha256": "ab" * 32}
    return {"fold": fold, "miou": mean, "iou": iou, "steps": 300, **digest}


def tuned(loss: str, fold: int, categories: Sequence[str]) -> Json:
    """One loss's entry in tuning.json, of one fold."""
    draw = generator("tuning", loss, fold)
    trials: list[Json] = [
        {"lr": lr, "steps": 300, "category": name, "seed": i % 2, "image_iou": draw.uniform(0.4, 1)}
        for lr in RATES
        for i, name in enumerate(categories)
    ]
    means = pd.DataFrame(trials).groupby("lr")["image_iou"].mean()
    choice = {"lr": float(means.idxmax()), "steps": 300, "image_iou": float(means.max())}
    return {**choice, "at_edge": choice["lr"] in (RATES[0], RATES[-1]), "trials": trials}


def cost(*key: object) -> Json:
    """The content of a cost.json."""
    per_step = float(generator("cost", *key).uniform(0.04, 0.06))
    return {
        "train_seconds": 300 * per_step,
        "evaluate_seconds": 4.0,
        "total_seconds": 300 * per_step + 4,
        "seconds_per_step": per_step,
    }


MACHINE: Json = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "python": "3.12.3",
    "torch": "2.11.0",
    "lightning": "2.5.0",
    "processor": "a processor that never was",
    "cores": 2,
    "device": "cpu",
    "started": "2026-01-01T10:00:00Z",
    "finished": "2026-01-01T11:30:00Z",
    "seconds": 5400.0,
}
