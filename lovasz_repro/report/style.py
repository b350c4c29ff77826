"""One name, colour, marker and line per loss, and the house style of the figures.

The hues follow Okabe and Ito's colour-blind safe set, moved to mid-tones so that each has a
contrast of at least 3:1 on the page's white and on its dark grey. Marker and line differ as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from lovasz_repro.analysis.claims import LOVASZ
from lovasz_repro.analysis.headline import BACKGROUND, UNTRAINED_TUNED
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import UNTRAINED
from lovasz_repro.schema import batch_of, without_batch

INK = "#1f2328"
"""Text and axes. In SVG it becomes `currentColor`: dark on a light page, light on a dark one."""


@dataclass(frozen=True)
class LossStyle:
    label: str
    color: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]  # a name; offset, dashes and gaps


LOSSES = {
    "cross_entropy": LossStyle("cross-entropy", "#2b7fc4", "o", "-"),
    "hinge": LossStyle("hinge", "#009e73", "s", "--"),
    "soft_jaccard": LossStyle("soft Jaccard per batch", "#8c6bb1", "^", "-."),
    "soft_jaccard_per_image": LossStyle("soft Jaccard per image", "#c0609f", "v", ":"),
    "lovasz_hinge": LossStyle("Lovász hinge", "#d55e00", "D", "-"),
    "lovasz_hinge_per_batch": LossStyle("Lovász hinge per batch", "#a26a4a", "P", "--"),
    "lovasz_softmax": LossStyle("Lovász-Softmax per batch", "#d55e00", "D", "-"),
    "lovasz_softmax_per_image": LossStyle("Lovász-Softmax per image", "#a26a4a", "P", "--"),
    "lovasz_softmax_all": LossStyle("Lovász-Softmax, all classes", "#c0609f", "v", ":"),
    "mixed": LossStyle("cross-entropy + Lovász", "#b58900", "X", "-."),
    # What is not trained: greys.
    UNTRAINED: LossStyle("before fine-tuning", "#7d858e", "h", (0, (1, 1))),
    UNTRAINED_TUNED: LossStyle("before fine-tuning, threshold chosen", "#7d858e", "H", (0, (1, 1))),
    BACKGROUND: LossStyle("all background", "#7d858e", "_", (0, (1, 3))),
}

MEASURE_LABELS = {
    "cross_entropy": "cross-entropy",
    "hinge": "hinge",
    "soft_jaccard": "soft Jaccard",
    "lovasz_hinge": "Lovász hinge",
    "iou": "image-IoU",
    "dataset_iou": "dataset-IoU",
}

_INKED = (
    "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color",
    "xtick.color", "ytick.color",
)  # fmt: skip
RC: dict[Any, Any] = dict.fromkeys(_INKED, INK) | {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold dollar signs
    "svg.fonttype": "none",
    "svg.hashsalt": "lovasz_repro",
}


def style(loss: str) -> LossStyle:
    """The style of a loss; one this module does not know is shown in ink under its own name."""
    if batch := batch_of(loss):
        look = style(without_batch(loss))
        return replace(look, label=f"{look.label.removesuffix(' per batch')}, batches of {batch}")
    return LOSSES.get(loss, LossStyle(loss, INK, "o", "-"))


def ordered(losses: Iterable[str]) -> list[str]:
    """Cross-entropy and the Lovász hinge first: in a wide table they are seen without scrolling."""
    first = (REFERENCE, LOVASZ)
    names = list(dict.fromkeys(losses))
    return [x for x in first if x in names] + [x for x in names if x not in first]
