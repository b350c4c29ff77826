"""How a study was made: what it holds, on what machine, and how it departs from the paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lovasz_repro.records import UNTRAINED, Json, Records
from lovasz_repro.report.document import listed
from lovasz_repro.words import count, duration

NOT_RECORDED = "not recorded"


def facts(records: Records) -> list[tuple[str, str]]:
    """The header: label and text; what the records lack is `NOT_RECORDED`."""
    machine, grid = records.machine, records.grid
    state = commit(machine)
    if machine.get("dirty") is not None:
        state += ", with uncommitted changes" if machine["dirty"] else ", clean"
    earlier = machine.get("earlier", [])
    if others := dict.fromkeys(x for x in map(commit, earlier) if x != commit(machine)):
        state += f"; began at {listed(others)}"
    parts = (*earlier, machine)
    versions = [
        f"{name} {there}"
        for name in ("python", "torch", "torchvision", "lightning", "timm")
        if (there := _each(name, parts))
    ]
    hardware = [there for key in ("device", "processor") if (there := _each(key, parts))]
    cores = _each("cores", parts)
    if cores:
        cores = f", {cores} core{'' if cores == '1' else 's'}"
    days = parts[0].get("started"), machine.get("finished")
    dates = [str(day)[:16].replace("T", " ") for day in days if day]
    worked = [part.get("seconds") for part in parts]
    done = f"{len(records.results)} of {len(grid.cells())} cells"
    what = count(len(grid.categories), "category")
    axes = [
        "all labels at once" if records.multiclass else what,
        count(sum(loss != UNTRAINED for loss in grid.losses), "training loss")
        + (" and the network before fine-tuning" if UNTRAINED in grid.losses else ""),
        count(len(grid.folds), "fold"),
        ("seed " if len(grid.seeds) == 1 else "seeds ") + listed(grid.seeds),
    ]
    return [
        ("Grid", f"{done}: {listed(axes)}"),
        ("Commit", state),
        ("Hardware", (", ".join(hardware) + cores) if hardware else NOT_RECORDED),
        ("Versions", ", ".join(versions) or NOT_RECORDED),
        ("Records of (UTC)", " to ".join(dates) or NOT_RECORDED),
        ("Wall-clock", duration(sum(worked)) if all(worked) else NOT_RECORDED),
        ("Hash of the setting", str(records.study["hash"])[:12]),
    ]


def commit(machine: Json) -> str:
    """The first 12 digits of the commit that a study ran at. machine: machine.json."""
    return str(machine.get("commit") or NOT_RECORDED)[:12]


def _each(key: str, parts: Sequence[Json]) -> str:
    """The values of a key in the parts of a study that ran at different commits, each once."""
    return listed(dict.fromkeys(str(part[key]) for part in parts if part.get(key)))


def deviations(records: Records) -> list[str]:
    """How this study departs from the paper's experiment, as far as its configuration says."""
    study, grid = records.study, records.study["grid"]
    found = []
    if study.get("generated"):
        found.append(
            "The images are generated shapes, not Pascal VOC: nothing here bears on the paper."
        )
    if len(grid["categories"]) != 20:
        found.append(f"{count(len(grid['categories']), 'category')} instead of 20.")
    found += _network(study.get("config", {}))
    found += _training(records)
    return found


def _network(config: Json) -> Iterator[str]:
    network = config.get("network", {})
    kind, trained = network.get("kind"), network.get("train")
    if kind == "deeplab_v2":
        yield f"The backbone is {network.get('backbone')} instead of ResNet-101 from MS-COCO."
    if kind == "deeplabv3_resnet101":
        yield "The network is torchvision’s DeepLabv3 with ResNet-101, not DeepLabv2."
    if kind == "deeplabv3_mobilenetv2":
        yield (
            "The network is TensorFlow’s published DeepLabv3 with MobileNetV2, trained on COCO and "
            "VOC, not DeepLabv2 with ResNet-101."
        )
    if network.get("score") == "log_odds":
        yield (
            "The binary score of a category is the log-odds of its channel against the others, "
            "not the channel itself."
        )
    if trained == "head":
        yield "Only the head is trained, on features that stay as they are."
    if trained == "top":
        yield (
            f"Only the network from {network.get('split')} on is trained; what lies before stays "
            "as it is."
        )
    if trained not in (None, "all"):
        yield _seen(config)
    if network.get("output_stride", 8) != 8:
        yield f"Output stride {network.get('output_stride')} instead of 8."


