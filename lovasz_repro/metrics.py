"""image-IoU, and the measures of one image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lovasz_repro.voc import VOID


def confusion(prediction: Tensor, target: Tensor) -> Tensor:
    """(B, 3) int64: true positive, false positive and false negative pixels of each image.

    prediction: (B, ...) bool, foreground. target: (B, ...) in {0, 1, 255}; void counts nowhere.
    """
    foreground, background = target == 1, target == 0
    hit = (prediction & foreground).flatten(1).sum(1)
    false = (prediction & background).flatten(1).sum(1)
    missed = (~prediction & foreground).flatten(1).sum(1)
    return torch.stack([hit, false, missed], 1)


def iou(counts: Tensor) -> Tensor:
    """tp / (tp + fp + fn) of (..., 3) counts, in float64; 1 where nothing is there to be found
    and nothing was."""
    union = counts.sum(-1)
    ratio = counts[..., 0].double() / union.clamp(min=1)
    return torch.where(union == 0, 1.0, ratio)


class ImageIoU(Metric):
    """The mean over images of the foreground's intersection over union (Berman et al., 2018).

    Unlike torchmetrics' BinaryJaccardIndex it is taken image by image, counts an empty union as 1,
    and takes booleans only, so that a probability is never mistaken for a score.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction: (B, ...) bool. target: (B, ...) in {0, 1, 255}.

        Raises: TypeError for a prediction that is not bool; ValueError where shapes differ.
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


def threshold_of_best_image_iou(
    logits: Tensor, target: Tensor, candidates: int = 101
) -> tuple[float, float]:
    """The threshold on the logits with the highest image-IoU, and that image-IoU.

    Args:
        logits, target: (N, ...); target in {0, 1, 255}.
        candidates: how many quantiles of the valid logits are tried, besides 0. They are evenly
            spaced over the upper half: a useful foreground is seldom more than half of all pixels.

    Among equals the one nearest to 0 is taken.
    """
    valid = logits[target != VOID].double()
    # Quantiles by sorting: torch.quantile refuses more than 16 million values.
    order = valid.sort().values
    place = torch.linspace(0.5, 1, candidates, dtype=torch.float64) * (len(order) - 1)
    tried = [0.0, *order[place.long().to(order.device)].tolist()]
    best = max((float(iou(confusion(logits > t, target)).mean()), -abs(t), t) for t in tried)
    return best[2], best[0]
