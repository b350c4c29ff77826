"""Image-IoU, IoU of each label, and the best threshold on the logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lovasz_repro.data.voc import VOID


def confusion(prediction: Tensor, target: Tensor) -> Tensor:
    """(B, 3) int64: true positive, false positive and false negative pixels of each image.

    prediction: (B, ...) bool, foreground. target: (B, ...) in {0, 1, 255}; void is ignored.
    """
    foreground, background = target == 1, target == 0
    hit = (prediction & foreground).flatten(1).sum(1)
    false = (prediction & background).flatten(1).sum(1)
    missed = (~prediction & foreground).flatten(1).sum(1)
    return torch.stack([hit, false, missed], 1)


def label_confusion(prediction: Tensor, target: Tensor, labels: int) -> Tensor:
    """(B, K, 3) int64: true positive, false positive and false negative pixels by image and label.

    prediction: (B, ...) of 0 ... K-1. target: the same, or 255, void, which is ignored.
    """
    count = len(target)
    valid = target != VOID
    image = torch.arange(count, device=target.device).view(-1, *[1] * (target.dim() - 1))
    place = (image * labels + target)[valid] * labels + prediction[valid]
    matrix = torch.bincount(place, minlength=count * labels**2).view(count, labels, labels)
    hit = matrix.diagonal(dim1=1, dim2=2)
    return torch.stack([hit, matrix.sum(1) - hit, matrix.sum(2) - hit], 2)


def iou(counts: Tensor) -> Tensor:
    """tp / (tp + fp + fn) of (..., 3) counts, in float64; 1 if truth and prediction are empty."""
    union = counts.sum(-1)
    ratio = counts[..., 0].double() / union.clamp(min=1)
    return torch.where(union == 0, 1.0, ratio)


class ImageIoU(Metric):
    """The mean over images of the foreground's intersection over union (Berman et al., 2018).

    Unlike torchmetrics' BinaryJaccardIndex it averages over images, counts an empty union as 1, and
    takes only booleans, so that a probability is never mistaken for a score.
    """

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction: (B, ...) bool. target: (B, ...) in {0, 1, 255}.

        Raises: TypeError for a prediction that is not bool; ValueError if shapes differ.
        """
        if prediction.dtype != torch.bool:
            raise TypeError(f"prediction: bool expected (logits > 0), got {prediction.dtype}")
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ"
            )
        self.total += iou(confusion(prediction, target)).sum()
        self.images += len(target)

    def compute(self) -> Tensor:
        """A scalar in [0, 1]; NaN before the first image."""
        return self.total / self.images


class LabelIoU(Metric):
    """Intersection over union of each label over the pixels of all images.

    torchmetrics' own is hundreds of times slower if torch must be deterministic, as in the
    trainings here: it then counts without `bincount`.

    Args:
        labels: their number, the background included.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, labels: int) -> None:
        super().__init__()
        zeros = torch.zeros(labels, 3, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, counts: Tensor) -> None:
        """counts: (B, K, 3) of `label_confusion`."""
        self.counts += counts.sum(0)

    def compute(self) -> Tensor:
        """(K,) float64, NaN for a label neither in the target nor predicted; the mIoU is their
        `nanmean`."""
        return self.counts[:, 0].double() / self.counts.sum(1)


THRESHOLDS = torch.linspace(-3.5, 3.5, 71, dtype=torch.float64).sinh()
"""The thresholds of thresholds.csv: from −16.5 to 16.5 on the logits, 0.1 apart around 0."""


def iou_at_thresholds(logits: Tensor, target: Tensor) -> Tensor:
    """(B, T) IoU of each image, foreground where the logit is above each of `THRESHOLDS`.

    logits: (B, ...). target: (B, ...) in {0, 1, 255}.
    """
    cuts = THRESHOLDS.to(logits.device, logits.dtype)
    above = torch.bucketize(logits, cuts)  # how many thresholds lie below
    bins = len(cuts) + 1
    row = torch.arange(len(target), device=target.device).view(-1, *[1] * (target.dim() - 1))
    counts = []
    for label in (1, 0):
        chosen = target == label
        place = (row * bins + above)[chosen]
        count = torch.bincount(place, minlength=len(target) * bins).view(-1, bins)
        # Pixels above threshold t: those with more than t thresholds below.
        counts.append(count.flip(1).cumsum(1).flip(1))
    hit, false = (count[:, 1:] for count in counts)
    return iou(torch.stack([hit, false, counts[0][:, :1] - hit], -1))


def oracle_iou(logits: Tensor, target: Tensor) -> Tensor:
    """(B,) the IoU of each image at its own best threshold; 1 without foreground.

    logits: (B, ...). target: (B, ...) in {0, 1, 255}.
    """
    best = torch.ones(len(target), dtype=torch.float64, device=target.device)
    for image, (score, label) in enumerate(zip(logits.flatten(1), target.flatten(1), strict=True)):
        if not (label == 1).any():
            continue
        valid = label != VOID
        order = score[valid].sort(descending=True)
        hit = (label[valid][order.indices] == 1).cumsum(0)  # (P,) by number of pixels taken
        taken = torch.arange(1, len(hit) + 1, device=hit.device)
        ratio = hit.double() / (hit[-1] + taken - hit)
        # A threshold cannot separate equal scores.
        parts = torch.ones_like(valid[: len(hit)])
        parts[:-1] = order.values[1:] != order.values[:-1]
        best[image] = ratio[parts].max()
    return best


CANDIDATES = 101


def threshold_of_best_image_iou(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """The threshold on the logits with the highest image-IoU, and that image-IoU.

    Args:
        logits, target: (N, ...); target in {0, 1, 255}.

    Besides 0 `CANDIDATES` quantiles of the valid logits are tried, evenly spaced over the upper
    half, since a useful foreground is seldom more than half of all pixels. Among equals the one
    nearest to 0 is taken.
    """
    valid = logits[target != VOID].double()
    # Quantiles by sorting: torch.quantile refuses more than 16 million values.
    order = valid.sort().values
    place = torch.linspace(0.5, 1, CANDIDATES, dtype=torch.float64) * (len(order) - 1)
    tried = [0.0, *order[place.long().to(order.device)].tolist()]
    best = max((float(iou(confusion(logits > t, target)).mean()), -abs(t), t) for t in tried)
    return best[2], best[0]
