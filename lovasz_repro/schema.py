"""Types and ranges of the JSON files of a run; names in them are safe as parts of a path.

Records may be untrusted. A value of a wrong type or range is an error that names its key. Unknown
keys are ignored, so that a newer record can be read.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

Json = dict[str, Any]

NAME = r"\A(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}\Z"
Name = Annotated[str, Meta(pattern=NAME)]
"""One part of a path, without "..": categories, losses, image ids, file names."""

ALL_LABELS = "all"
"""The category of a multi-class cell, which learns all labels at once."""

_BATCH = re.compile(r"\.batch([1-9][0-9]{0,5})\Z")


def batch_of(loss: str) -> int | None:
    """The batch size in a loss's name, 40 in `lovasz_softmax.batch40`; None if it has none."""
    found = _BATCH.search(loss)
    return int(found[1]) if found else None


def without_batch(loss: str) -> str:
    """`lovasz_softmax` of `lovasz_softmax.batch40`."""
    return _BATCH.sub("", loss)


Text = Annotated[str, Meta(max_length=100_000)]
Hash = Annotated[str, Meta(pattern=r"\A[0-9a-f]{1,64}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Date = Annotated[datetime.datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Side = Annotated[int, Meta(ge=1, le=10_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]
Difference = Annotated[float, Meta(ge=-1, le=1)]


class GridOf(TypedDict):
    categories: Annotated[list[Name], Meta(min_length=1)]
    losses: Annotated[list[Name], Meta(min_length=1)]
    folds: Annotated[list[Count], Meta(min_length=1)]
    seeds: Annotated[list[Count], Meta(min_length=1)]


class ListOf(TypedDict):
    images: Count
    sha256: Sha256


class DataOf(TypedDict, total=False):
    lists: dict[Name, ListOf]


class TuningOf(TypedDict, total=False):
    categories: list[Name]
    holdout: Count
    holdout_list: Text | None


class CellsOf(TypedDict, total=False):
    folds_per_partition: Count


class ImagesOf(TypedDict, total=False):
    classes: list[Text]
    views: Count


class OptimOf(TypedDict, total=False):
    batch_size: Count


class ConfigOf(TypedDict, total=False):
    task: Literal["binary", "multiclass"]
    data: ImagesOf
    network: Json
    base: Json
    runtime: Json
    optim: OptimOf
    tuning: TuningOf
    cells: CellsOf


class Study(TypedDict):
    """study.json"""

    experiment: Name
    hash: Hash
    grid: GridOf
    config: ConfigOf
    data: DataOf
    generated: NotRequired[bool]


class SumsOf(TypedDict):
    bytes: Count
    crc32: list[Count]


class Sums(TypedDict):
    """checksums.json of a cache's folder"""

    folder: Name
    files: dict[Name, SumsOf]


class Ran(TypedDict, total=False):
    """Commit, machine and time of a study's run. seconds: of its commands that had work to do,
    without the pauses between them."""

    commit: Text | None
    dirty: bool | None
    python: Text
    torch: Text
    torchvision: Text
    lightning: Text
    torchmetrics: Text
    timm: Text
    processor: Text
    cores: Count | None
    device: Text
    started: Date
    finished: Date
    seconds: Amount


class Machine(Ran):
    """machine.json: of the last commit that ran the study, and of those before."""

    earlier: NotRequired[list[Ran]]


class Trial(TypedDict):
    lr: Amount
    steps: Count
    category: Name
    seed: Count
    image_iou: NotRequired[Share | None]
    miou: NotRequired[Share | None]  # instead, if all labels are learned at once


class Tuned(TypedDict):
    """An entry of tuning.json: lr is null, and the rest is missing, until the choice is made."""

    lr: Amount | None
    trials: list[Trial]
    steps: NotRequired[Count]
    image_iou: NotRequired[Share]
    miou: NotRequired[Share]
    at_edge: NotRequired[bool]


Tuning = dict[Name, dict[Name, Tuned]]
"""tuning.json: by "fold<k>" and loss."""


class Base(TypedDict):
    """base/fold<k>/result.json"""

    fold: Count
    hash: Hash
    sha256: Hash  # of the network's state, shortened
    miou: Share
    iou: Annotated[dict[Name, Share], Meta(min_length=1)]
    steps: Count


class Cost(TypedDict):
    """cost.json of a base or a cell."""

    train_seconds: NotRequired[Amount]
    validate_seconds: NotRequired[Amount]
    evaluate_seconds: NotRequired[Amount]
    total_seconds: Amount
    seconds_per_step: NotRequired[Amount]


FilesOf = TypedDict(
    "FilesOf", {"images.csv": Sha256, "curve.csv": Sha256, "thresholds.csv": Sha256}
)


class CellOf(TypedDict):
    category: Name
    loss: Name
    fold: Count
    seed: Count
    hash: Hash
    base: Hash
    lr: Amount
    steps: Count
    images: Annotated[int, Meta(ge=1, le=2**53)]


class Result(CellOf):
    """A cell's result.json"""

    threshold: Finite
    image_iou: Share
    tuned_image_iou: Share
    dataset_iou: Share
    held_out_images: NotRequired[Count]
    files: FilesOf


MultiFilesOf = TypedDict("MultiFilesOf", {"classes.csv": Sha256, "curve.csv": Sha256})


class MultiResult(CellOf):
    """A multi-class cell's result.json"""

    batch_size: Annotated[int, Meta(ge=1, le=2**53)]
    miou: Share
    image_miou: Share
    files: MultiFilesOf


class Failed(TypedDict):
    """failed.json"""

    error: Text


class Shown(TypedDict):
    """An image of gallery.json. image: its photograph, which a report may leave out; sha256: of its
    pictures, by their names."""

    category: Name
    id: Name
    rule: Text
    fold: Count
    seed: Count
    gain: Difference
    width: Side
    height: Side
    image: NotRequired[Name]
    truth: Name
    outline: Name
    overlays: dict[Name, Name]
    iou: dict[Name, Share]
    sha256: NotRequired[dict[Name, Sha256]]


class Gallery(TypedDict):
    """gallery/gallery.json"""

    images: Annotated[list[Shown], Meta(max_length=10_000)]


MAX_CELLS = 1_000_000


def is_name(text: str) -> bool:
    return re.match(NAME, text) is not None


def problem(value: Json, kind: Any) -> str | None:
    """What is wrong with a value, beginning with the key; None if there is nothing."""
    if kind is Tuning:
        return _tuning_problem(value)
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at `")
        key = where.replace("key` in `", "a key in ").removesuffix("`").replace("$.", "")
        said = said.replace("`", "").replace("Object missing required field", "there is no")
        if "matching regex" in said:
            hash_only = "[0-9a-f]" in said
            said = "not a hash" if hash_only else "not a name (letters, digits, _ . -, no '..')"
        said = said[:1].lower() + said[1:]
        return f"{key}: {said}" if key not in ("", "$") else said
    if kind is Study:
        return _grid_problem(value["grid"])
    return _gallery_problem(value["images"]) if kind is Gallery else None


def _grid_problem(grid: Json) -> str | None:
    cells = 1
    for axis in ("categories", "losses", "folds", "seeds"):
        if len(set(grid[axis])) < len(grid[axis]):
            return f"grid.{axis}: an entry is there twice"
        cells *= len(grid[axis])
    return f"grid: {cells} cells, more than {MAX_CELLS}" if cells > MAX_CELLS else None


def _gallery_problem(images: list[Json]) -> str | None:
    for place, shown in enumerate(images):
        if lacking := sorted(shown["overlays"].keys() - shown["iou"].keys()):
            return f"images[{place}].iou: there is none of {lacking[0]}"
    return None


def _tuning_problem(tuning: Json) -> str | None:
    """As `problem`, with the fold and loss that msgspec would not name."""
    for fold, entries in tuning.items():
        if wrong := problem({fold: entries}, dict[Name, dict[Name, Json]]):
            return wrong
        for loss, entry in entries.items():
            if wrong := problem(entry, Tuned):
                return f"{fold}.{loss}.{wrong}"
    return None
