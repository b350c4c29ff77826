"""What commands need, loaded once before they are forked: libraries, and the compiled loops."""

import os

import timm  # noqa: F401
import torch
import torch.utils.tensorboard

import lovasz_repro.data.fetch
import lovasz_repro.options
import lovasz_repro.report
import lovasz_repro.study.grid  # noqa: F401
from lovasz_repro.losses import lovasz_hinge
from lovasz_repro.report import surrogates
from tests.faults import harness  # noqa: F401

os.fsync = lambda fd: None  # as in tests/conftest.py
torch.set_num_threads(1)  # a forked process has none of the others
lovasz_hinge(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.uint8))
surrogates.section()
