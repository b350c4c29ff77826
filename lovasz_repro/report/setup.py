"""How a study was made: what it holds, on what machine, and how it departs from the paper."""

from __future__ import annotations

from collections.abc import Sequence

from lovasz_repro.records import UNTRAINED, Json, Records
from lovasz_repro.report.document import count, listed

NOT_RECORDED = "not recorded"


def completeness(records: Records) -> str:
    """What the grid has that the records do not; empty when all is there."""
    total = len(records.grid.cells())
    statements = []
    if records.missing:
        statements.append(f"Cells not run: {len(records.missing)} of {total}.")
    if records.failed:
        statements.append(f"Cells that failed: {len(records.failed)} of {total}.")
    if records.stale:
        statements.append(
            "Cells finished under another configuration than the study’s "
            f"({records.study['hash'][:12]}): {len(records.stale)} of {total}; run the study again."
        )
    if statements:
        statements.append(
            f"They are left out, and a {'loss' if records.multiclass else 'category'} counts in a "
            "comparison only where both losses have the same cells."
        )
    return " ".join(statements)


def facts(records: Records) -> list[tuple[str, str]]:
    """The header: label and text; what the records lack is said to be not recorded."""
    machine, grid = records.machine, records.grid
    commit = str(machine.get("commit") or NOT_RECORDED)[:12]
    dirty = machine.get("dirty")
    state = "" if dirty is None else ", with uncommitted changes" if dirty else ", clean"
    earlier = machine.get("earlier", [])
    if earlier:
        state += (
            f"; began at {listed([str(e.get('commit') or NOT_RECORDED)[:12] for e in earlier])}"
        )
    parts = (*earlier, machine)
    versions = [
        f"{name} {there}"
        for name in ("python", "torch", "torchvision", "lightning", "timm")
        if (there := _each(name, parts))
    ]
    hardware = [there for key in ("device", "processor") if (there := _each(key, parts))]
    cores = f", {there} cores" if (there := _each("cores", parts)) else ""
    first = earlier[0] if earlier else machine
    dates = [
        str(day)[:16].replace("T", " ")
        for day in (first.get("started"), machine.get("finished"))
        if day
    ]
    worked = [part.get("seconds") for part in parts]
    done = f"{len(records.results)} of {len(grid.cells())} cells"
    what = count(len(grid.categories), "category")
    axes = [
        "all labels at once" if records.multiclass else what,
        count(sum(loss != UNTRAINED for loss in grid.losses), "training loss")
        + (" and the network before fine-tuning" if UNTRAINED in grid.losses else ""),
        count(len(grid.folds), "fold"),
        ("seed " if len(grid.seeds) == 1 else "seeds ") + listed([str(s) for s in grid.seeds]),
    ]
    return [
        ("Grid", f"{done}: {listed(axes)}"),
        ("Commit", commit + state),
        ("Hardware", (", ".join(hardware) + cores) if hardware else NOT_RECORDED),
        ("Versions", ", ".join(versions) or NOT_RECORDED),
        ("Records of (UTC)", " to ".join(dates) or NOT_RECORDED),
        ("Wall-clock", duration(sum(worked)) if all(worked) else NOT_RECORDED),
        ("Hash of the setting", str(records.study["hash"])[:12]),
    ]


