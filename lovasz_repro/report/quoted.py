"""The paper's published numbers, from memory, not checked against the PDF: every place that shows
one bears `SIGN`, and each page says once, with `MARK`, what the sign means."""

MARK = "quoted from memory, not checked against the PDF"
SIGN = "†"

IMAGE_IOU = {"cross_entropy": 0.771, "hinge": 0.758, "lovasz_hinge": 0.805}
"""Their Table 1: image-IoU by training loss, mean over the 20 categories of Pascal VOC."""


def gain(loss: str) -> float:
    """The paper's image-IoU of a loss minus cross-entropy's."""
    return IMAGE_IOU[loss] - IMAGE_IOU["cross_entropy"]
