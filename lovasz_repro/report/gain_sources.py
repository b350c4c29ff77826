"""The sections on where a gain comes from."""

from __future__ import annotations

import pandas as pd

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.decompose import PARTS
from lovasz_repro.analysis.prevalence import NATURAL, crossings
from lovasz_repro.analysis.thresholds import chosen_thresholds, threshold_curves
from lovasz_repro.report import figures, headings, prose, tables
from lovasz_repro.report.document import Block, Listing, Paragraph, Section
from lovasz_repro.report.drawing import picture
from lovasz_repro.report.sections import nothing
from lovasz_repro.report.study_tables import Study
from lovasz_repro.report.style import ordered, style

PRESENCE = {"present": "with the category", "absent": "without it"}
PIXELS = {"recall": "recall", "missed": "missed pixels", "false": "false pixels"}
PART_TEXTS = {
    "gain": "gain at threshold 0",
    "operating_point": "= from the threshold",
    "both_chosen": "+ left with both thresholds chosen",
    "present": "= images with the category",
    "shape": "    of it: mask shape",
    "placement": "    of it: 0 nearer to each image’s own best threshold",
    "absent": "+ images without it",
    "oracle": "IoU with the category at each image’s own best threshold",
}
PART_TITLES = {
    "operating_point": "from the threshold",
    "both_chosen": "left at chosen thresholds",
    "absent": "without the category",
    "present": "with the category",
    "shape": "with it: mask shape",
    "placement": "with it: threshold",
}
SHARES = (0.02, NATURAL, 0.15, 0.25, 0.5)
"""Shares of images with the category in the table."""


def sections(study: Study) -> list[Section]:
    """Parts of the gain, prevalence, thresholds, pixels."""
    if not study.comparable:
        title = headings.sources(study.parts)
        return [Section("sources", "Where the gain comes from", title, [nothing("comparisons")])]
    return [parts(study), by_prevalence(study), operating_point(study), pixels(study)]


def parts(study: Study) -> Section:
    table = study.parts.dropna(subset="difference")
    named = {name: table[table["part"] == name] for name in PARTS}
    blocks: list[Block] = [
        Paragraph(
            "An image without the category scores 1 where nothing is predicted and 0 where any "
            "pixel is, so half of image-IoU is all-or-nothing. The gain is therefore split "
            "twice, exactly in every category. First by threshold: what comes from the threshold "
            "(the gain at 0 minus the gain with both thresholds chosen on held-out images) and "
            "what is left add up to the gain. Second by image: what images with and without the "
            "category contribute to the mean add up to the gain, and the former is the sum of mask "
            "shape (the change of IoU at each image’s own best threshold, which no threshold can "
            "make) and threshold (how much nearer 0 lies to that best one). The two splits do not "
            "add to each other."
        ),
        picture(
            "decomposition",
            "Six parts of the gain in image-IoU over cross-entropy by training loss.",
            "Parts of the gain over cross-entropy, mean over categories with 95 % interval. "
            "From the threshold + left at chosen thresholds = gain; without + with the category = "
            "gain; mask shape + threshold = with the category.",
            figures.forests([(text, named[k]) for k, text in PART_TITLES.items()], "points"),
        ),
        tables.gains_table(
            "decomposition-table",
            "The parts in points. The last row is the mean over images with the category alone, on "
            "the scale of their IoU; it is no part of a sum.",
            "part",
            [(text, named[name]) for name, text in PART_TEXTS.items()],
            table,
        ),
        *_subsets(study),
    ]
    return Section("sources", "Where the gain comes from", headings.sources(study.parts), blocks)


def _subsets(study: Study) -> list[Block]:
    presence, sizes = study.by_presence, stats.by_size(study.scores)
    table = pd.concat([presence, sizes[presence.columns]]).dropna(subset="difference")
    labels = _size_labels(sizes)
    texts = {**PRESENCE, **{subset: f"object {label}" for subset, label in labels.items()}}
    return [
        picture(
            "subsets",
            "Gain in image-IoU over cross-entropy by training loss, on images with and without the "
            "category and in four groups of object size.",
            "Gain in image-IoU over cross-entropy, mean over categories with 95 % interval. First: "
            "images with and without the category. By object size: images with it, in "
            "quarters by the share of the image that the object covers (each category’s own "
            "quarters; the borders shown are means over categories). An arrow with a number lies "
            "beyond the axis.",
            figures.subsets(
                [("Category in the image?", table, PRESENCE), ("By object size", table, labels)]
            ),
        ),
        tables.gains_table(
            "subsets-table",
            "Gain in image-IoU over cross-entropy in points on parts of the val images, beside "
            "cross-entropy’s own image-IoU.",
            "images",
            [(text, table[table["subset"] == subset]) for subset, text in texts.items()],
            table,
            levels=True,
        ),
    ]


