"""Binary segmentation on Pascal VOC under cross-entropy, hinge, Jaccard and Lovász losses."""

import os

# Torch then asks Linux for huge pages where a tensor is large. Without them a training step on a
# CPU spends a tenth of its time on page faults. Torch reads it when it makes its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
