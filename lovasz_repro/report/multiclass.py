"""The report of a multi-class study: its sections, from the records and their tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lovasz_repro.analysis.claims import Claim
from lovasz_repro.analysis.multiclass import (
    LOVASZ_SOFTMAX,
    MOVED,
    LabelScores,
    claim,
    label_table,
    largest_move,
    scores_table,
)
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.analysis.written import points
from lovasz_repro.records import UNTRAINED, Records
from lovasz_repro.report import background, figures, lines, practice_tables, prose, setup, tables
from lovasz_repro.report.axes import NARROW, WIDE, interval, limit, window
from lovasz_repro.report.document import (
    MISSING,
    Block,
    Document,
    Field,
    Listing,
    Paragraph,
    Section,
    Table,
    count,
    listed,
    loss_field,
    percent,
)
from lovasz_repro.report.document import interval as ends
from lovasz_repro.report.drawing import Draw, picture
from lovasz_repro.report.sections import nothing
from lovasz_repro.report.style import INK, ordered, style
from lovasz_repro.schema import without_batch

NAME = "Lovász-Softmax"


def document(records: Records) -> Document:
    scores = LabelScores(records)
    table, images = (scores_table(scores, name) for name in ("miou", "image_miou"))
    return Document(
        title=f"{NAME} and mean IoU: {records.study['experiment']}",
        facts=setup.facts(records),
        sections=[
            _answer(records, table, images),
            _losses(
                table,
                images,
                [scores_table(scores, name) for name in ("missed", "false")],
                len({cell.seed for cell in records.results if cell.loss != UNTRAINED}),
            ),
            _batches(scores, table),
            _labels(label_table(scores)),
            _curves(scores, records.curves),
            _practice(records),
        ],
    )


def answer(records: Records) -> str:
    """The levels of Lovász-Softmax and cross-entropy, the gain, and the verdict."""
    table = scores_table(LabelScores(records), "miou")
    judged = claim(table)
    if not np.isfinite(judged.effect):
        return f"{judged.title}: {judged.verdict}. {judged.explanation}"
    level = table.set_index("loss")["value"]
    row = {"difference": judged.effect, "low": judged.low, "high": judged.high}
    return (
        f"{NAME} per batch gives an mIoU of {percent(level[LOVASZ_SOFTMAX])}\u00a0%, cross-entropy "
        f"{percent(level[REFERENCE])}\u00a0%: {prose.with_interval(row)}. The claim that "
        f"{judged.title}: {judged.verdict}.{_unmoved(judged)}"
    )


def _unmoved(judged: Claim) -> str:
    if judged.verdict != "not tested":
        return ""
    return f" No loss changes the network’s mIoU by as much as {100 * MOVED:g} points."


def verdict(table: pd.DataFrame, images: pd.DataFrame) -> list[str]:
    """The three lines that the report opens with. table, images: `scores_table` of miou and
    image_miou."""
    by_loss, by_image = table.set_index("loss"), images.set_index("loss")
    judged = claim(table)
    said = f"The claim that {judged.title}: {judged.verdict}.{_unmoved(judged)}"
    if not np.isfinite(judged.effect):
        return ["These records cannot compare the two losses.", f"{said} {judged.explanation}"]
    own, other = by_loss.loc[LOVASZ_SOFTMAX], by_loss.loc[REFERENCE]
    first = (
        f"Fine-tuned under {NAME} per batch ({own['batch_size']} images a step) the network has an "
        f"mIoU of {percent(own['value'])}\u00a0% over the val images, under cross-entropy "
        f"{percent(other['value'])}\u00a0%: a difference of {_points(own)}"
    )
    if UNTRAINED in by_loss.index:
        first += f"; before fine-tuning it has {percent(by_loss.loc[UNTRAINED, 'value'])}\u00a0%"
    found = [
        f"{_points(row)} at {row['batch_size']}"
        for _, row in _by_batch(table, LOVASZ_SOFTMAX).iterrows()
    ]
    return [
        f"{first}.",
        f"{said} In mIoU per image the difference is {_points(by_image.loc[LOVASZ_SOFTMAX])}.",
        f"By images a step, on as many images in all, the gain over cross-entropy is "
        f"{listed(found)}.",
    ]


def _points(row: pd.Series) -> str:
    ends = {"low": row["difference_low"], "high": row["difference_high"]}
    return prose.with_interval({"difference": row["difference"], **ends})


def _by_batch(table: pd.DataFrame, loss: str) -> pd.DataFrame:
    """The gains of a loss at each batch size, the smallest first."""
    own = table[table["loss"].map(without_batch) == loss].dropna(subset="difference")
    return own.sort_values("batch_size")


def _answer(records: Records, table: pd.DataFrame, images: pd.DataFrame) -> Section:
    lead, *more = verdict(table, images)
    blocks: list[Block] = [Paragraph(lead, lead=True), *map(Paragraph, more)]
    if gaps := setup.completeness(records):
        blocks.append(Paragraph(gaps, warning=True))
    failed = [f"{cell}: {error}" for cell, error in records.failed.items()]
    missing = [str(cell) for cell in records.missing]
    stale = [str(cell) for cell in records.stale]
    lists = {
        "Cells not run": missing,
        "Cells that failed": failed,
        "Cells of another configuration": stale,
    }
    blocks += [Listing(cells, title) for title, cells in lists.items() if cells]
    shown = table.dropna(subset="difference").sort_values("difference", ascending=False)
    rows = shown.rename(columns={"loss": "row"}).assign(these_low=np.nan, these_high=np.nan)
    if len(shown):
        blocks.append(
            picture(
                "gain",
                f"mIoU minus cross-entropy’s for {prose.loss_names(shown['loss'])}, each with its "
                "95 % interval.",
                "Gain in mIoU over cross-entropy at the same number of images a step, with its "
                "95 % interval over images. An arrow with a number lies beyond the axis.",
                figures.gains(rows, {}),
            )
        )
    judged = claim(table)
    blocks.append(tables.claims_table([judged], {"losses"}))
    title = f"{NAME} against cross-entropy: the claim is {judged.verdict}"
    if np.isfinite(judged.effect):
        row = table.set_index("loss").loc[LOVASZ_SOFTMAX]
        title = f"{NAME} against cross-entropy: {_points(row)} of mIoU; the claim is "
        title += judged.verdict
    return Section("answer", "The answer", title, blocks)


def _losses(
    table: pd.DataFrame, images: pd.DataFrame, parts: list[pd.DataFrame], seeds: int
) -> Section:
    """parts: `scores_table` of missed and false. seeds: training runs of a cell."""
    both = table.merge(images.drop(columns=["batch_size", "cells", "reference"]), "left", "loss",
                       suffixes=("", "_image"))  # fmt: skip
    both = both.sort_values("value", ascending=False, kind="stable")
    best = {name: both[name].max() for name in ("value", "value_image")}
    rows = []
    for row in both.to_dict("records"):
        fields = [loss_field(row["loss"])]
        fields.append(Field(str(row["batch_size"] or "–"), float(row["batch_size"])))
        for end in ("", "_image"):
            value, change = row[f"value{end}"], row[f"difference{end}"]
            span = (row[f"difference_low{end}"], row[f"difference_high{end}"])
            spread = ends(row[f"low{end}"], row[f"high{end}"])
            fields.append(Field(percent(value), value, spread, best=value == best[f"value{end}"]))
            found = Field(points(change), change, ends(*span, points))
            fields.append(found if np.isfinite(change) else MISSING)
        rows.append(fields)
    caption = (
        "mIoU over all val images and the mean over images of each image’s own mIoU, in percent, "
        "and the gains over cross-entropy at the same number of images a step, in points, with "
        "95 % intervals. The highest of a column in bold."
    )
    columns = ("training loss", "images a step", "mIoU", "gain", "mIoU per image", "gain")
    numeric = frozenset(range(1, 6))
    trained = both[both["loss"] != UNTRAINED]
    title = "No cell is finished"
    if len(trained):
        top = trained.iloc[0]
        title = f"{style(top['loss']).label} has the highest mIoU, {percent(top['value'])}\u00a0%"
        if largest_move(table) < MOVED:
            title = f"No loss moves the mIoU by as much as {100 * MOVED:g} points"
    text = Paragraph(
        "The IoU of a label is taken over the pixels of all val images, which the folds between "
        "them score once, and averaged over the labels, background among them. Per image it is "
        "averaged over the labels that the image’s truth holds. In the intervals images (within "
        f"their fold) {prose.random_runs(seeds)}. Folds, labels and base networks are given."
    )
    shown = Table("losses", caption, columns, rows, both, numeric)
    return Section("losses-section", "The losses", title, [text, shown, _parts([table, *parts])])


def _parts(found: list[pd.DataFrame]) -> Table:
    """Where a gain comes from. found: `scores_table` of miou, missed and false."""
    names = ("mIoU", "missed share", "false share")
    ends_of = {"difference_low": "low", "difference_high": "high"}
    changes = [
        one[["loss", "difference", *ends_of]].dropna().rename(columns=ends_of) for one in found
    ]
    return tables.gains_table(
        "parts-table",
        "Differences to cross-entropy at the same number of images a step, in points with 95 % "
        "interval. Of the union of truth and prediction of a label, the mIoU is what is right, "
        "the missed share what is not found, the false share what is wrongly marked: a gain in "
        "mIoU is what the other two lose.",
        "mean over labels",
        list(zip(names, changes, strict=True)),
        pd.concat(changes, keys=names, names=["part"]).reset_index(level=0),
    )


def _batches(scores: LabelScores, table: pd.DataFrame) -> Section:
    gains = table[table["loss"] != UNTRAINED].dropna(subset="difference")
    own = _by_batch(gains, LOVASZ_SOFTMAX)
    if own.empty:
        title = "No gain to set against the number of images a step"
        return Section("batches", "Gain against batch size", title, [nothing("comparisons")])
    blocks: list[Block] = [
        Paragraph(
            "Per batch, the loss is that of the batch as if it were the data set: a label counts "
            "as much as any other as soon as one pixel of the batch has it. The more images a "
            "batch holds, the nearer that is to the data set’s mIoU. Every number of images a step "
            "has its own cross-entropy, its own learning rates, and sees as many images in all: "
            f"{listed([_steps(scores, n) for n in own['batch_size']])}."
        ),
        picture(
            "batch-size",
            "Gain in mIoU over cross-entropy with its 95 % interval, against the images a step.",
            "Gain in mIoU over cross-entropy at the same number of images a step, with its 95 % "
            "interval. The losses that were trained at one number alone stand beside it.",
            _batch_draw(gains),
        ),
    ]
    first, last = own.iloc[0], own.iloc[-1]
    title = (
        f"{NAME} gains {points(last['difference'])} points at {last['batch_size']} images a step"
    )
    if len(own) > 1:
        title += f", {points(first['difference'])} at {first['batch_size']}"
    return Section("batches", "Gain against batch size", title, blocks)


def _steps(scores: LabelScores, batch: int) -> str:
    steps = scores.steps.get(batch, [])
    return f"{listed([str(n) for n in steps])} steps of {count(batch, 'image')}"


def _batch_draw(gains: pd.DataFrame) -> Draw:
    """gains: rows of `scores_table` with a difference."""
    batches = sorted(gains["batch_size"].unique())
    losses = ordered(gains["loss"].map(without_batch))
    losses.sort(key=lambda loss: loss != LOVASZ_SOFTMAX)
    spans = gains[["difference_low", "difference_high"]].set_axis(["low", "high"], axis=1)
    limits = window([spans])

    def draw(figure: Figure, narrow: bool) -> None:
        figure.set_size_inches(NARROW if narrow else WIDE, 4.2 if narrow else 3.8)
        axes = figure.subplots()
        for index, loss in enumerate(losses):
            own, look = _by_batch(gains, loss), style(loss)
            places = [batches.index(n) + 0.09 * index for n in own["batch_size"]]
            axes.plot(places, 100 * own["difference"], ls=look.line, color=look.color, lw=1.2)
            for place, row in zip(places, own.itertuples(), strict=True):
                shown = (row.difference, row.difference_low, row.difference_high)
                interval(axes, place, shown, loss, limits, upright=True)
            axes.plot([], [], look.marker, color=look.color, label=look.label, ls="")
        axes.set_xticks(range(len(batches)), [str(n) for n in batches])
        axes.set_xlim(-0.4, len(batches) - 0.4)
        axes.axhline(0, color=INK, lw=1, alpha=0.6)
        axes.grid(axis="x", visible=False)
        limit(axes, limits, upright=True)
        axes.set_xlabel("images a step")
        axes.set_ylabel("gain over cross-entropy, points of mIoU")
        columns = 1 if narrow else 3
        figure.legend(loc="outside upper left", ncols=columns, fontsize=9, handletextpad=0.3)

    return draw


def _labels(table: pd.DataFrame) -> Section:
    pairs = table[table["loss"] == LOVASZ_SOFTMAX] if len(table) else table
    if pairs.empty:
        title = f"For no label can {NAME} be compared to cross-entropy"
        return Section("labels", "Per label", title, [nothing("comparisons")])
    pairs = pairs.sort_values("difference", ascending=False, kind="stable")
    gains = table.dropna(subset="difference")
    names = pairs["category"]
    blocks: list[Block] = [
        picture(
            "per-label",
            f"IoU by loss for {count(len(names), 'label')}, and the difference of {NAME} per batch "
            f"to cross-entropy, from {names.iloc[0]} to {names.iloc[-1]}.",
            f"IoU over all val images by label and training loss, and the difference of {NAME} per "
            "batch to cross-entropy on the same images with its 95 % interval; sorted by it.",
            figures.per_category(table, pairs, LOVASZ_SOFTMAX, "IoU", f"Gain of {NAME}, points"),
        ),
        tables.gains_table(
            "labels-table",
            "Difference in IoU over all val images to cross-entropy, in points with 95 % interval, "
            "beside cross-entropy’s own. The intervals are not corrected for being many.",
            "label",
            [(name, gains[gains["category"] == name]) for name in names],
            table,
            levels=True,
        ),
    ]
    up, down = int((pairs["low"] > 0).sum()), int((pairs["high"] < 0).sum())
    title = f"{NAME} is ahead of cross-entropy in {up} of {count(len(pairs), 'label')}, behind in "
    return Section("labels", "Per label", f"{title}{down}", blocks)


def curve_table(scores: LabelScores, curves: pd.DataFrame) -> pd.DataFrame:
    """loss, measure, step, middle, low, high over the cells (folds, seeds), at the batch size of
    the configuration; miou in percent, gain over cross-entropy (paired) in points."""
    keys = ["fold", "seed", "step"]
    losses = scores.at(scores.batch_size)
    trained = curves[curves["loss"].isin(losses)]
    start = curves[curves["loss"] == UNTRAINED]
    every = pd.concat([*(start.assign(loss=loss) for loss in losses), trained])
    every = every[["loss", *keys, "miou"]].assign(miou=100 * every["miou"])
    against = every.loc[every["loss"] == REFERENCE, [*keys, "miou"]]
    every = every.merge(against, "left", keys, suffixes=("", "_reference"))
    every["gain"] = (every["miou"] - every["miou_reference"]).where(every["loss"] != REFERENCE)
    long = every.melt(["loss", *keys], ["miou", "gain"], var_name="measure").dropna()
    found = long.groupby(["measure", "loss", "step"], sort=False)["value"].agg(
        middle="median", low=lambda x: x.quantile(0.25), high=lambda x: x.quantile(0.75)
    )
    return found.reset_index()


def _curves(scores: LabelScores, curves: pd.DataFrame) -> Section:
    table = curve_table(scores, curves)
    if table.empty:
        return Section("training", "Training curves", "No curves", [nothing("curves")])
    own = table[(table["measure"] == "miou") & (table["loss"] == LOVASZ_SOFTMAX)]
    title = "The mIoU while the networks are fine-tuned"
    if len(own) > 1:
        change = points((own["middle"].iloc[-1] - own["middle"].iloc[-2]) / 100)
        title = f"Between the last two validations mIoU under {NAME} moves by {change} points"
    losses = list(table["loss"].unique())
    shown = picture(
        "curves",
        f"mIoU and its gain over cross-entropy for {prose.loss_names(losses)}.",
        "mIoU over training steps on every fifth val image, on the network’s grid, by training "
        "loss; step 0 is the network before. The second panel is the difference to "
        "cross-entropy at the same step. Line: median over folds and seeds; band: the middle half.",
        lines.curves(table),
    )
    return Section("training", "Training curves", title, [shown])


def _practice(records: Records) -> Section:
    config = records.study["config"]
    network, data = config.get("network", {}), config.get("data", {})
    trained = {"all": "the whole network", "head": "the head"}.get(
        str(network.get("train")), f"the network from {network.get('split')} on"
    )
    notes = [
        "A cell trains " + trained + "; all labels are learned at once under the softmax.",
        f"Training crops of {data.get('crop_size')} pixels, {data.get('views')} fixed views of "
        "each image where a part of the network is frozen.",
        "Where the paper trains on one list, each fold here trains on its own and is scored on the "
        "rest; the network before fine-tuning is the one that every cell of a fold starts from.",
        "The curves are of every fifth val image; everything else is of all of them.",
    ]
    blocks: list[Block] = [*background.rates(records)]
    if any(records.costs.values()):
        blocks.append(practice_tables.cost_table(records.costs))
    blocks += [Listing(notes), Paragraph(background.bases(records))]
    if records.study.get("data", {}).get("lists"):
        blocks.append(practice_tables.list_table(records))
    title = "How rates were chosen, what cells cost, and what the data were"
    return Section("practice", "Rates, costs, data", title, blocks)
