"""The options of the command line, from typed signatures, and the errors for wrong ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lovasz_repro.config import Experiment
from lovasz_repro.errors import UserError, choices

EXPERIMENTS = Path("experiments")


def parser() -> ArgumentParser:
    """All commands. `--config` fills an experiment's options from YAML."""
    top = Parser(
        prog="lovasz-repro", formatter_class=_Help, version=version("lovasz_repro"),
        description="Binary segmentation of Pascal VOC's categories under several losses: train, "
        "study, predict, report. `lovasz-repro COMMAND --help` describes every option.",
    )  # fmt: skip
    commands = top.add_subcommands(metavar="COMMAND", title="commands", description=None)
    device, rounds = Literal["cpu", "cuda"], "rounds timed, whose median is reported"

    text = "train and evaluate one cell, and leave its records"
    add = _add(commands, "fit", text, "fit --config FILE --category NAME --loss NAME")
    add("--category", type=str, required=True, help="a category; all, where the task is multiclass")
    add("--loss", type=str, required=True, help="a loss by its name")
    add("--fold", type=int, default=0, help="which of the data's folds")
    add("--seed", type=int, default=0, help="of the draws of training images")
    add(
        "--again",
        action="store_true",
        help="run it also if it is done already; replaces its records",
    )

    text = "run every cell of an experiment that is not done yet"
    add = _add(commands, "study", text, "study --config FILE [--dry-run [--verbose]]")
    add("--dry_run", "--dry-run", action="store_true", help="say what would run and how long")
    add("--verbose", action="store_true", help="with --dry-run: list the cells")
    text = "check the configuration, print the paths that it names, and stop"
    add("--check", action="store_true", help=text)
    text = "where cells run: here (see runtime.workers), or on a Ray cluster"
    add("--launcher", type=Literal["local", "ray"], default="local", help=text)
    text = "HOST:PORT of the Ray cluster; default: the one on this machine"
    add("--address", type=str | None, default=None, help=text)

    text = "segment images with the network of a cell that kept its weights"
    usage = "predict --cell FOLDER --out FOLDER [--threshold NUMBER] IMAGE_OR_FOLDER"
    add = _add(commands, "predict", text, usage)
    add("images", type=Path, help="an image, or a folder of images")
    text = "folder of a finished cell: runs/<name>/cells/<category>/<loss>/fold<k>-seed<s>"
    add("--cell", type=Path, required=True, help=text)
    add("--out", type=Path, required=True, help="gets masks/, overlays/ and probabilities/")
    text = "on the logits: a number, or tuned, the one chosen on held-out training images"
    add("--threshold", type=float | Literal["tuned"], default=0.0, help=text)
    text = "also write the sigmoid of the logits (.npy)"
    add("--probabilities", action="store_true", help=text)
    auto = Literal["auto", "cpu", "cuda"]
    add("--device", type=auto, default="auto", help="auto: cuda where there is one")
    add("--batch", type=int, default=8, help="images at once")

    usage = "report (--runs FOLDER | --compare FOLDER ...) --out FOLDER"
    add = _add(commands, "report", "build the report from records", usage)
    text = "a run's folder, or a report's records.zip"
    add("--runs", type=Path | None, default=None, help=text)
    text = "in place of --runs: folders of reports, to be set side by side"
    add("--compare", type=Path, nargs="+", default=[], help=text)
    add("--out", type=Path, required=True, help="where the report goes")
    text = "show predictions as masks; neither the page nor records.zip holds a photograph"
    add("--without_photographs", "--without-photographs", action="store_true", help=text)
    text = "renew the result table in this file"
    add("--readme", type=Path | None, default=None, help=text)

    actions = _group(commands, "data", "fetch, check or generate data")
    holds = "holds VOCdevkit/VOC2012"
    text = "download VOC 2012 and SBD, and build SegmentationClassAug and the lists"
    _add(actions, "fetch", text)("--root", type=Path, required=True, help=holds)
    usage = "data check [--root FOLDER [--classes [NAME,...]]] [--cache FOLDER]"
    add = _add(actions, "check", "verify every listed image and mask", usage)
    add("--root", type=Path | None, default=None, help=holds)
    text = "verify all of a study's cached arrays (data.cache) against their sums"
    add("--cache", type=Path | None, default=None, help=text)
    text = "names of the masks' labels 1, 2, ...; empty: VOC's 20"
    add("--classes", type=list[str], default=[], help=text)
    text = "generate a small data set of shapes in VOC's layout"
    _add(actions, "shapes", text)("--root", type=Path, required=True, help=holds)
    add = _add(actions, "weights", "download and convert published weights")
    add("names", nargs="*", type=str, default=[], help="without any, all")
    add("--root", type=Path, default=Path("data/weights"), help="where they go")

    subjects = _group(commands, "bench", "measure the speed of losses and of training steps")
    add = _add(subjects, "loss", "losses against smp, kornia and cross-entropy")
    add("--device", type=device, default="cpu", help="where it is timed")
    add("--rounds", type=int, default=7, help=rounds)
    add("--out", type=Path | None, default=None, help="CSV file")

    text = "losses and training steps on a GPU, on generated data, in 5 minutes"
    add = _add(subjects, "gpu", text)
    add("--device", type=device, default="cuda", help="cpu: a tiny version")
    add("--rounds", type=int, default=7, help=rounds)
    text = "gets gpu-NAME.csv; its README.md gets the table"
    add("--out", type=Path, default=Path("reports/bench"), help=text)

    text = "a training step against the bare network and a plain loop"
    add = _add(subjects, "train", text, "bench train --config FILE")
    add("--steps", type=int, default=20, help="timed steps a round")
    add("--rounds", type=int, default=7, help=rounds)
    add("--out", type=Path | None, default=None, help="CSV file")
    add("--category", type=str, default="cat", help="of the training timed")
    add("--loss", type=str, default="lovasz_hinge", help="of the same")
    text = "values of network.train to time in turn, in place of the experiment's own"
    add("--trained", type=list[Literal["all", "top", "head"]], default=[], help=text)
    add("--cell", action="store_true", help="time a whole cell of each, too, once")

    text = "cells of a linear head against the minimum of their objective, found by L-BFGS"
    add = _add(subjects, "convergence", text, "bench convergence --config FILE")
    add("--names", type=list[str], default=["cat", "chair"], help="categories")
    add("--fold", type=int, default=0, help="which of the data's folds")
    add("--iterations", type=int, default=50, help="of L-BFGS, at most")
    add("--out", type=Path | None, default=None, help="CSV file")

    text = "scores of a published network on images that it has seen, and on others"
    add = _add(subjects, "seen", text, "bench seen --config FILE")
    add("--lists", type=list[str], default=["train", "val"], help="lists of images; first: seen")
    add("--out", type=Path, default=Path("reports/bench/seen.csv"), help="CSV file")
    return top


