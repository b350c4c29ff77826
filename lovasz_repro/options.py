"""The options of the command line, from typed signatures, and the errors for wrong ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lovasz_repro.config import Experiment
from lovasz_repro.errors import UserError, choices

EXPERIMENTS = Path("experiments")
ALL_KEYS = "[--KEY VALUE ...]"


def parser() -> ArgumentParser:
    """All commands. `--config` fills an experiment's options from YAML."""
    top = Parser(
        prog="lovasz-repro", formatter_class=_Help,
        description="Binary segmentation of Pascal VOC's categories under several losses: train, "
        "study, predict, report. `lovasz-repro COMMAND --help` describes every option.",
    )  # fmt: skip
    commands = top.add_subcommands(metavar="COMMAND", title="commands", description=None)

    text = "train and evaluate one cell, and leave its records"
    fit = _experiment(text, f"fit --config FILE --category NAME --loss NAME {ALL_KEYS}")
    fit.add_argument(
        "--category", type=str, required=True, help="a category; all, where the task is multiclass"
    )
    fit.add_argument("--loss", type=str, required=True, help="a loss by its name")
    fit.add_argument("--fold", type=int, default=0, help="which of the data's folds")
    fit.add_argument("--seed", type=int, default=0, help="of the draws of training images")
    fit.add_argument("--again", action="store_true", help="even where the cell is done already")
    commands.add_subcommand("fit", fit, help=text)

    text = "run every cell of an experiment that is not done yet"
    study = _experiment(text, f"study --config FILE [--dry-run [--verbose]] {ALL_KEYS}")
    study.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="say what would run and how long"
    )
    study.add_argument("--verbose", action="store_true", help="with --dry-run: list the cells")
    study.add_argument(
        "--check", action="store_true",
        help="check the configuration, print the paths that it names, and stop",
    )  # fmt: skip
    study.add_argument(
        "--launcher", type=Literal["local", "ray"], default="local",
        help="where cells run: here (see runtime.workers), or on a Ray cluster",
    )  # fmt: skip
    study.add_argument(
        "--address", type=str | None, default=None, help="of the Ray cluster, if not started here"
    )
    commands.add_subcommand("study", study, help=text)

    text = "segment images with the network of a cell that kept its weights"
    predict = Parser(description=text)
    predict.add_argument("images", type=Path, help="an image, or a folder of images")
    predict.add_argument(
        "--cell", type=Path, required=True,
        help="folder of a finished cell: runs/<name>/cells/<category>/<loss>/fold<k>-seed<s>",
    )  # fmt: skip
    predict.add_argument(
        "--out", type=Path, required=True, help="gets masks/, overlays/ and probabilities/"
    )
    predict.add_argument(
        "--threshold", type=float | Literal["tuned"], default=0.0,
        help="on the logits: a number, or tuned, the one chosen on held-out training images",
    )  # fmt: skip
    predict.add_argument(
        "--probabilities", action="store_true", help="also write the sigmoid of the logits (.npy)"
    )
    predict.add_argument(
        "--device", type=Literal["auto", "cpu", "cuda"], default="auto",
        help="auto: cuda where there is one",
    )  # fmt: skip
    predict.add_argument("--batch", type=int, default=8, help="images at once")
    commands.add_subcommand("predict", predict, help=text)

    text = "build the report from records"
    report = Parser(description=text)
    report.add_argument(
        "--runs", type=Path | None, default=None, help="a run's folder, or records.zip"
    )
    report.add_argument(
        "--compare", type=Path, nargs="+", default=[], help="in place of it: folders of reports"
    )
    report.add_argument("--out", type=Path, required=True, help="where the report goes")
    report.add_argument(
        "--without_photographs", "--without-photographs", action="store_true",
        help="show predictions as masks; neither the page nor records.zip holds a photograph",
    )  # fmt: skip
    report.add_argument(
        "--readme", type=Path | None, default=None, help="renew the result table in this file"
    )
    commands.add_subcommand("report", report, help=text)

    actions = _group(commands, "data", "fetch, check or generate data")
    for name, what in (
        ("fetch", "download VOC 2012 and SBD, and build SegmentationClassAug and the lists"),
        ("check", "verify every listed image and mask"),
        ("shapes", "generate a small data set of shapes in VOC's layout"),
    ):
        action = Parser(description=what)
        checked = name == "check"
        kind = Path | None if checked else Path
        action.add_argument(
            "--root", type=kind, required=not checked, default=None,
            help="holds VOCdevkit/VOC2012",
        )  # fmt: skip
        if checked:
            action.add_argument(
                "--cache", type=Path | None, default=None,
                help="verify all of a study's cached arrays (data.cache) against their sums",
            )  # fmt: skip
            action.add_argument(
                "--classes", type=list[str], default=[],
                help="names of the masks' labels 1, 2, ...; empty: VOC's 20",
            )  # fmt: skip
        actions.add_subcommand(name, action, help=what)

    text = "download and convert published weights"
    weights = Parser(description=text)
    weights.add_argument("names", nargs="*", type=str, default=[], help="without any, all")
    weights.add_argument("--root", type=Path, default=Path("data/weights"), help="where they go")
    actions.add_subcommand("weights", weights, help=text)

    subjects = _group(commands, "bench", "measure the speed of losses and of training steps")
    text = "losses against smp, kornia and cross-entropy"
    loss = Parser(description=text)
    loss.add_argument(
        "--device", type=Literal["cpu", "cuda"], default="cpu", help="where it is timed"
    )
    loss.add_argument("--rounds", type=int, default=7, help="the median of so many")
    loss.add_argument("--out", type=Path | None, default=None, help="CSV file")
    subjects.add_subcommand("loss", loss, help=text)
    text = "losses and training steps on a GPU, on generated data, in 5 minutes"
    gpu = Parser(description=text)
    gpu.add_argument(
        "--device", type=Literal["cpu", "cuda"], default="cuda", help="cpu: a tiny version"
    )
    gpu.add_argument("--rounds", type=int, default=7, help="the median of so many")
    gpu.add_argument(
        "--out", type=Path, default=Path("reports/bench"),
        help="gets gpu-NAME.csv; its README.md gets the table",
    )  # fmt: skip
    subjects.add_subcommand("gpu", gpu, help=text)
    text = "a training step against the bare network and a plain loop"
    steps = _experiment(text, f"bench train --config FILE {ALL_KEYS}")
    steps.add_argument("--steps", type=int, default=20, help="timed steps a round")
    steps.add_argument("--rounds", type=int, default=7, help="the median of so many")
    steps.add_argument("--out", type=Path | None, default=None, help="CSV file")
    steps.add_argument("--category", type=str, default="cat", help="of the training timed")
    steps.add_argument("--loss", type=str, default="lovasz_hinge", help="of the same")
    steps.add_argument(
        "--trained", type=list[Literal["all", "top", "head"]], default=[],
        help="values of network.train to time in turn, in place of the experiment's own",
    )  # fmt: skip
    steps.add_argument("--cell", action="store_true", help="time a whole cell of each, too, once")
    subjects.add_subcommand("train", steps, help=text)
    text = "cells of a linear head against the minimum of their objective, found by L-BFGS"
    minimum = _experiment(text, f"bench convergence --config FILE {ALL_KEYS}")
    minimum.add_argument("--names", type=list[str], default=["cat", "chair"], help="categories")
    minimum.add_argument("--fold", type=int, default=0, help="which of the data's folds")
    minimum.add_argument("--iterations", type=int, default=50, help="of L-BFGS, at most")
    minimum.add_argument("--out", type=Path | None, default=None, help="CSV file")
    subjects.add_subcommand("convergence", minimum, help=text)
    text = "scores of a published network on images that it has seen, and on others"
    seen = _experiment(text, f"bench seen --config FILE {ALL_KEYS}")
    seen.add_argument(
        "--lists", type=list[str], default=["train", "val"], help="lists of images; first: seen"
    )
    seen.add_argument("--out", type=Path, default=Path("reports/bench/seen.csv"), help="CSV file")
    subjects.add_subcommand("seen", seen, help=text)
    return top


