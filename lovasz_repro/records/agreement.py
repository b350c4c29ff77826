"""Check that records agree with each other, so that an edited number is noticed.

A `…_problem` function returns what does not agree, starting with the key or column, or None.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lovasz_repro.records.cells import COUNTS
from lovasz_repro.schema import Json

Columns = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-6
"""The tables hold seven digits."""
TIE_TOLERANCE = 1e-4
"""The 0 of thresholds.csv is rounded: a pixel whose logit is 0 may be on its other side."""
GAIN = ("lovasz_hinge", "cross_entropy")
"""The `gain` of gallery.json is an image's IoU under the first loss minus that under the second."""


def table_problem(table: Columns) -> str | None:
    """A cell's images.csv in itself: IoUs that follow from the counts, and each image once."""
    truth = table["tp"] + table["fn"]
    wrong = {
        "tuned_tp + tuned_fn: not tp + fn": truth != table["tuned_tp"] + table["tuned_fn"],
        "has_category: not whether tp + fn is above 0": table["has_category"] != (truth > 0),
        "oracle_iou: below iou": table["oracle_iou"] < table["iou"] - TOLERANCE,
    }
    for prefix in ("", "tuned_"):
        there = table[f"{prefix}iou"]
        wrong[f"{prefix}iou: not what {prefix}tp, {prefix}fp and {prefix}fn give"] = (
            np.abs(there - _iou(table, prefix)) > TOLERANCE
        )
    for said, rows in wrong.items():
        if rows.any():
            return said
    ids, counts = np.unique(table["id"], return_counts=True)
    return f"id: {ids[counts > 1][0]} is there twice" if (counts > 1).any() else None


def place_problem(result: Json, place: Mapping[str, Any], base: Json) -> str | None:
    """A cell's result.json against its folder and the base network that it started from.

    Args:
        place: category, loss, fold and seed of the folder.
        base: the base's result.json, {} if it is missing.
    """
    for key, value in place.items():
        if result[key] != value:
            return f"{key}: {result[key]}, but it lies in the folder of {value}"
    if base and result["base"] != base["sha256"]:
        where = f"the base network of fold {result['fold']}"
        return f"base: {result['base']}, but {where} is {base['sha256']}"
    return None


def result_problem(result: Json, table: Columns) -> str | None:
    """A cell's result.json against its images.csv."""
    if result["images"] != len(table["iou"]):
        return f"images: {result['images']}, but images.csv beside it has {len(table['iou'])} rows"
    tp, union = table["tp"].sum(), sum(table[name].sum() for name in COUNTS)
    expected = {
        "image_iou": _iou(table, "").mean(),
        "tuned_image_iou": _iou(table, "tuned_").mean(),
        "dataset_iou": tp / max(union, 1),
    }
    for key, value in expected.items():
        if not abs(result[key] - value) <= TOLERANCE:
            return f"{key}: {result[key]:.7g}, but images.csv beside it gives {value:.7g}"
    return None


def curve_problem(curve: Columns, table: Columns) -> str | None:
    """A cell's thresholds.csv in itself, and against its images.csv."""
    threshold, here = curve["threshold"], table["has_category"] == 1
    if (np.diff(threshold) <= 0).any():
        return "threshold: not in ascending order"
    if (np.diff(curve["absent"]) < 0).any():
        return "absent: lower at a higher threshold"
    if (curve["present"] > _mean(table["oracle_iou"][here]) + TOLERANCE).any():
        return "present: above the mean of oracle_iou in images.csv beside it"
    zero = np.flatnonzero(np.abs(threshold) < 1e-9)
    if not len(zero):
        return "threshold: there is no 0"
    for key, rows in (("present", here), ("absent", ~here)):
        there, value = curve[key][zero[0]], _mean(table["iou"][rows])
        if not abs(there - value) <= TIE_TOLERANCE:
            return f"{key}: {there:.7g} at 0, but images.csv beside it gives {value:.7g}"
    return None


def label_scores(rows: pd.DataFrame) -> dict[str, float]:
    """`images`, `miou` and `image_miou` of the rows of one cell's classes.csv.

    miou: over all pixels, the mean over the labels in truth or prediction. image_miou: the mean
    over images of the mean over the labels in the image's truth.
    """
    sums = rows.groupby("label")[list(COUNTS)].sum()
    there = rows[rows["tp"] + rows["fn"] > 0]
    own = (there["tp"] / there[list(COUNTS)].sum(axis=1)).groupby(there["id"]).mean()
    return {
        "images": len(own),
        "miou": float((sums["tp"] / sums.sum(axis=1)).mean()),
        "image_miou": float(own.mean()),
    }


def labels_problem(result: Json, rows: pd.DataFrame) -> str | None:
    """A cell's classes.csv in itself, and its result.json against it; begins with the file."""
    if rows.duplicated(["id", "label"]).any():
        return "classes.csv: a label of an image is there twice"
    if (rows[list(COUNTS)].sum(axis=1) == 0).any():
        return "classes.csv: a label that is neither in an image nor said there"
    for key, value in label_scores(rows).items():
        if not abs(result[key] - value) <= TOLERANCE:
            said = f"{result[key]:.7g}, but classes.csv beside it gives {value:.7g}"
            return f"result.json: {key}: {said}"
    return None