def _size_labels(sizes: pd.DataFrame) -> dict[str, str]:
    """By subset the share of the image that its objects cover."""
    borders = sizes.groupby("subset")[["fraction_low", "fraction_high"]].first() * 100
    labels = {}
    for subset, (low, high) in borders.iterrows():
        span = f"{low:.2g}–{high:.2g}"
        if low == 0:
            span = f"<\u00a0{high:.2g}"
        elif high == 100:
            span = f">\u00a0{low:.2g}"
        labels[str(subset)] = f"{span}\u00a0%"
    return labels


def by_prevalence(study: Study) -> Section:
    table = study.prevalence
    losses = [x for x in ordered(study.scores.trained) if (table["loss"] == x).any()]
    own_list = "; in VOC’s whole val list, about 7 % of the images hold it" * study.of_voc
    at = [(f"{100 * share:g}\u00a0%", table[table["share"] == share]) for share in SHARES]
    found = [
        f"{100 * row.share:.0f} %: {style(row.above).label} is ahead below, "
        f"{style(row.below).label} beyond."
        for row in crossings(study.scores).itertuples()
    ]
    blocks: list[Block] = [
        Paragraph(
            f"The val images of a category are drawn 1:1, with and without it{own_list}. Image-IoU "
            "is therefore reweighted: with a share π of images with the category it is π times the "
            "mean of those plus 1 − π times the mean of the others. Nothing is trained or chosen "
            "anew."
        ),
        picture(
            "prevalence",
            f"Gain in image-IoU over cross-entropy from 2 to 50 % of images with the category for "
            f"{prose.loss_names(losses)}.",
            "Gain in image-IoU over cross-entropy by the share of images that hold the category, "
            "thresholds at 0. Line: mean over categories; band: its 95 % interval.",
            figures.prevalence(table, losses, study.of_voc),
        ),
        tables.gains_table(
            "prevalence-table",
            "The gain in points at some shares; the CSV has every hundredth.",
            "images with the category",
            at,
            table,
        ),
    ]
    if found:
        blocks.append(Listing(found, "Where the mean of two losses crosses"))
    title = headings.prevalence(table)
    return Section("by-prevalence", "Gain against prevalence", title, blocks)


def operating_point(study: Study) -> Section:
    table = stats.gains_by_choosing(study.scores).dropna(subset="difference")
    blocks: list[Block] = [
        Paragraph(
            "A loss may gain only by moving the decision threshold. So each run’s threshold is "
            "also chosen on held-out images, which this study did not train on"
            f"{prose.held_out(study.records)}. A gain over cross-entropy that is left with both "
            f"thresholds chosen (see the parts above) is not only a shift of the threshold."
            f"{prose.choosing(table)}"
        ),
        tables.gains_table(
            "thresholds-table",
            "What a chosen threshold changes: image-IoU at it minus image-IoU at 0, in points.",
            "image-IoU",
            [("at the chosen threshold", table)],
            table,
        ),
        *_curves(study),
    ]
    return Section("operating-point", "Thresholds", headings.operating(study.parts), blocks)


def _curves(study: Study) -> list[Block]:
    curves = threshold_curves(study.records, study.scores)
    if curves.empty:
        return [nothing("threshold curves")]
    chosen = chosen_thresholds(study.records, study.scores)
    shown = prose.loss_names(ordered(curves["loss"].unique()))
    return [
        picture(
            "threshold-curves",
            f"Image-IoU over the decision threshold, of all images, with and without the category, "
            f"for {shown}.",
            "Image-IoU over the decision threshold, mean over categories. Marked: the median over "
            "runs of the threshold that was chosen on held-out images.",
            figures.thresholds(curves, chosen),
        )
    ]


def pixels(study: Study) -> Section:
    table = stats.gap_filling(study.scores).dropna(subset="difference")
    panels = [(text, table[table["measure"] == measure]) for measure, text in PIXELS.items()]
    blocks: list[Block] = [
        Paragraph(
            "On images with the category, missed and false pixels, as shares of the union, add up "
            "to 1 − IoU. A recall that rises while the false share does not means that object "
            "pixels were recovered; whether they fill gaps, only pictures of predictions can tell."
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
    return Section("pixels", "Missed and false pixels", headings.pixels(table), blocks)
