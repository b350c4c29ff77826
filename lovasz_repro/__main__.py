"""The command line: `lovasz-repro fit | study | predict | report | data … | bench …`."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from jsonargparse import Namespace

from lovasz_repro import environment
from lovasz_repro.config import Experiment
from lovasz_repro.data.voc import CATEGORIES
from lovasz_repro.errors import DISK, UserError
from lovasz_repro.options import OptionError, check_file, config_files, explained, parser
from lovasz_repro.words import count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 1 for an error that the user can fix, 128 + n if
    signal n stopped it."""
    environment.prepare()
    with _terminable() as received:
        given = list(sys.argv[1:] if arguments is None else arguments)
        top = parser()
        if not given:
            print(top.format_help(), file=sys.stderr)
        try:
            for file in config_files(given):
                check_file(file)
            options = top.parse_args(given)
            command = options.subcommand
            return _run(command, top.instantiate(options)[command])
        except OptionError as error:
            return _said(explained(error, top, given), 1)
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
    if command == "study" and options.check:
        _print_paths(_experiment(options))
        return 0
    if command in ("fit", "study"):
        if command == "study" and options.verbose and not options.dry_run:
            raise UserError("--verbose: belongs to --dry-run")
        if sys.stderr.isatty():
            print("lovasz-repro: loading PyTorch", file=sys.stderr)
        with environment.importing():
            from lovasz_repro.study import grid as study

        experiment = _experiment(options)
        if command == "study":
            from lovasz_repro.report.gallery import write_gallery

            return study.study(
                experiment, dry_run=options.dry_run, verbose=options.verbose,
                launcher=options.launcher, address=options.address, finish=write_gallery,
            )  # fmt: skip
        cell = (options.category, options.loss, options.fold, options.seed)
        return study.fit(experiment, *cell, again=options.again)
    if command == "predict":
        return _predict(options)
    if command == "report":
        from lovasz_repro.report import update_readme, write_comparison, write_report

        if bool(options.runs) == bool(options.compare):
            raise UserError("report: needs either --runs or --compare")
        if options.compare and options.without_photographs:
            raise UserError("--without-photographs: belongs to --runs; a comparison shows none")
        if options.compare:
            print(f"Report: {write_comparison(options.compare, options.out)}")
        else:
            page = write_report(options.runs, options.out, not options.without_photographs)
            print(f"Report: {page}")
        if options.readme:
            update_readme(options.readme, options.out.parent)
        return 0
    what = options.subcommand
    if command == "data":
        return _check(options[what]) if what == "check" else _data(what, options[what])
    _bench(what, options[what])
    return 0


def _predict(options: Namespace) -> int:
    _check_positive(options, "batch")
    if options.threshold != "tuned" and not math.isfinite(options.threshold):
        raise UserError(f"--threshold: {options.threshold} is not finite")
    with environment.importing():
        from lovasz_repro.study.predict import predict

    done, broken = predict(
        options.cell, options.images, options.out, threshold=options.threshold,
        probabilities=options.probabilities, device=options.device, batch=options.batch,
    )  # fmt: skip
    if done:
        print(f"{count(done, 'image')}: masks and overlays in {options.out}")
    for message in broken:
        _said(message, 1)
    return 1 if broken else 0


def _check_positive(options: Namespace, *keys: str) -> None:
    """Raises: UserError naming the option, of those that the command has, that is below 1."""
    for key in keys:
        if options.get(key, 1) < 1:
            raise UserError(f"--{key}: {options[key]} is not positive")


def _experiment(options: Namespace) -> Experiment:
    return Experiment(**{f.name: options[f.name] for f in fields(Experiment)})


def _print_paths(experiment: Experiment) -> None:
    """Print what run_all.sh must prepare for a study or look for, one `key: value` per line."""
    voc = experiment.data.classes == list(CATEGORIES)
    print(f"data: {experiment.data.root}")
    print(f"classes: {'voc' if voc else 'own'}")
    print(f"weights: {experiment.network.weights or ''}")
    print(f"device: {experiment.runtime.device}")
    print(f"runs: {Path(experiment.runs) / experiment.name}")


def _bench(what: str, options: Namespace) -> None:
    _check_positive(options, "rounds", "steps", "iterations")
    if what == "loss":
        from lovasz_repro.bench.losses import bench_loss

        bench_loss(options.device, options.rounds, options.out)
        return
    if what == "gpu":
        from lovasz_repro.bench.gpu import bench_gpu

        bench_gpu(options.device, options.rounds, options.out)
        return
    experiment = _experiment(options)
    if what == "seen":
        from lovasz_repro.bench.seen import bench_seen

        bench_seen(experiment, options.lists, options.out)
        return
    if experiment.multiclass:
        raise UserError(f"task: bench {what} times binary cells")
    if what == "convergence":
        with environment.importing():
            from lovasz_repro.bench.convergence import bench_convergence

        names = [experiment.known_category(name, "--names") for name in options.names]
        bench_convergence(experiment, names, options.fold, options.iterations, options.out)
        return
    with environment.importing():
        from lovasz_repro.bench.steps import bench_train

    category = experiment.known_category(options.category)
    loss = experiment.known_loss(options.loss)
    if experiment.runtime.devices > 1:
        raise UserError(f"runtime.devices: bench {what} times one device")
    bench_train(
        experiment, category, loss, options.steps, options.rounds, options.out,
        options.trained, options.cell,
    )  # fmt: skip


def _data(what: str, options: Namespace) -> int:
    root = options.root
    if what == "weights":
        from lovasz_repro.models.weights import get_weights

        get_weights(options.names, root)
    elif what == "fetch":
        from lovasz_repro.data.fetch import fetch

        fetch(root)
    else:
        from lovasz_repro.data.shapes import generate

        generate(root)
    return 0


def _check(options: Namespace) -> int:
    if options.root is None and options.cache is None:
        raise UserError("data check: needs --root, --cache or both")
    problems: list[str] = []
    if options.root is not None:
        from lovasz_repro.data.voc import check

        problems += check(options.root, classes=options.classes or CATEGORIES)
    if options.cache is not None:
        from lovasz_repro.data.integrity import check_cache

        damaged = check_cache(options.cache)
        print(*damaged, sep="\n", end="\n" if damaged else "")
        state = count(len(damaged), "problem") if damaged else "all is well"
        print(f"{options.cache}: {state}.")
        problems += damaged
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
