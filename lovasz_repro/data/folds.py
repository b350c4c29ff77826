"""Cross-validation folds of VOC's val list, stratified by category."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lovasz_repro.data.voc import VOC, labels_in
from lovasz_repro.environment import cores
from lovasz_repro.errors import UserError
from lovasz_repro.files import write_bytes


def write_folds(
    voc: VOC, train_list: str = "trainaug", folds: int = 2, partitions: int = 1, name: str = "fold"
) -> None:
    """Write the cross-validation lists ``<name><k>_train`` and ``<name><k>_val`` that are missing.

    Partition p divides the val images, stratified by category with seed p, into the lists
    p * folds to (p + 1) * folds - 1. A training list holds ``train_list`` and the val images of
    the partition's other folds. Existing lists are never overwritten.

    Raises: UserError if lists are missing and an existing one would not fit them.
    """
    train, val = voc.ids(train_list), voc.ids("val")
    count = folds * partitions
    paths = {
        (k, part): voc.lists_folder / f"{name}{k}_{part}.txt"
        for k in range(count)
        for part in ("train", "val")
    }
    if all(path.is_file() for path in paths.values()):
        return
    with ThreadPoolExecutor(cores()) as pool:
        labels = list(pool.map(lambda image_id: labels_in(voc.mask(image_id)), val))
    fold_of = [dict(zip(val, share_out(labels, folds, p), strict=True)) for p in range(partitions)]
    for (k, part), path in paths.items():
        in_val = {image_id for image_id in val if fold_of[k // folds][image_id] == k % folds}
        ids = in_val if part == "val" else {*train, *val} - in_val
        content = "".join(f"{image_id}\n" for image_id in sorted(ids))
        if not path.is_file():
            write_bytes(path, content.encode())
        elif path.read_text() != content:
            raise UserError(
                f"{path} is there, but not all of {name}0 to {name}{count - 1} are, and the "
                "missing ones would not fit it; remove it, or add the others."
            )


def share_out(labels: Sequence[frozenset[int]], folds: int, seed: int) -> list[int]:
    """The fold of each image, by iterative stratification (Sechidis et al. 2011, Algorithm 1): the
    rarest category first, each of its images to the fold that lacks most of that category. Folds
    then differ by about one image per category, and by a few images in all."""
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
