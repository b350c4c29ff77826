"""The losses and the training steps of the shipped networks on a GPU, on generated data."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Column, Table

from lovasz_repro.bench import losses as bench
from lovasz_repro.config import Network, Optim, Runtime
from lovasz_repro.data.augment import crop, normalise
from lovasz_repro.data.binary import binary_target
from lovasz_repro.errors import UserError
from lovasz_repro.losses import LOSSES, Loss, lovasz_hinge, lovasz_softmax
from lovasz_repro.models.deeplab import build
from lovasz_repro.report.readme import update_benchmarks
from lovasz_repro.training.loop import autocast, deterministic
from lovasz_repro.training.segmenter import BinarySegmenter

LABEL = 3
RUNTIME = Runtime(precision="bf16-mixed")


@dataclass(frozen=True)
class Step:
    """A training step of a whole network: augmentation, network, loss, optimiser.

    Args:
        canvas, crop: sides in pixels.
    """

    name: str
    network: Network
    images: int
    canvas: int
    crop: int

    def __str__(self) -> str:
        return f"step of {self.name}, {self.images}x{self.crop}x{self.crop}"


@dataclass(frozen=True)
class Row:
    """Forward and backward of a loss, or a training step. ratio: to the first row of its case.

    megabytes: peak above what was held before. check: of our losses, whether two runs of torch's
    deterministic algorithms give the same bits; of a step, whether it waits for the device.
    """

    device: str
    case: str
    name: str
    milliseconds: float
    ratio: float
    megabytes: float
    check: str


STEPS = [
    Step("deeplabv3_resnet101", Network(), 10, 513, 321),
    Step(
        "deeplabv3_mobilenetv2",
        Network("deeplabv3_mobilenetv2", weights="-", output_stride=16, score="log_odds"),
        10, 513, 257,
    ),
    Step(
        "deeplab_v2, tf_efficientnet_lite0",
        Network("deeplab_v2", output_stride=16, rates=(1, 2, 4, 8)), 10, 385, 321,
    ),
]  # fmt: skip
TINY_STEPS = [
    Step("test_resnet", Network("deeplab_v2", "test_resnet", output_stride=16), 2, 81, 65)
]
TINY_CASES = [bench.Case(2, 30, 30, gain=0.0), bench.Case(1, 30, 40, gain=4.0, classes=3)]

TRAINED: dict[str, Loss] = {
    "cross_entropy": LOSSES["cross_entropy"],
    "lovasz_hinge sort": lovasz_hinge,
    "lovasz_hinge bins": partial(lovasz_hinge, method="bins"),
}
MULTICLASS: dict[str, Loss] = {
    "lovasz_softmax sort": lovasz_softmax,
    "lovasz_softmax bins": partial(lovasz_softmax, method="bins"),
}


def bench_gpu(device: str, rounds: int, out: Path) -> list[Row]:
    """Time losses and steps, print the table, write <out>/gpu-<name of the GPU>.csv and renew the
    tables in <out>/README.md.

    Args:
        device: cuda, or cpu for a tiny version, which writes cpu.csv and leaves the README.
        rounds: a figure is the median over these; each times all entries of a case in turn.

    A case that fails is left out, with its error on stderr.

    Raises: UserError if there is no CUDA GPU, or every case fails.
    """
    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise UserError("bench gpu: no CUDA GPU was found; --device cpu runs a tiny version")
    where = torch.device(device)
    hardware = bench.hardware(where)
    rows: list[Row] = []
    cases: list[bench.Case | Step] = (
        [*bench.CASES, *STEPS] if on_gpu else [*TINY_CASES, *TINY_STEPS]
    )
    for case in cases:
        try:
            if isinstance(case, Step):
                rows += _steps(case, where, rounds, hardware)
            else:
                rows += _losses(case, where, rounds, hardware)
        except RuntimeError as error:  # out of memory, or no deterministic algorithm
            Console(stderr=True, markup=False).print(f"{case}: {error}; left out")
    if not rows:
        raise UserError("bench gpu: nothing could be measured; the errors are above")
    _print(rows)
    name = f"gpu {torch.cuda.get_device_name(where)}" if on_gpu else "cpu"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    bench.write_csv(rows, out / f"{slug}.csv")
    if on_gpu and (out / "README.md").is_file():
        update_benchmarks(out)
    return rows


def _losses(case: bench.Case, device: torch.device, rounds: int, hardware: str) -> Iterator[Row]:
    ours = MULTICLASS if case.classes > 1 else TRAINED
    for row in bench.bench_case(case, device, rounds):
        check = ""
        name = row.loss.split(",")[0]  # without the type of its labels
        if name in ours:
            same = same_bits(ours[name], case, device)
            check = "same bits twice" if same else "other bits"
        yield Row(
            hardware, row.case, row.loss, row.milliseconds, row.times_floor, row.megabytes, check
        )


def same_bits(loss: Loss, case: bench.Case, device: torch.device) -> bool:
    """Whether two deterministic runs have one gradient.

    Raises: RuntimeError if torch has no deterministic algorithm for an operation.
    """
    logits, target = bench.inputs(case, device)
    with deterministic():
        first, second = (bench.gradient(loss, logits, target) for _ in range(2))
    return torch.equal(first, second)


def _steps(step: Step, device: torch.device, rounds: int, hardware: str) -> Iterator[Row]:
    repeats = 10 if device.type == "cuda" else 1
    with deterministic():  # as every training
        calls = [training_step(step, loss, device)[1] for loss in TRAINED.values()]
        seconds = bench.time_in_turn(calls, rounds, repeats)
        for name, call, taken in zip(TRAINED, calls, seconds, strict=True):
            ratio, megabytes = taken / seconds[0], bench.peak_bytes(call, device) / 1e6
            check = ""
            if device.type == "cuda":
                check = "waits for the GPU" if waits(call) else "does not wait"
            yield Row(hardware, str(step), name, 1000 * taken, ratio, megabytes, check)


def training_step(
    step: Step, loss: Loss, device: torch.device
) -> tuple[BinarySegmenter, Callable[[], None]]:
    """A module, and a step of it on random images and labels that stay on the device, as a study's
    arrays do."""
    torch.manual_seed(0)
    network = build(step.network, pretrained=False)
    module = BinarySegmenter(
        network.binary(LABEL, step.network.score), loss, Optim(), Optim().lr, network.stride
    )
    module = module.to(device).train()
    optimizer = module.configure_optimizers()["optimizer"]
    count, side = step.images, step.canvas
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8).to(device)
    labels = torch.randint(0, LABEL + 1, (count, side, side), dtype=torch.uint8).to(device)
    sizes = torch.full((count, 2), side, device=device)
    present = torch.ones(count, dtype=torch.bool, device=device)
    scale = torch.linspace(0.5, 1.5, count, dtype=torch.float64).to(device)
    flip = torch.arange(count, device=device) % 2 == 1
    offset = torch.rand(count, 2, dtype=torch.float64).to(device)
    mean, std = network.mean.to(device), network.std.to(device)

    def call() -> None:
        target = binary_target(labels, LABEL, present, "background")
        inputs = normalise(images, sizes, mean, std)
        inputs, target = crop(inputs, target, sizes, scale, flip, offset, step.crop)
        with autocast(RUNTIME, device):
            value = module.loss(module(inputs), target[:, :: network.stride, :: network.stride])
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return module, call


def waits(call: Callable[[], None]) -> bool:
    """Whether a call waits for the GPU, as far as torch notices."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch does not notice all of it
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return False


def _print(rows: Sequence[Row]) -> None:
    numbers = [Column(name, justify="right") for name in ("ms", "x first", "MB")]
    table = Table("case", "what", *numbers, "check", title=rows[0].device)
    for row in rows:
        figures = [f"{row.milliseconds:.2f}", f"{row.ratio:.2f}", f"{row.megabytes:.1f}"]
        table.add_row(row.case, row.name, *figures, row.check)
    Console().print(table)
