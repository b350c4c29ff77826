"""The sentences of the report that are made from numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from lovasz_repro.claims import LOVASZ, Claim
from lovasz_repro.records import Records
from lovasz_repro.report import quoted
from lovasz_repro.report.document import count, interval, listed, percent, points
from lovasz_repro.report.style import style

NOT_RECORDED = "not recorded"


def answer(differences: pd.DataFrame, presence: pd.DataFrame, claims: Sequence[Claim]) -> list[str]:
    """Three sentences: how far the Lovász hinge gets, where its gain lies, which claims hold.

    Args:
        differences, presence: `mean_differences`, `by_presence`.
    """
    return [_gain(differences), _where(presence), _verdicts(claims)]


def _gain(differences: pd.DataFrame) -> str:
    rows = differences[(differences["loss"] == LOVASZ) & (differences["categories"] > 0)]
    if rows.empty:
        return (
            "These records do not hold one category with the same cells for the Lovász hinge and "
            "cross-entropy, so they cannot say which of the two gives the better image-IoU."
        )
    row = rows.iloc[0]
    clear = row["low"] > 0 or row["high"] < 0
    return (
        f"Training with the Lovász hinge gives an image-IoU of {percent(row['value'])}\u00a0%, "
        f"with cross-entropy {percent(row['reference_value'])}\u00a0%, mean over "
        f"{count(int(row['categories']), 'category')}: a difference of {_with_interval(row)}"
        f"{'' if clear else ', which cannot be told from zero'}, where the paper has "
        f"{points(quoted.gain(LOVASZ))} ({quoted.MARK})."
    )


def _where(presence: pd.DataFrame) -> str:
    table = presence[presence["loss"] == LOVASZ].dropna(subset="difference").set_index("subset")
    if not {"present", "absent"} <= set(table.index):
        return "Where a gain would come from cannot be said from these records."
    return (
        "On images that hold the category the difference is "
        f"{_with_interval(table.loc['present'])}, on images without it "
        f"{_with_interval(table.loc['absent'])}."
    )


def _with_interval(row: pd.Series) -> str:
    ends = interval(row["low"], row["high"], points)
    return f"{points(row['difference'])} points {ends}".strip()


def _verdicts(claims: Sequence[Claim]) -> str:
    counts = Counter[str](claim.verdict for claim in claims)
    verdicts = ("reproduced", "not reproduced", "undecided")
    parts = [f"{counts[verdict]} {verdict}" for verdict in verdicts if counts[verdict]]
    return f"Of the paper’s {count(len(claims), 'claim')} examined here, {listed(parts)}."


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
            "They are left out, and a category counts in a comparison only where both losses have "
            "the same cells."
        )
    return " ".join(statements)


def common_categories(levels: pd.DataFrame, records: Records) -> str:
    """Which categories the means of `mean_levels` stand on, where that is not the whole grid."""
    common, total = int(levels["categories"].max()), len(records.grid.categories)
    if common == total:
        return ""
    if not common:
        return (
            "No category has the same finished cells under every loss, so the losses’ levels "
            "cannot be set side by side; gains stand on the categories that a loss and "
            "cross-entropy share."
        )
    return (
        f"Levels are means over {common} of {count(total, 'category')}, those in which every loss "
        "has the same finished cells."
    )


def facts(records: Records) -> list[tuple[str, str]]:
    """The header: label and text; what the records lack is said to be not recorded."""
    machine, grid = records.machine, records.grid
    commit = str(machine.get("commit") or NOT_RECORDED)[:12]
    dirty = machine.get("dirty")
    state = "" if dirty is None else ", with uncommitted changes" if dirty else ", clean"
    versions = [
        f"{name} {machine[name]}"
        for name in ("python", "torch", "torchvision", "lightning", "timm")
        if machine.get(name)
    ]
    hardware = [str(machine[key]) for key in ("device", "processor") if machine.get(key)]
    cores = f", {machine['cores']} cores" if machine.get("cores") else ""
    dates = [
        str(machine[key])[:16].replace("T", " ")
        for key in ("started", "finished")
        if machine.get(key)
    ]
    done = f"{len(records.results)} of {len(grid.cells())} cells"
    axes = [
        count(len(grid.categories), "category"),
        count(len(grid.losses), "training loss"),
        count(len(grid.folds), "fold"),
        count(len(grid.seeds), "seed"),
    ]
    return [
        ("Grid", f"{done}: {listed(axes)}"),
        ("Commit", commit + state),
        ("Hardware", (", ".join(hardware) + cores) if hardware else NOT_RECORDED),
        ("Versions", ", ".join(versions) or NOT_RECORDED),
        ("Records of (UTC)", " to ".join(dates) or NOT_RECORDED),
        ("Wall-clock", duration(machine["seconds"]) if machine.get("seconds") else NOT_RECORDED),
        ("Configuration", str(records.study["hash"])[:12]),
    ]


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
            network.get("train") == "head",
            "Only the head is trained, on features that stay as they are, so images are not "
            "augmented cell by cell.",
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
            network.get("train") != "head"
            and (data.get("flip") or data.get("scale") not in (None, [1, 1])),
            "Random scale and flip are on; a flag in the published training code turned them off.",
        ),
        (
            data.get("void_in_empty") == "void",
            "Void stays void in images without the category; the original makes it background.",
        ),
        (
            optim.get("steps", 1000) != 1000,
            f"{optim.get('steps')} training steps a cell instead of 1,000.",
        ),
        (
            optim.get("batch_size", 10) != 10,
            f"{optim.get('batch_size')} images a step instead of 10.",
        ),
        (
            len(grid["folds"]) > 1,
            f"The val images are scored in {len(grid['folds'])} folds of cross-validation, each by "
            "a network that did not see them, where the original trains on one fixed training set.",
        ),
        (
            any(loss.startswith(("soft_jaccard", "mixed")) for loss in grid["losses"]),
            "Soft Jaccard (Rahman and Wang, 2016) and mixed losses are added to the paper’s table.",
        ),
        (
            base.get("train", "none") != "none",
            "The 21-way base network is trained here, on the training list of each fold.",
        ),
        (
            bool(records.learning_rates),
            "Each loss has its own learning rate, chosen on held-out training images; the original "
            "uses one schedule.",
        ),
    ]
    return [text for holds, text in found if holds]


def loss_names(losses: Sequence[str]) -> str:
    return listed([style(loss).label for loss in losses])
