"""Has a published network seen the val images? Compares its scores on them with those on images
that it has certainly seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lovasz_repro.config import Experiment
from lovasz_repro.data.augment import normalise
from lovasz_repro.data.voc import VOC, VOID
from lovasz_repro.errors import UserError
from lovasz_repro.models.deeplab import DeepLab, build, to_native
from lovasz_repro.training.metrics import iou, label_confusion

console = Console(highlight=False)


def bench_seen(config: Experiment, lists: Sequence[str], out: Path) -> pd.DataFrame:
    """Score the untrained network on the images of some lists, and write a row for each image.

    Args:
        config: `network` with weights of all labels; `data.image_size` is the padded side.
        lists: of ImageSets/Segmentation; the first holds images that the network has seen.
        out: CSV file: list, id, labels (of the truth without background, separated by spaces),
            image_miou (mean IoU over the labels of the truth), cross_entropy (mean over pixels).

    Raises: UserError if an image is larger than `data.image_size`.
    """
    voc = VOC(Path(config.data.root), config.data.classes)
    network = build(config.network, labels=config.data.labels, complete=True).eval()
    rows = []
    for name in lists:
        for image_id in track(voc.ids(name), f"images of {name}", console=console):
            image = torch.from_numpy(voc.image(image_id))
            mask = torch.from_numpy(voc.mask(image_id))[None].long()
            logits = _logits(network, image, config.data.image_size, image_id)
            labels, scores = _scores(logits, mask)
            names = [("background", *voc.classes)[label] for label in labels if label]
            rows.append({"list": name, "id": image_id, "labels": " ".join(names), **scores})
    table = pd.DataFrame(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, index=False, float_format="%.6g", lineterminator="\n")
    for measure in ("image_miou", "cross_entropy"):
        gain, low, high = advantage(table, measure, lists[0])
        console.print(
            f"{measure}, {lists[0]} minus the rest: {gain:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
    return table


@torch.inference_mode()
def _logits(network: DeepLab, image: Tensor, side: int, image_id: str) -> Tensor:
    """(1, K, H, W) logits of one image (H, W, 3), padded to the side for the network."""
    height, width = image.shape[:2]
    if max(height, width) > side:
        raise UserError(f"data.image_size: {side}, but {image_id} has {width} × {height} pixels")
    canvas = F.pad(image.permute(2, 0, 1)[None], (0, side - width, 0, side - height))
    size = torch.tensor([[height, width]])
    scores = network(normalise(canvas, size, network.mean, network.std))
    return to_native(scores, size, size, (height, width), network.stride)


def _scores(logits: Tensor, mask: Tensor) -> tuple[list[int], dict[str, float]]:
    """The labels of the truth (1, H, W), and the image's scores."""
    counts = label_confusion(logits.max(1).indices, mask, logits.shape[1])[0]  # (K, 3)
    held = counts[:, 0] + counts[:, 2] > 0
    loss = F.cross_entropy(logits, mask, ignore_index=VOID)
    scores = {"image_miou": float(iou(counts[held]).mean()), "cross_entropy": float(loss)}
    return held.nonzero()[:, 0].tolist(), scores


def advantage(table: pd.DataFrame, measure: str, seen: str) -> tuple[float, float, float]:
    """How much higher a measure is on the list `seen` than on the others, for images with the same
    labels: the coefficient of a linear regression on the labels and their number, and its 95 %
    interval (normal errors of one variance).

    Args:
        table: as of `bench_seen`.
    """
    labels = table["labels"].fillna("").str.get_dummies(" ").to_numpy(float)
    inside = (table["list"] == seen).to_numpy(float)
    number = np.log1p(labels.sum(axis=1))
    known = np.column_stack([inside, np.ones(len(table)), labels, number])
    wanted = table[measure].to_numpy(float)
    inverse = np.linalg.pinv(known.T @ known)
    weights = inverse @ known.T @ wanted
    freedom = len(table) - np.linalg.matrix_rank(known)
    error = np.sqrt(((wanted - known @ weights) ** 2).sum() / freedom * inverse[0, 0])
    return float(weights[0]), float(weights[0] - 1.96 * error), float(weights[0] + 1.96 * error)