def _each(key: str, parts: Sequence[Json]) -> str:
    """The values of a key in the parts of a study that ran at different commits, each once."""
    return listed(list(dict.fromkeys(str(part[key]) for part in parts if part.get(key))))


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def deviations(records: Records) -> list[str]:
    """How this study departs from the paper's experiment, as far as its configuration says."""
    study, grid = records.study, records.study["grid"]
    config = study.get("config", {})
    data, network, optim, base = (
        config.get(key, {}) for key in ("data", "network", "optim", "base")
    )
    frozen = network.get("train", "all") != "all"
    published = base.get("train", "none") == "none"
    unseen = "is believed not to have seen them" if published else "did not see them"
    steps = sorted({r["steps"] for r in records.results.values() if r.get("steps")})
    tuning = config.get("tuning", {})
    holdout, source = int(tuning.get("holdout", 5)), tuning.get("holdout_list")
    held_from = "the fold’s training list" + (f" within {source}" if source else "")
    views = int(data.get("views", 0))
    found: list[tuple[bool, str]] = [
        (
            bool(study.get("generated")),
            "The images are generated shapes, not Pascal VOC: nothing here bears on the paper.",
        ),
        (
            len(grid["categories"]) != 20,
            f"{count(len(grid['categories']), 'category')} instead of 20.",
        ),
        (
            network.get("kind") == "deeplab_v2",
            f"The backbone is {network.get('backbone')} instead of ResNet-101 from MS-COCO.",
        ),
        (
            network.get("kind") == "deeplabv3_resnet101",
            "The network is torchvision’s DeepLabv3 with ResNet-101, not DeepLabv2.",
        ),
        (
            network.get("kind") == "deeplabv3_mobilenetv2",
            "The network is TensorFlow’s published DeepLabv3 with MobileNetV2, trained on COCO and "
            "VOC, not DeepLabv2 with ResNet-101.",
        ),
        (
            network.get("score") == "log_odds",
            "The binary score of a category is the log-odds of its channel against the other 20, "
            "not the channel itself.",
        ),
        (
            network.get("train") == "head",
            "Only the head is trained, on features that stay as they are.",
        ),
        (
            network.get("train") == "top",
            f"Only the network from {network.get('split')} on is trained; what lies before stays "
            "as it is.",
        ),
        (
            frozen and not views,
            "Training sees whole images, neither cropped nor scaled nor mirrored.",
        ),
        (
            frozen and views > 0,
            f"Training draws among {count(views, 'fixed crop')} of each image, the same for every "
            "loss.",
        ),
        (
            network.get("output_stride", 8) != 8,
            f"Output stride {network.get('output_stride')} instead of 8.",
        ),
        (
            data.get("crop_size", 321) != 321,
            f"Training crops of {data.get('crop_size')} pixels instead of 321.",
        ),
        (
            "image_size" in data,
            f"Images are shrunk to a longest side of at most {data.get('image_size')} pixels "
            "before the network sees them; image-IoU is still counted at the image’s own size.",
        ),
        (
            not frozen and (data.get("flip") or data.get("scale") not in (None, [1, 1])),
            "Random scale and flip are on; a flag in the published training code turned them off.",
        ),
        (
            data.get("void_in_empty") == "void",
            "Void stays void in images without the category; the original makes it background.",
        ),
        (
            bool(steps) and steps != [1000],
            f"{listed([f'{n:,}' for n in steps])} training steps a cell instead of 1,000.",
        ),
        (
            optim.get("batch_size", 10) != 10,
            f"{optim.get('batch_size')} images a step instead of 10.",
        ),
        (
            len(grid["folds"]) > 1,
            f"The val images are scored in {len(grid['folds'])} folds of cross-validation, each by "
            f"a network that {unseen}, where the original trains on one fixed training set.",
        ),
        (
            any(loss.startswith(("soft_jaccard", "mixed")) for loss in grid["losses"]),
            "Soft Jaccard (Rahman and Wang, 2016) and mixed losses are added to the paper’s table.",
        ),
        (
            not published,
            "The 21-way base network is trained here, on the training list of each fold.",
        ),
        (
            bool(records.tuning),
            f"Each loss has its own {_chosen(records)}, chosen per fold on held-out images: a "
            f"{_ordinal(holdout)} of {held_from} that neither the base network nor any training "
            "here saw. The original uses one schedule.",
        ),
    ]
    return [text for holds, text in found if holds]


def _chosen(records: Records) -> str:
    tried = {
        trial["steps"]
        for losses in records.tuning.values()
        for entry in losses.values()
        for trial in entry.get("trials", [])
    }
    return "learning rate and number of steps" if len(tried) > 1 else "learning rate"


def _ordinal(number: int) -> str:
    names = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 10: "tenth"}
    return names.get(number, f"part in {number}")
