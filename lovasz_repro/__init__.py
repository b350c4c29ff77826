"""Binary segmentation on Pascal VOC under cross-entropy, hinge, Jaccard and Lovász losses."""

import os

# Torch then asks Linux for huge pages where a tensor is large. Without them a training step on a
# CPU spends a tenth of its time on page faults. Torch reads it when it makes its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Lightning sets both with the first deterministic training. A library that has looked before, and
# processes started later, would not agree.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
