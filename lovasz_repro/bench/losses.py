"""What the losses cost and how accurate their gradients are, next to the public implementations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from lovasz_repro.errors import UserError
from lovasz_repro.losses import Loss, Method, cross_entropy, lovasz_hinge, lovasz_softmax


@dataclass(frozen=True)
class Case:
    """One input: ``images`` of ``height`` × ``width`` pixels, binary if ``classes`` is 1.

    The logits are unit Gaussian noise plus ``gain`` in favour of the right label. With 0 most
    pixels have a margin error; with 4 about one in a thousand, as few as a trained network leaves.
    """

    images: int
    height: int
    width: int
    gain: float
    classes: int = 1

    def __str__(self) -> str:
        size = f"{self.images}x{self.height}x{self.width}"
        size += f", {self.classes} classes" if self.classes > 1 else ""
        return f"{size}, {'easy' if self.gain else 'hard'}"


@dataclass(frozen=True)
class Contender:
    """A loss to be timed, and the loss whose float64 gradient is the right one for it.

    ``labels`` is the dtype that it takes its target in, converted outside the timing; ``void``
    makes every 20th pixel void; ``alone`` lets torch use one thread for it.
    """

    name: str
    loss: Loss
    reference: Loss
    labels: torch.dtype
    void: bool = False
    alone: bool = False

    def call(self, logits: Tensor, target: Tensor) -> Tensor:
        """The gradient."""
        threads = torch.get_num_threads()
        if self.alone:
            torch.set_num_threads(1)
        try:
            return gradient(self.loss, logits, target)
        finally:
            if self.alone:
                torch.set_num_threads(threads)

    def target(self, target: Tensor) -> Tensor:
        target = target.to(self.labels)
        if self.void:
            target.view(-1)[::20] = 255
        return target


@dataclass(frozen=True)
class Row:
    """Forward and backward of one loss on one case. The first contender of a case is its floor."""

    case: str
    loss: str
    milliseconds: float
    times_floor: float
    megabytes: float
    gradient_error: float


METHODS: tuple[Method, ...] = ("sort", "bins")

CASES = [
    *(Case(n, s, s, gain) for n, s in [(10, 41), (8, 321), (4, 513)] for gain in (0.0, 4.0)),
    *(Case(2, 512, 1024, gain, classes=19) for gain in (0.0, 4.0)),
]


def bench_loss(device: str = "cpu", rounds: int = 7, out: Path | None = None) -> list[Row]:
    """Times every loss on every case, prints the table and writes it to ``out`` as CSV.

    Within a case the losses are timed in turn, ``rounds`` times; a figure is the median over
    rounds. Megabytes are the peak above the memory held before the call. The gradient error is the
    L1 distance to the exact loss's gradient in float64, divided by that gradient's L1 norm. Labels
    have void only if the name says so, because kornia does not support it. They are uint8 unless
    the name says otherwise, float32 for torch's binary cross-entropy, and int64 for many classes. A
    library that is not installed is named and left out.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: no CUDA GPU was found, use --device cpu")
    console = Console()
    missing = [name for name in ("segmentation_models_pytorch", "kornia") if not find_spec(name)]
    if missing:
        console.print(f"not installed, left out: {', '.join(missing)}")
    rows = [row for case in CASES for row in bench_case(case, torch.device(device), rounds)]
    console.print(_table(rows, f"{hardware(torch.device(device))}, median of {rounds} rounds"))
    if out is not None:
        write_csv(rows, out)
    return rows


