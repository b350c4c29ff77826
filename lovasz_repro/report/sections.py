"""The sections of the report that show results, each from the records and the tables of `stats`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lovasz_repro import stats
from lovasz_repro.claims import LOVASZ, Claim, claims
from lovasz_repro.records import MEASURES, Records
from lovasz_repro.report import figures, prose, quoted, tables
from lovasz_repro.report.document import Block, Listing, Paragraph, Section, count
from lovasz_repro.report.drawing import picture
from lovasz_repro.report.examples import gallery
from lovasz_repro.scores import Scores
from lovasz_repro.stats import REFERENCE

PRESENCE = {"present": "with the category", "absent": "without it"}
CONTROLS = {
    "zero_vs_tuned_reference": "only reference tuned",
    "both_tuned": "both tuned",
    "own_tuning": "gain by tuning",
}
PARTS = {"recall": "recall", "missed": "missed", "false": "false"}


@dataclass(frozen=True)
class Study:
    """The records of a study, its files by path, and the tables that several sections share."""

    records: Records
    files: Mapping[str, bytes]

    @cached_property
    def scores(self) -> Scores:
        return Scores(self.records)

    @cached_property
    def claims(self) -> list[Claim]:
        return claims(self.scores)

    @cached_property
    def levels(self) -> pd.DataFrame:
        return stats.mean_levels(self.scores)

    @cached_property
    def differences(self) -> pd.DataFrame:
        return stats.mean_differences(self.scores)

    @cached_property
    def presence(self) -> pd.DataFrame:
        return stats.by_presence(self.scores)

    @property
    def comparable(self) -> bool:
        """Whether any loss can be compared to the reference."""
        return bool(self.differences["difference"].notna().any())


def answer(study: Study, anchors: set[str]) -> Section:
    """anchors: the figures and tables of the other sections, which the claims link to."""
    lead, *more = prose.answer(study.differences, study.presence, study.claims)
    blocks: list[Block] = [Paragraph(lead, lead=True), Paragraph(" ".join(more))]
    if gaps := prose.completeness(study.records):
        blocks.append(Paragraph(gaps, warning=True))
    lists = {
        "Cells not run": [str(cell) for cell in study.records.missing],
        "Cells that failed": [f"{cell}: {e}" for cell, e in study.records.failed.items()],
        "Cells of another configuration": [str(cell) for cell in study.records.stale],
    }
    blocks += [Listing(cells, title) for title, cells in lists.items() if cells]
    if study.comparable:
        anchors = anchors | {"gain"}
    blocks.append(tables.claims_table(study.claims, anchors))
    if study.comparable:
        shown = study.differences.dropna(subset="difference")
        gains = {loss: quoted.gain(loss) for loss in quoted.IMAGE_IOU if loss != REFERENCE}
        blocks.append(
            picture(
                "gain",
                f"Image-IoU minus cross-entropy’s for {prose.loss_names(shown['loss'])}, each with "
                "its 95 % interval, beside the paper’s gains.",
                "Gain in image-IoU over cross-entropy, mean over categories with 95 % interval. "
                f"The bars mark the paper’s gains ({quoted.MARK}).",
                figures.gains(shown, gains),
            )
        )
    return Section("answer", "The answer", "The answer", blocks)


def table_1(study: Study) -> Section:
    blocks: list[Block] = []
    if note := prose.common_categories(study.levels, study.records):
        blocks.append(Paragraph(note, warning=True))
    blocks.append(tables.paper_table(study.levels, study.differences))
    matrix = stats.own_measure_matrix(study.scores)
    blocks.append(
        Paragraph(
            "The paper’s second claim is that each loss is best on its own measure: then the bold "
            "entries of the four loss rows lie under the loss of that name. As a measure, soft "
            "Jaccard is taken per image, whichever way a run trained with it."
        )
    )
    blocks.append(tables.measure_table(matrix))
    return Section("table-1", "Table 1", "Table 1: every measure under every training loss", blocks)


def per_category(study: Study) -> Section:
    levels = stats.levels(study.scores)
    pairs = stats.differences(study.scores)
    pairs = pairs[pairs["loss"] == LOVASZ].sort_values("difference", ascending=False, kind="stable")
    blocks: list[Block] = []
    if len(pairs):
        up = int((pairs["low"] > 0).sum())
        down = int((pairs["high"] < 0).sum())
        blocks.append(
            Paragraph(
                f"In {up} of {count(len(pairs), 'category')} the interval of the paired difference "
                f"lies above zero, in {down} below it."
            )
        )
        blocks.append(
            picture(
                "per-category",
                f"Image-IoU by loss in {count(len(pairs), 'category')}, and the difference of the "
                f"Lovász hinge to cross-entropy, from {pairs['category'].iloc[0]} (largest gain) "
                f"to {pairs['category'].iloc[-1]}.",
                "Image-IoU by category and training loss, and the paired difference of the Lovász "
                "hinge to cross-entropy with its 95 % interval; sorted by that difference.",
                figures.per_category(levels, pairs, LOVASZ),
            )
        )
    blocks.append(tables.category_table(levels, pairs, study.scores.categories))
    return Section("by-category", "Per category", "Per category", blocks)


def training_curves(study: Study) -> Section:
    table = _curve_table(study)
    if table.empty:
        return Section("training", "Training curves", "Training curves", [_nothing("curves")])
    shown = prose.loss_names(list(table["loss"].unique()))
    return Section(
        "training",
        "Training curves",
        "Training curves",
        [
            picture(
                "curves",
                f"Four validation losses and image-IoU over training steps for {shown}.",
                "Validation measures over training steps, by training loss. Losses are relative to "
                "the first validation of their category. Line: mean over categories; band: the "
                "middle half of the categories.",
                figures.curves(table),
            )
        ],
    )


def _curve_table(study: Study) -> pd.DataFrame:
    """loss, measure, step, middle, low, high, over the categories that all losses have whole."""
    curves = study.records.curves
    curves = curves[curves["category"].isin(study.scores.common(study.scores.present))]
    names = [*MEASURES, "image_iou"]
    runs = curves.groupby(["category", "loss", "step"], as_index=False)[names].mean()
    first = runs[runs["step"] == runs["step"].min()].groupby("category")[list(MEASURES)].mean()
    for name in MEASURES:
        runs[name] = runs[name] / runs["category"].map(first[name])
    runs["image_iou"] *= 100
    long = runs.melt(["category", "loss", "step"], names, var_name="measure")
    groups = long.groupby(["loss", "measure", "step"])["value"]
    table = groups.agg(
        middle="mean", low=lambda x: x.quantile(0.25), high=lambda x: x.quantile(0.75)
    ).reset_index()
    order = {loss: place for place, loss in enumerate(study.scores.losses)}
    place = table["measure"].map(names.index)
    table = table.assign(loss_place=table["loss"].map(order), place=place)
    return table.sort_values(["place", "loss_place", "step"]).drop(columns=["place", "loss_place"])


def sources(study: Study) -> Section:
    """Where the gain comes from."""
    if not study.comparable:
        return Section(
            "sources",
            "Where the gain comes from",
            "Where the gain comes from",
            [_nothing("comparisons")],
        )
    sizes = stats.by_size(study.scores)
    columns = ["subset", *study.presence.columns.drop("subset")]
    table = pd.concat([study.presence, sizes[columns]]).dropna(subset="difference")
    labels = _size_labels(sizes)
    texts = {**PRESENCE, **{subset: f"object {label}" for subset, label in labels.items()}}
    parts = [(text, table[table["subset"] == subset]) for subset, text in texts.items()]
    blocks: list[Block] = [
        Paragraph(
            "An image without the category scores 1 where nothing is predicted and 0 where a "
            "single pixel is, so half of image-IoU is all-or-nothing; images with and without the "
            "category are therefore shown apart."
        ),
        picture(
            "subsets",
            "Gain in image-IoU over cross-entropy by training loss, on images with and without the "
            "category and in four groups of object size.",
            "Gain in image-IoU over cross-entropy, mean over categories with 95 % interval. By "
            "presence: images with and without the category. By object size: images with it, in "
            "quarters by the share of the image that the object covers (each category’s own "
            "quarters; the borders shown are means over categories).",
            figures.subsets([("By presence", table, PRESENCE), ("By object size", table, labels)]),
        ),
        tables.gains_table(
            "subsets-table",
            "Gain in image-IoU over cross-entropy in points on parts of the val images, beside "
            "cross-entropy’s own image-IoU.",
            "images",
            parts,
            table,
            levels=True,
        ),
    ]
    return Section(
        "sources",
        "Where the gain comes from",
        "Where the gain comes from",
        [*blocks, *_controls(study), *_gap_filling(study)],
    )


def _size_labels(sizes: pd.DataFrame) -> dict[str, str]:
    """By subset the share of the image that its objects cover."""
    borders = sizes.groupby("subset")[["fraction_low", "fraction_high"]].first() * 100
    labels = {}
    for subset, (low, high) in borders.iterrows():
        text = f"{low:.2g}–{high:.2g}\u00a0%"
        if low == 0:
            text = f"<\u00a0{high:.2g}\u00a0%"
        elif high == 100:
            text = f">\u00a0{low:.2g}\u00a0%"
        labels[str(subset)] = text
    return labels


def _controls(study: Study) -> list[Block]:
    table = stats.threshold_control(study.scores).dropna(subset="difference")
    panels = [(text, table[table["label"] == label]) for label, text in CONTROLS.items()]
    return [
        Paragraph(
            "A loss may gain only by moving the decision threshold. In the control each run’s "
            "threshold is chosen on training images; a gain that is left over cross-entropy with a "
            "tuned threshold is more than that."
        ),
        picture(
            "thresholds",
            "Differences in image-IoU with 95 % intervals by loss, with thresholds at 0 or tuned.",
            "Threshold control, mean over categories with 95 % interval. First: each loss at "
            "threshold 0 against cross-entropy at its tuned threshold. Second: both tuned. Third: "
            "each loss tuned against itself at 0.",
            figures.forests(panels, "difference, points"),
        ),
        tables.gains_table(
            "thresholds-table", "The threshold control in points.", "comparison", panels, table
        ),
    ]


def _gap_filling(study: Study) -> list[Block]:
    table = stats.gap_filling(study.scores).dropna(subset="difference")
    panels = [(text, table[table["measure"] == measure]) for measure, text in PARTS.items()]
    return [
        Paragraph(
            "On images with the category, missed and false pixels, as shares of the union, add up "
            "to 1 − IoU. A recall that rises while the false share does not means that object "
            "pixels were recovered; whether they fill gaps, only the pictures below can tell."
        ),
        picture(
            "gap-filling",
            "Change against cross-entropy in recall, missed and false share, by training loss.",
            "Change against cross-entropy on images with the category, mean over categories with "
            "95 % interval. Recall is the share of the object that is found; missed and false are "
            "shares of the union of truth and prediction.",
            figures.forests(panels, "change, points"),
        ),
        tables.gains_table(
            "gap-filling-table", "The same in points.", "share", panels, table, levels=True
        ),
    ]


def qualitative(study: Study) -> Section:
    if not study.records.gallery:
        return Section("predictions", "Predictions", "Predictions", [_nothing("a gallery")])
    return Section(
        "predictions",
        "Predictions",
        "Predictions",
        [
            Paragraph(
                "Per category, of the validation images that hold it: the one on which the Lovász "
                "hinge gains most image-IoU over cross-entropy (mean over seeds), the median, and "
                "the one on which it loses most. No image was picked by hand. Predictions are "
                "those of the first seed; the thin line is the outline of the truth."
            ),
            gallery(study.records.gallery, study.scores.losses, study.files),
        ],
    )


def _nothing(what: str) -> Paragraph:
    return Paragraph(f"The records hold no {what.removeprefix('a ')} to show here.", warning=True)
