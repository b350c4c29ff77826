"""The command line: `lovasz-repro fit | study | report | data … | bench …`."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from lovasz_repro.config import Experiment, known_category
from lovasz_repro.errors import DISK, UserError

EXPERIMENTS = Path("experiments")


def parser() -> ArgumentParser:
    """Every option comes from a typed signature; `--config` fills them from YAML."""
    top = _Parser(prog="lovasz-repro", description=__doc__, exit_on_error=False)
    commands = top.add_subcommands(metavar="COMMAND")

    fit = _experiment_parser("train and evaluate one cell, and leave its records")
    fit.add_argument("--category", type=str, required=True, help="one of VOC's 20 categories")
    fit.add_argument("--loss", type=str, required=True, help="a loss by its name")
    fit.add_argument("--fold", type=int, default=0)
    fit.add_argument("--seed", type=int, default=0)
    commands.add_subcommand("fit", fit)

    study = _experiment_parser("run every cell of an experiment that is not done yet")
    study.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="say what would run and how long"
    )
    study.add_argument(
        "--launcher", type=str, default="local", choices=["local", "ray"],
        help="where cells run: here (see runtime.workers), or on a Ray cluster",
    )  # fmt: skip
    study.add_argument(
        "--address", type=str | None, default=None, help="of the Ray cluster, if not started here"
    )
    commands.add_subcommand("study", study)

    report = _Parser(description="build the report from records", exit_on_error=False)
    report.add_argument("--runs", type=Path, required=True, help="a run's folder, or records.zip")
    report.add_argument("--out", type=Path, required=True, help="where the report goes")
    report.add_argument(
        "--readme", type=Path | None, default=None, help="renew the result table in this file"
    )
    commands.add_subcommand("report", report)

    actions = _group(commands, "data", "fetch, check or generate data")
    for name, what in (
        ("fetch", "download VOC 2012 and SBD, and build SegmentationClassAug and the lists"),
        ("check", "verify every listed image and mask"),
        ("shapes", "generate a small data set of shapes in VOC's layout"),
    ):
        action = _Parser(description=what, exit_on_error=False)
        action.add_argument("--root", type=Path, required=True, help="holds VOCdevkit/VOC2012")
        actions.add_subcommand(name, action)

    subjects = _group(commands, "bench", "measure speed")
    loss = _Parser(description="losses against smp, kornia and cross-entropy", exit_on_error=False)
    loss.add_argument("--device", type=str, default="cpu", choices=["cpu", "cuda"])
    loss.add_argument("--rounds", type=int, default=7, help="the median of so many")
    loss.add_argument("--out", type=Path | None, default=None, help="CSV file")
    subjects.add_subcommand("loss", loss)
    steps = _experiment_parser("a training step against the bare network and a plain loop")
    steps.add_argument("--steps", type=int, default=20, help="timed steps a round")
    steps.add_argument("--rounds", type=int, default=3, help="the median of so many")
    steps.add_argument("--out", type=Path | None, default=None, help="CSV file")
    whole = _experiment_parser("what a cell costs beyond its steps; `study --dry-run` uses it")
    for name, parser in (("train", steps), ("study", whole)):
        parser.add_argument("--category", type=str, default="cat")
        parser.add_argument("--loss", type=str, default="lovasz_hinge")
        subjects.add_subcommand(name, parser)
    return top


def _group(commands: Any, name: str, description: str) -> Any:
    group = _Parser(description=description, exit_on_error=False)
    commands.add_subcommand(name, group)
    return group.add_subcommands(metavar="WHAT")


class _Parser(ArgumentParser):
    """Errors become `UserError` with what there is."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        unknown = re.search(r"(?:unrecognized arguments: --|accept option ')([\w.]+)", message)
        if unknown and (there := _siblings(unknown[1])):
            message = f"unknown key {unknown[1]}; there is {there}"
        elif "config" in message and "does not exist" in message:
            message += f"; experiments there are: {', '.join(map(str, EXPERIMENTS.glob('*.yaml')))}"
        raise UserError(message) from ex


def _experiment_parser(description: str) -> ArgumentParser:
    result = _Parser(description=description, exit_on_error=False)
    result.add_argument("--config", action="config", help="a file of experiments/")
    result.add_class_arguments(Experiment)
    return result


def _siblings(key: str) -> str:
    """The configuration keys beside `key` (`data.rot`: those of `data`)."""
    group: Any = Experiment
    *path, _ = key.split(".")
    for name in path:
        group = get_type_hints(group).get(name)
        if not is_dataclass(group):
            return ""
    prefix = "".join(f"{name}." for name in path)
    return ", ".join(f"{prefix}{field.name}" for field in fields(group))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 1 for what the user can mend, 128 + n where signal n
    stopped it."""
    with _terminable() as received:
        try:
            top = parser()
            options = top.parse_args(list(sys.argv[1:] if arguments is None else arguments))
            command = options.subcommand
            return _run(command, top.instantiate(options)[command])
        except UserError as error:
            return _said(str(error), 1)
        except OSError as error:
            if error.errno not in DISK:
                raise
            path = error.filename2 or error.filename
            return _said(f"{path}: {error.strerror}" if path else str(error), 1)
        except KeyboardInterrupt:
            status = 128 + (received[0] if received else signal.SIGINT)
            return _said("stopped; the same command goes on from here", status)


def _said(message: str, status: int) -> int:
    print(f"lovasz-repro: {message}", file=sys.stderr)
    return status


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """Let SIGTERM, which a cluster sends before it kills, stop a command as Ctrl-C does.

    Yields: the signals received.
    """
    received: list[int] = []

    def stop(signum: int, frame: object) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(command: str, options: Namespace) -> int:
    # Each command imports what it needs: a data check need not wait for Lightning.
    if command in ("fit", "study"):
        from lovasz_repro import study

        experiment = _experiment(options)
        if command == "study":
            return study.study(
                experiment, dry_run=options.dry_run, launcher=options.launcher,
                address=options.address,
            )  # fmt: skip
        cell = (options.category, options.loss, options.fold, options.seed)
        return study.fit(experiment, *cell)
    if command == "report":
        from lovasz_repro.report import update_readme, write_report

        print(f"Report: {write_report(options.runs, options.out)}")
        if options.readme:
            update_readme(options.readme, options.out.parent)
        return 0
    what = options.subcommand
    if command == "data":
        return _data(what, options[what].root)
    _bench(what, options[what])
    return 0


def _experiment(options: Namespace) -> Experiment:
    return Experiment(**{f.name: options[f.name] for f in fields(Experiment)})


def _bench(what: str, options: Namespace) -> None:
    if what == "loss":
        from lovasz_repro.bench import bench_loss

        bench_loss(options.device, options.rounds, options.out)
        return
    from lovasz_repro.bench_train import bench_study, bench_train

    experiment = _experiment(options)
    category, loss = known_category(options.category), experiment.known_loss(options.loss)
    if experiment.runtime.devices > 1:
        raise UserError(f"runtime.devices: bench {what} times one device")
    if what == "study":
        bench_study(experiment, category, loss)
    else:
        bench_train(experiment, category, loss, options.steps, options.rounds, options.out)


def _data(what: str, root: Path) -> int:
    if what == "fetch":
        from lovasz_repro.fetch import fetch

        fetch(root)
    elif what == "shapes":
        from lovasz_repro.shapes import generate

        generate(root)
    else:
        from lovasz_repro.voc import check

        return 1 if check(root) else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