def _add(commands: Any, name: str, text: str, usage: str = "") -> Callable[..., Any]:
    """A new command's `add_argument`. One whose usage has --config takes an experiment's keys."""
    keys = "--config" in usage
    end = " [--KEY VALUE ...]" if keys else ""
    command = Parser(description=text, usage=f"lovasz-repro {usage}{end}" if usage else None)
    if keys:
        command.add_argument("--config", action="config", help="a file of experiments/")
        command.add_class_arguments(Experiment)
    commands.add_subcommand(name, command, help=text)
    return command.add_argument


def _group(commands: Any, name: str, text: str) -> Any:
    group = Parser(description=text)
    commands.add_subcommand(name, group, help=text)
    return group.add_subcommands(metavar="WHAT", title="what", description=None)


def check_file(path: Path) -> None:
    """Check what the YAML reader does not: that no key is there twice, and that sections hold keys.

    Raises: UserError naming file, line and key.
    """
    try:
        top = yaml.compose(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8") from error
    except (OSError, yaml.YAMLError):
        return  # the parser says which
    if not isinstance(top, yaml.MappingNode):
        raise UserError(f"{path}: holds no keys of an experiment, such as name: mine")
    sections = {
        f.name: f.default_factory() for f in fields(Experiment) if f.default_factory is not MISSING
    }
    _check_keys(path, top, "", SimpleNamespace(**sections))


def _check_keys(path: Path, node: yaml.MappingNode, prefix: str, section: object) -> None:
    seen = set()
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        where = f"{path}, line {key.start_mark.line + 1}: {name}"
        if name in seen:
            raise UserError(f"{where} is there twice")
        seen.add(name)
        part = getattr(section, str(key.value), None)
        if isinstance(value, yaml.MappingNode):
            _check_keys(path, value, f"{name}.", part)
        elif is_dataclass(part):
            keys = ", ".join(f.name for f in fields(part))
            raise UserError(f"{where} is a section; under it belong {keys}")


class OptionError(UserError):
    """An error in jsonargparse's words; `explained` rewords it."""


class Parser(ArgumentParser):
    """Errors become `OptionError`."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(exit_on_error=False, allow_abbrev=False, **rest)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise OptionError(message) from ex


class _Help(DefaultHelpFormatter):
    """Shows types as a person writes them, and none beside a list of choices."""

    def _get_type_str(self, action: Any) -> str | None:
        text: str | None = super()._get_type_str(action)
        return None if not text or "Literal[" in text else re.sub(r"<class '(\w+)'>", r"\1", text)


def explained(error: OptionError, top: ArgumentParser, arguments: Sequence[str]) -> str:
    """The error in one line: the key, what is wrong with it, and the valid choices."""
    message = str(error)
    if given := re.match(r"[Uu]nrecognized arguments: ([^-]\S*)", message):
        is_file = given[1].endswith((".yaml", ".yml"))
        hint = f"; a configuration is given by --config {given[1]}" if is_file else ""
        return f"{given[1]}: not expected here{hint}"
    if unknown := re.search(r"(?:unrecognized arguments: --|accept option ')([\w.-]+)", message):
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
        files = ", ".join(map(str, config_files(arguments)))
        return f"{files}: not YAML: {' '.join(message.split(':', 1)[1].split())}"
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
    value = re.search(r"(?:Got value|Given value): (.*)", text)
    given = value[1].strip() if value else ""
    wanted = []
    found = list(_EXPECTED.finditer(text))
    for match in found:
        if match["names"]:
            there = [name.strip(" '\"") for name in match["names"].split(",")]
            if len(found) == 1:
                return f"{key}: there is no {given!r}; {choices(given, there)}"
            wanted += there
        elif match["length"]:
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


def config_files(arguments: Sequence[str]) -> Iterator[Path]:
    """The files that `--config FILE` or `--config=FILE` names."""
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, equals, value = argument.partition("=")
        if flag == "--config":
            yield Path(value if equals else following)