def bench_case(case: Case, device: torch.device, rounds: int) -> Iterator[Row]:
    """Time all losses on one case, in turn in each round. Yields a row per loss."""
    logits, target = inputs(case, device)
    contenders = list(_multiclass() if case.classes > 1 else _binary())
    calls = [partial(c.call, logits, c.target(target.clone())) for c in contenders]
    repeats = min(20, 1 + 2_000_000 // logits.numel())  # a small case is over too soon to time once
    seconds = time_in_turn(calls, rounds, repeats)
    for contender, call, taken in zip(contenders, calls, seconds, strict=True):
        exact = gradient(contender.reference, logits.double(), contender.target(target.clone()))
        yield Row(
            case=str(case),
            loss=contender.name,
            milliseconds=taken * 1e3,
            times_floor=taken / seconds[0],
            megabytes=peak_bytes(call, device) / 1e6,
            gradient_error=float((call() - exact).abs().sum() / exact.abs().sum()),
        )


def _binary() -> Iterator[Contender]:
    floor, byte = _torch_cross_entropy, torch.uint8
    yield Contender("binary cross-entropy (torch)", floor, floor, torch.float32)
    yield Contender("cross_entropy", cross_entropy, floor, byte)
    yield Contender("cross_entropy, void", cross_entropy, cross_entropy, byte, void=True)
    for method in METHODS:
        name, loss = f"lovasz_hinge {method}", partial(lovasz_hinge, method=method)
        for labels in (byte, torch.int64, torch.float32):
            typed = f"{name}, {str(labels).removeprefix('torch.')}"
            yield Contender(typed, loss, lovasz_hinge, labels)
        yield Contender(f"{name}, one thread", loss, lovasz_hinge, byte, alone=True)
    if find_spec("segmentation_models_pytorch"):
        from segmentation_models_pytorch.losses import LovaszLoss

        yield Contender("smp", LovaszLoss("binary", True, ignore_index=255), lovasz_hinge, byte)
    if find_spec("kornia"):
        from kornia.losses import lovasz_hinge_loss

        yield Contender("kornia", lambda f, y: lovasz_hinge_loss(f[:, None], y), lovasz_hinge, byte)


def _multiclass() -> Iterator[Contender]:
    per_image = partial(lovasz_softmax, classes="all", per_image=True)
    labels = torch.int64
    yield Contender("cross-entropy (torch)", F.cross_entropy, F.cross_entropy, labels)
    for method in METHODS:
        name, loss = f"lovasz_softmax {method}", partial(lovasz_softmax, method=method)
        yield Contender(name, loss, lovasz_softmax, labels)
        yield Contender(f"{name}, one thread", loss, lovasz_softmax, labels, alone=True)
    if find_spec("segmentation_models_pytorch"):
        from segmentation_models_pytorch.losses import LovaszLoss

        smp = LovaszLoss("multiclass", ignore_index=255)
        yield Contender("smp", smp, lovasz_softmax, labels)
    if find_spec("kornia"):
        from kornia.losses import lovasz_softmax_loss

        yield Contender("kornia", lovasz_softmax_loss, per_image, labels)


def _torch_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def inputs(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits ``(B, [C,] H, W)`` and labels ``(B, H, W)``: a disc, or rings of every class."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, case.height), torch.linspace(-1, 1, case.width), indexing="ij"
    )
    radius = (x**2 + y**2).sqrt().expand(case.images, -1, -1)
    if case.classes == 1:
        target = (radius < 0.5).to(torch.uint8)
        right = 2.0 * target - 1
    else:
        target = (radius * case.classes / 1.5).long() % case.classes
        right = F.one_hot(target, case.classes).movedim(-1, 1)
    logits = torch.randn(right.shape, generator=generator) + case.gain * right
    return logits.to(device), target.to(device)


def gradient(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    """The gradient of the loss with respect to the logits, of their shape."""
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(logits, target), logits)[0]


def time_in_turn(calls: Sequence[Callable[[], object]], rounds: int, repeats: int) -> list[float]:
    """Seconds of each call: the median over rounds in which all are timed in turn. The timer waits
    for a GPU, and first warms the caches, which another call has used."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, seconds, strict=True):
            timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
            times.append(timer.timeit(repeats).mean)
    return [median(times) for times in seconds]


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most memory that a call holds at once, above what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's: no progress on stderr
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def hardware(device: torch.device) -> str:
    """Torch's version and the device, for a title."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    return f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads"


def _table(rows: list[Row], title: str) -> Table:
    numbers = [Column(name, justify="right") for name in ("ms", "x floor", "MB", "gradient error")]
    table = Table("case", "loss", *numbers, title=title)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(
            row.case,
            row.loss,
            f"{row.milliseconds:.2f}",
            f"{row.times_floor:.2f}",
            f"{row.megabytes:.1f}",
            f"{row.gradient_error:.1e}",
            end_section=following is None or following.case != row.case,
        )
    return table


def write_csv(rows: Sequence[Any], out: Path) -> None:
    """Write dataclasses of one kind, a row each."""
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False, lineterminator="\n", na_rep="nan")
