"""Cross-validation folds of VOC's val list, each category shared out evenly."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lovasz_repro.data.voc import VOC, labels_in
from lovasz_repro.errors import UserError
from lovasz_repro.files import write_bytes


def write_folds(voc: VOC, train_list: str = "trainaug", folds: int = 2, seed: int = 0) -> None:
    """Write the cross-validation lists ``fold<k>_train`` and ``fold<k>_val`` that are missing.

    The val images are shared out so that each category falls evenly; ``fold<k>_train`` is
    ``train_list`` and the val images of all other folds. Lists that exist are never overwritten.

    Raises:
        UserError: some of the lists exist and are not what would be written, so that the missing
            ones would not fit them.
    """
    train, val = voc.ids(train_list), voc.ids("val")
    paths = {
        (k, part): voc.lists_folder / f"fold{k}_{part}.txt"
        for k in range(folds)
        for part in ("train", "val")
    }
    if all(path.is_file() for path in paths.values()):
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        labels = list(pool.map(lambda image_id: labels_in(voc.mask(image_id)), val))
    fold_of = dict(zip(val, share_out(labels, folds, seed), strict=True))
    for (k, part), path in paths.items():
        here = [image_id for image_id in val if (fold_of[image_id] == k) == (part == "val")]
        content = "".join(f"{i}\n" for i in sorted(here if part == "val" else train + here))
        if not path.is_file():
            write_bytes(path, content.encode())
        elif path.read_text() != content:
            raise UserError(
                f"{path} is there, but not all of fold0 to fold{folds - 1} are, and the missing "
                "ones would not fit it; remove it, or add the others."
            )


def share_out(labels: Sequence[frozenset[int]], folds: int, seed: int) -> list[int]:
    """The fold of each image: iterative stratification, Sechidis et al. 2011, Algorithm 1. The
    rarest category goes first, each of its images to the fold that lacks most of that category.
    Categories come out equal to within an image or so, folds to within a few."""
    known = sorted(frozenset().union(*labels)) or [0]
    has = np.array([[label in image for label in known] for image in labels])  # (N, K)
    lacks = np.tile(has.sum(0) / folds, (folds, 1))  # (folds, K)
    room = np.full(folds, len(labels) / folds)
    fold_of = np.full(len(labels), -1)
    order = np.random.default_rng(seed).permutation(len(labels))

    def assign(image: int, need: npt.NDArray[np.float64]) -> None:
        fold = np.lexsort((room, need))[-1]  # greatest need; of equal ones, greatest room
        fold_of[image] = fold
        lacks[fold] -= has[image]
        room[fold] -= 1

    while has[fold_of < 0].any():
        left = has[fold_of < 0].sum(0)
        category = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
        for image in order[has[order, category] & (fold_of[order] < 0)]:
            assign(image, lacks[:, category])
    for image in order[fold_of[order] < 0]:
        assign(image, room)
    return fold_of.tolist()