def _seen(config: Json) -> str:
    """What a network that is frozen in part is trained on."""
    if views := int(config.get("data", {}).get("views", 0)):
        crops = count(views, "fixed crop")
        return f"Training draws among {crops} of each image, the same for every loss."
    return "Training sees whole images, neither cropped nor scaled nor mirrored."


def _training(records: Records) -> Iterator[str]:
    grid, config = records.study["grid"], records.study.get("config", {})
    data, optim = config.get("data", {}), config.get("optim", {})
    if data.get("crop_size", 321) != 321:
        yield f"Training crops of {data.get('crop_size')} pixels instead of 321."
    if "image_size" in data:
        yield (
            f"Images are shrunk to a longest side of at most {data.get('image_size')} pixels "
            "before the network sees them; image-IoU is still counted at the image’s own size."
        )
    drawn = data.get("flip") or data.get("scale") not in (None, [1, 1])
    if drawn and config.get("network", {}).get("train", "all") == "all":
        yield (
            "Random scale and flip are on; a flag in the published training code turned them off."
        )
    if data.get("void_in_empty") == "void":
        yield "Void stays void in images without the category; the original makes it background."
    steps = sorted({r["steps"] for r in records.results.values() if r.get("steps")})
    if steps and steps != [1000]:
        yield f"{listed([f'{n:,}' for n in steps])} training steps a cell instead of 1,000."
    if optim.get("batch_size", 10) != 10:
        yield f"{optim.get('batch_size')} images a step instead of 10."
    published = config.get("base", {}).get("train", "none") == "none"
    if len(grid["folds"]) > 1:
        unseen = "is believed not to have seen them" if published else "did not see them"
        size = records.folds_per_partition or len(grid["folds"])
        times = len(grid["folds"]) // size
        more = f", in {times} partitions" if times > 1 else ""
        yield (
            f"The val images are scored in {count(size, 'fold')} of cross-validation{more}, each "
            f"by a network that {unseen}, where the original trains on one fixed training set."
        )
    if any(loss.startswith(("soft_jaccard", "mixed")) for loss in grid["losses"]):
        yield (
            "Soft Jaccard (Rahman and Wang, 2016) and mixed losses are added to the paper’s table."
        )
    if not published:
        yield "The 21-way base network is trained here, on the training list of each fold."
    if records.tuning:
        yield _choice(records, config.get("tuning", {}))


def _choice(records: Records, tuning: Json) -> str:
    steps = {
        trial["steps"]
        for losses in records.tuning.values()
        for entry in losses.values()
        for trial in entry.get("trials", [])
    }
    chosen = "learning rate and number of steps" if len(steps) > 1 else "learning rate"
    share = int(tuning.get("holdout", 5))
    names = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 10: "tenth"}
    source = f" within {tuning['holdout_list']}" if tuning.get("holdout_list") else ""
    return (
        f"Each loss has its own {chosen}, chosen per fold on held-out images: a "
        f"{names.get(share, f'part in {share}')} of the fold’s training list{source} that neither "
        "the base network nor any training here saw. The original uses one schedule."
    )


def multiclass_notes(records: Records) -> list[str]:
    """What a cell of a multi-class study trains, and on what."""
    config = records.study["config"]
    network = config.get("network", {})
    parts = {"all": "the whole network", "head": "the head"}
    trained = parts.get(str(network.get("train")), f"the network from {network.get('split')} on")
    return [
        f"A cell trains {trained}; all labels are learned at once under the softmax.",
        f"Training crops have {config.get('data', {}).get('crop_size')} pixels."
        if network.get("train") == "all"
        else _seen(config),
        "Where the paper trains on one list, each fold here trains on its own and is scored on the "
        "rest; the network before fine-tuning is the one that every cell of a fold starts from.",
        "The curves are of every fifth val image; everything else is of all of them.",
    ]