def truth_problem(images: pd.DataFrame) -> list[Any] | None:
    """Check that the cells of a category and fold have the same truth for an image (and label).

    images: as in `Records`, or rows of its classes.

    Returns: category, loss, fold, seed and id of a row that another cell contradicts.
    """
    keys = ["category", "fold", "id", *(["label"] if "label" in images else [])]
    truth = images[keys].assign(pixels=images["tp"] + images["fn"])
    once = truth.drop_duplicates()
    again = once.index[once.duplicated(keys)]
    if not len(again):
        return None
    found: list[Any] = images.loc[again[0], ["category", "loss", "fold", "seed", "id"]].tolist()
    return found


def gallery_problem(shown: Sequence[Json], images: pd.DataFrame) -> str | None:
    """The IoUs and gains of gallery.json against the tables. images: as in `Records`."""
    rows = images[images["id"].isin([entry["id"] for entry in shown])]
    keys = ["category", "fold", "id", "seed", "loss"]
    iou = dict(zip(rows[keys].itertuples(index=False, name=None), rows["iou"], strict=True))
    seeds = rows["seed"].unique().tolist()
    for place, entry in enumerate(shown):
        image = (entry["category"], entry["fold"], entry["id"])
        given = {
            f"iou.{loss}": (value, iou.get((*image, entry["seed"], loss)))
            for loss, value in entry["iou"].items()
        }
        pairs = [[iou.get((*image, seed, loss)) for loss in GAIN] for seed in seeds]
        gains = [a - b for a, b in pairs if a is not None and b is not None]
        given["gain"] = entry["gain"], statistics.fmean(gains) if gains else None
        for key, (value, there) in given.items():
            if there is None or abs(there - value) > TOLERANCE:
                has = "no such image" if there is None else f"{there:.7g}"
                return f"images[{place}].{key}: {value:.7g}, images.csv has {has}"
    return None


def base_problem(base: Json, fold: int, digest: str) -> str | None:
    """A base network's result.json in itself, and against its folder and the study's hash."""
    if base["fold"] != fold:
        return f"fold: {base['fold']}, but it lies in the folder of {fold}"
    if base["hash"] != digest:
        return f"hash: {base['hash']}, but study.json has {digest}"
    mean = statistics.fmean(base["iou"].values())
    if abs(base["miou"] - mean) > TOLERANCE:
        return f"miou: {base['miou']:.7g}, but the mean of iou is {mean:.7g}"
    return None


def trial_means(
    trials: Sequence[Json], categories: Sequence[str], measure: str = "image_iou"
) -> dict[tuple[float, int], float]:
    """The mean of the measure over the categories, by (rate, steps). A pair that was not tried on
    all of them, or diverged on one, is left out."""
    wanted = set(categories)
    scores: dict[tuple[float, int], dict[str, float | None]] = {}
    for trial in trials:
        if trial["category"] in wanted:
            pair = scores.setdefault((trial["lr"], trial["steps"]), {})
            pair[trial["category"]] = trial[measure]
    values = {
        pair: [value for value in by_category.values() if value is not None]
        for pair, by_category in scores.items()
    }
    return {pair: statistics.fmean(v) for pair, v in values.items() if len(v) == len(wanted)}


def tuning_problem(
    tuned: Json, categories: Sequence[str] | None = None, measure: str = "image_iou"
) -> str | None:
    """A choice in tuning.json against its trials: the highest mean, of equals the lowest rate.

    Args:
        categories: those that it was made for; None: all that were tried. Only a pair with a score
            on all of them can be chosen.
    """
    if wrong := entry_problem(tuned, measure):
        return wrong
    if tuned["lr"] is None:
        return None
    trials = tuned["trials"]
    means = trial_means(trials, categories or [trial["category"] for trial in trials], measure)
    chosen = (tuned["lr"], tuned["steps"])
    said = f"lr: {chosen[0]:g} at {chosen[1]} steps"
    if chosen not in means:
        return f"{said} is not among the trials that have a score"
    # Means that were summed in another order may differ in their last digits.
    best = max(means.values()) - 1e-12
    if means[chosen] < best or chosen[0] > min(lr for (lr, _), v in means.items() if v >= best):
        return f"{said} is not the choice that the trials give"
    if abs(means[chosen] - tuned[measure]) > TOLERANCE:
        return f"{measure}: {tuned[measure]:.7g}, but the trials give {means[chosen]:.7g}"
    if tuned["at_edge"] != at_edge(tuned["lr"], trials):
        return f"at_edge: {tuned['at_edge']}, but the trials give {not tuned['at_edge']}"
    return None


def entry_problem(tuned: Json, measure: str) -> str | None:
    """What an entry of tuning.json lacks, whether or not it holds a choice."""
    if lacking := [place for place, t in enumerate(tuned["trials"]) if measure not in t]:
        return f"trials[{lacking[0]}]: there is no {measure}"
    if tuned["lr"] is not None:
        for key in ("steps", measure, "at_edge"):
            if key not in tuned:
                return f"{key}: missing beside lr"
    return None


def at_edge(lr: float, trials: Sequence[Json]) -> bool:
    """Whether a rate is the lowest or the highest that was tried."""
    tried = [trial["lr"] for trial in trials]
    return lr in (min(tried), max(tried))


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _iou(table: Columns, prefix: str) -> NDArray[np.float64]:
    tp, fp, fn = (table[f"{prefix}{name}"] for name in COUNTS)
    union = tp + fp + fn
    ratio: NDArray[np.float64] = np.divide(tp, union, out=np.ones(len(tp)), where=union > 0)
    return ratio
