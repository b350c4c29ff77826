"""L-BFGS finds the minimum of a head's objective, and the bench says how far SGD is from it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from lovasz_repro.bench.convergence import CONVEX, Objective, bench_convergence
from lovasz_repro.errors import UserError
from lovasz_repro.losses import make_loss
from lovasz_repro.study.setup import BinarySetup
from lovasz_repro.study.workspace import Workspace
from tests.helpers.studies import tiny


def test_the_minimum_is_below_sgd(shapes_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "convergence.csv"
    config = tiny(shapes_root, tmp_path, "head", lr=0.001)
    rows = bench_convergence(config, ["bird"], 0, 40, out)
    assert [row.loss for row in rows] == list(CONVEX)
    for row in rows:
        assert row.objective_minimum < row.objective_sgd < row.objective_start
        assert row.image_iou_start == rows[0].image_iou_start
    with out.open(newline="") as file:
        assert [float(row["objective_minimum"]) for row in csv.DictReader(file)] == [
            row.objective_minimum for row in rows
        ]


def test_scipy_finds_the_same_minimum(shapes_root: Path, tmp_path: Path) -> None:
    setup = BinarySetup(Workspace(tiny(shapes_root, tmp_path, "head")), "bird", 0)
    train_index, _, held_out = setup.indices()
    module, _, data = setup.train(
        "cross_entropy", 0.01, 0, train_index, held_out, None, None, "bird"
    )
    network = module.network
    objective = Objective(data, make_loss("cross_entropy"), 2)
    parameters = [p for p in network.parameters() if p.requires_grad]
    start = torch.nn.utils.parameters_to_vector(parameters).detach()

    def value(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        torch.nn.utils.vector_to_parameters(torch.from_numpy(x).float(), parameters)
        total = objective.backward(network)
        return total, np.concatenate(
            [p.grad.flatten().double() for p in parameters if p.grad is not None]
        )

    found = minimize(value, start.double().numpy(), jac=True, method="L-BFGS-B")
    torch.nn.utils.vector_to_parameters(start, parameters)
    objective.minimise(network, 200)
    assert objective.value(network) == pytest.approx(found.fun, rel=0.05, abs=1e-4)


def test_only_a_linear_head_is_convex(shapes_root: Path, tmp_path: Path) -> None:
    config = tiny(shapes_root, tmp_path)
    with pytest.raises(UserError, match=r"network\.train: all"):
        bench_convergence(replace(config), ["bird"], 0, 1, None)