def _group(commands: Any, name: str, text: str) -> Any:
    group = Parser(description=text)
    commands.add_subcommand(name, group, help=text)
    return group.add_subcommands(metavar="WHAT", title="what", description=None)


class OptionError(UserError):
    """An error in jsonargparse's words; `explained` rewords it."""


class Parser(ArgumentParser):
    """Errors become `OptionError`."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(exit_on_error=False, **rest)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise OptionError(message) from ex


class _Help(DefaultHelpFormatter):
    """Shows types as a person writes them, and none beside a list of choices."""

    def _get_type_str(self, action: Any) -> str | None:
        text: str | None = super()._get_type_str(action)
        return None if not text or "Literal[" in text else re.sub(r"<class '(\w+)'>", r"\1", text)


def _experiment(description: str, usage: str) -> ArgumentParser:
    result = Parser(description=description, usage=f"lovasz-repro {usage}")
    result.add_argument("--config", action="config", help="a file of experiments/")
    result.add_class_arguments(Experiment)
    return result


def explained(error: OptionError, top: ArgumentParser, arguments: Sequence[str]) -> str:
    """The error in one line: the key, what is wrong with it, and the valid choices."""
    message = str(error)
    if unknown := re.search(r"(?:unrecognized arguments: --|accept option ')([\w.]+)", message):
        return f"unknown key {unknown[1]}: {_keys_near(unknown[1], list(_keys(top, arguments)))}"
    if wrong := re.search(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message):
        there = re.findall(r"[\w-]+", wrong[3])
        return f"{wrong[1]}: there is no {wrong[2]!r}; {choices(wrong[2], there)}"
    if missing := re.search(r"arguments are required: (.*)", message):
        names = [name.split(".")[-1] for name in missing[1].split(", ")]
        hint = "; --config with a file of experiments/ has it" if names == ["name"] else ""
        return f"missing: {', '.join(f'--{name}' for name in names)}{hint}"
    if re.match(r'expected "[\w.]+" to be one of', message):  # it names the first five
        subcommands = _command(top, arguments)._subcommands_action
        assert subcommands is not None
        return f"missing: a command; there is {', '.join(subcommands.choices)}"
    if absent := re.search(r'Parser key "config":.*does not exist: \'(.*?)\'', message, re.DOTALL):
        there = [str(path) for path in sorted(EXPERIMENTS.glob("*.yaml"))]
        return f"config: {absent[1]} does not exist; {choices(_shown(absent[1]), there)}"
    if "Problems parsing config" in message:
        files = [value for flag, value in _values(arguments) if flag == "config"]
        return f"{', '.join(files)}: not YAML: {' '.join(message.split(':', 1)[1].split())}"
    if value := re.search(r'Parser key "(.*?)":\s*(.*)', message, re.DOTALL):
        return _wrong_value(value[1], value[2])
    return message


_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text",
    "list": "a list such as [a, b]", "tuple": "a list such as [1, 2]", "NoneType": "null",
    "dict": "pairs such as {a: 1}",
}  # fmt: skip
_EXPECTED = re.compile(
    r"Expected an? (?:<class '(?P<kind>\w+)'>|typing\.Literal\[(?P<names>.*?)\]"
    r"|tuple with (?P<length>\d+) elements)"
)


def _shown(path: str) -> str:
    """The path, relative to the current folder if it is inside it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _wrong_value(key: str, text: str) -> str:
    """`optim.steps: 'many' is not a whole number`; the text is jsonargparse's."""
    found = re.search(r"(?:Got value|Given value): (.*)", text)
    given = found[1].strip() if found else ""
    wanted = []
    for match in _EXPECTED.finditer(text):
        if match["names"]:
            there = [name.strip(" '\"") for name in match["names"].split(",")]
            return f"{key}: there is no {given!r}; {choices(given, there)}"
        if match["length"]:
            wanted.append(f"a list of {match['length']} values")
        else:
            wanted.append(_KINDS.get(match["kind"], match["kind"]))
    if file := re.search(r"Unable to load config ['\"](.*?)['\"]", text):
        return f"{key}: {file[1]!r} is neither a YAML file nor pairs such as {{a: 1}}"
    return f"{key}: {given!r} is not {' or '.join(wanted)}" if wanted else f"{key}: {text}"


def _keys_near(key: str, there: list[str]) -> str:
    """A hint: the keys in the section of `key`, and keys elsewhere with the same last part."""
    group, _, last = key.rpartition(".")
    beside = [k for k in there if k.rpartition(".")[0] == group]
    same = [k for k in there if k.rpartition(".")[2] == last and k not in beside]
    if same:
        return f"did you mean {' or '.join(same)}? There is {', '.join(beside or same)}"
    return choices(key, beside or [k for k in there if "." not in k])


def _command(top: ArgumentParser, arguments: Sequence[str]) -> ArgumentParser:
    """The parser of the command that the arguments name."""
    command = top
    for argument in arguments:
        subcommands = command._subcommands_action
        if subcommands is not None and argument in subcommands.choices:
            command = subcommands.choices[argument]
    return command


def _keys(top: ArgumentParser, arguments: Sequence[str]) -> Iterator[str]:
    """The option names of the command that the arguments name, without dashes."""
    for action in _command(top, arguments)._actions:
        names = [n[2:] for n in action.option_strings if n.startswith("--")]
        yield from (n for n in names[-1:] if n != "help" and not n.startswith("print_"))


def _values(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(flag without dashes, value) of `--flag value` and `--flag=value`."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            yield flag[2:], value if equals else following
