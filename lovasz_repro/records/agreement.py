"""Whether records agree with each other: an edited number contradicts another.

Every function returns what does not agree, beginning with the key or column; None where all does.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Json = dict[str, Any]
Columns = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-6
"""The tables hold seven digits."""
COUNTS = ("tp", "fp", "fn")


def table_problem(table: Columns) -> tuple[int, str] | None:
    """images.csv in itself: IoUs that follow from the counts, and one truth.

    table: the columns of `IMAGE_COLUMNS` without id, in the ranges that `tables` checks.
    Returns: the first row that does not agree, and how.
    """
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
            return int(np.argmax(rows)), said
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


def label_scores(rows: pd.DataFrame) -> dict[str, float]:
    """`images`, `miou` and `image_miou` of the rows of one cell's classes.csv.

    miou: over all pixels, the mean over the labels that are there or said. image_miou: the mean
    over images of the mean over the labels that the image's truth holds.
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
    """Cells of a category and fold see the same truth of an image, or of a label in it.

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
    """The IoUs of gallery.json against the tables. images: as in `Records`."""
    rows = images[images["id"].isin([entry["id"] for entry in shown])]
    keys = ["category", "loss", "fold", "seed", "id"]
    iou = dict(zip(rows[keys].itertuples(index=False, name=None), rows["iou"], strict=True))
    for place, entry in enumerate(shown):
        for loss, value in entry["iou"].items():
            key = (entry["category"], loss, entry["fold"], entry["seed"], entry["id"])
            if key in iou and abs(iou[key] - value) > TOLERANCE:
                return f"images[{place}].iou.{loss}: {value:.7g}, images.csv has {iou[key]:.7g}"
    return None


def trial_means(
    trials: Sequence[Json], categories: Sequence[str], measure: str = "image_iou"
) -> dict[tuple[float, int], float]:
    """By (rate, steps) the mean of the measure over the categories, of the pairs that have a score
    on all of them: those that were not tried on one, or diverged, are left out."""
    wanted = set(categories)
    scores: dict[tuple[float, int], dict[str, float | None]] = {}
    for trial in trials:
        if trial["category"] in wanted:
            pair = scores.setdefault((trial["lr"], trial["steps"]), {})
            pair[trial["category"]] = trial[measure]
    means: dict[tuple[float, int], float] = {}
    for point, by_category in scores.items():
        values = [value for value in by_category.values() if value is not None]
        if len(values) == len(wanted):
            means[point] = statistics.fmean(values)
    return means


def tuning_problem(
    tuned: Json, categories: Sequence[str] | None = None, measure: str = "image_iou"
) -> str | None:
    """A choice in tuning.json against its trials: the highest mean, of equals the lowest rate.

    Args:
        categories: those that it was made for; None: all that were tried. A rate that was not
            tried on all of them cannot be chosen, nor one that diverged on any.
    """
    if lacking := [place for place, t in enumerate(tuned["trials"]) if measure not in t]:
        return f"trials[{lacking[0]}]: there is no {measure}"
    if tuned["lr"] is None:
        return None
    for key in ("steps", measure, "at_edge"):
        if key not in tuned:
            return f"{key}: missing beside lr"
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
    return None


def choice_problem(result: Json, tuned: Json) -> str | None:
    """A cell's result.json against its fold's and loss's entry in tuning.json."""
    for key in ("lr", "steps"):
        if tuned["lr"] is not None and result[key] != tuned[key]:
            return f"{key}: {result[key]:g}, but tuning.json has {tuned[key]:g}"
    return None


def _iou(table: Columns, prefix: str) -> NDArray[np.float64]:
    tp, fp, fn = (table[f"{prefix}{name}"] for name in COUNTS)
    union = tp + fp + fn
    ratio: NDArray[np.float64] = np.divide(tp, union, out=np.ones(len(tp)), where=union > 0)
    return ratio
