"""How far a cell's training ends from the minimum of its objective.

The head on frozen features is linear, so cross-entropy, hinge and Lovász hinge are convex in its
weights, and L-BFGS finds their global minimum. `bench_convergence` compares the study's SGD with
that minimum, by the objective and by image-IoU on held-out images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lovasz_repro.bench.losses import write_csv
from lovasz_repro.config import Experiment, Optim
from lovasz_repro.data.datamodule import DataModule
from lovasz_repro.errors import UserError
from lovasz_repro.losses import Loss
from lovasz_repro.study.setup import BinarySetup
from lovasz_repro.study.tuning import chosen
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.metrics import confusion, iou

console = Console(highlight=False)

CONVEX = ("cross_entropy", "hinge", "lovasz_hinge")
"""The losses that are convex in the scores, and so in the weights of a linear head."""


@dataclass(frozen=True)
class Row:
    """A cell's objective and held-out image-IoU before training, after SGD and at the minimum.

    lr, steps: of SGD. iterations: of L-BFGS. gradient: the largest entry of the objective's
    gradient after L-BFGS, as a multiple of that before training.
    """

    category: str
    loss: str
    lr: float
    steps: int
    objective_start: float
    objective_sgd: float
    objective_minimum: float
    image_iou_start: float
    image_iou_sgd: float
    image_iou_minimum: float
    iterations: int
    gradient: float


def bench_convergence(
    config: Experiment, categories: Sequence[str], fold: int, iterations: int, out: Path | None
) -> list[Row]:
    """Compare SGD with L-BFGS in the cells of some categories, one per loss of `CONVEX`.

    The objective is the mean loss over all batches that SGD draws, in that order. Rates are those
    that the study chose, if `config`'s run folder has them.

    Args:
        categories: of `config.data.classes`.
        iterations: of L-BFGS at most.
        out: a CSV file; None writes none.

    Raises: UserError if more than a head is trained.
    """
    if config.network.train != "head":
        raise UserError(
            f"network.train: {config.network.train} has no convex objective; only head has"
        )
    workspace = Workspace(config)
    rows = []
    for category in categories:
        setup = BinarySetup(workspace, category, fold)
        for loss in CONVEX:
            rows.append(_compare(workspace, setup, loss, iterations))
            console.print(rows[-1])
    _show(rows)
    if out:
        write_csv(rows, out)
    return rows


class Objective:
    """The mean loss over the first batches of a training, which are read at every evaluation."""

    def __init__(self, data: DataModule, loss: Loss, steps: int) -> None:
        self.data = data
        self.loss = loss
        self.steps = steps

    def _losses(self, network: nn.Module) -> Iterator[Tensor]:
        for step in range(self.steps):
            batch = self.data.prepare(self.data.steps[step])
            yield self.loss(network(batch.inputs)[:, 0], batch.target) / self.steps

    @torch.no_grad()
    def value(self, network: nn.Module) -> float:
        return sum(map(float, self._losses(network)))

    def backward(self, network: nn.Module) -> float:
        """Leave the gradient in the parameters. Returns: the value."""
        network.zero_grad()
        total = 0.0
        for loss in self._losses(network):
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def steepness(self, network: nn.Module) -> float:
        """The largest entry of the gradient."""
        self.backward(network)
        return max(float(p.grad.abs().max()) for p in network.parameters() if p.grad is not None)

    def minimise(self, network: nn.Module, iterations: int) -> int:
        """Take the network to the minimum. Returns: the iterations taken."""
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimiser = torch.optim.LBFGS(
            parameters, max_iter=iterations, max_eval=2 * iterations, tolerance_change=0,
            tolerance_grad=1e-7, history_size=20, line_search_fn="strong_wolfe",
        )  # fmt: skip
        optimiser.step(lambda: self.backward(network))  # type: ignore[no-untyped-call]
        return int(optimiser.state[parameters[0]]["n_iter"])


def _compare(workspace: Workspace, setup: BinarySetup, loss: str, iterations: int) -> Row:
    choice, _ = chosen(workspace, loss, setup.fold)
    train_index, _, held_out = setup.indices()

    def train(optim: Optim | None) -> tuple[nn.Module, DataModule]:
        title = f"{setup.category}, {loss}"
        module, _, data = setup.train(loss, choice.lr, 0, train_index, held_out, optim, None, title)
        return module.network, data

    start, data = train(None)
    trained, _ = train(replace(workspace.config.optim, steps=choice.steps))
    lowest = deepcopy(trained)
    objective = Objective(data, workspace.config.loss(loss), choice.steps)
    counted = objective.minimise(lowest, iterations)
    return Row(
        category=setup.category,
        loss=loss,
        lr=choice.lr,
        steps=choice.steps,
        objective_start=objective.value(start),
        objective_sgd=objective.value(trained),
        objective_minimum=objective.value(lowest),
        image_iou_start=_image_iou(start, data),
        image_iou_sgd=_image_iou(trained, data),
        image_iou_minimum=_image_iou(lowest, data),
        iterations=counted,
        gradient=objective.steepness(lowest) / objective.steepness(start),
    )


@torch.no_grad()
def _image_iou(network: nn.Module, data: DataModule) -> float:
    """On the held-out images, at threshold 0 on the grid."""
    found = [
        iou(confusion(network(batch.inputs)[:, 0] > 0, batch.target))
        for batch in map(data.prepare, data.val_dataloader())
    ]
    return float(torch.cat(found).mean())


def _show(rows: Sequence[Row]) -> None:
    names = ("category", "loss", "before training", "SGD", "minimum")
    table = Table(*names, title="objective / held-out image-IoU")
    for row in rows:
        pairs = [
            f"{getattr(row, f'objective_{name}'):.4f} / {getattr(row, f'image_iou_{name}'):.3f}"
            for name in ("start", "sgd", "minimum")
        ]
        table.add_row(row.category, row.loss, *pairs)
    console.print(table)
