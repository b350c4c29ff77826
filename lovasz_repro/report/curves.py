"""The sections on what validations during training gave, and the tables of their curves."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lovasz_repro.analysis.multiclass import LOVASZ_SOFTMAX, LabelScores
from lovasz_repro.analysis.stats import REFERENCE
from lovasz_repro.records import MEASURES, UNTRAINED
from lovasz_repro.report import figures, headings, prose
from lovasz_repro.report.document import Block, Paragraph, Section
from lovasz_repro.report.drawing import picture
from lovasz_repro.report.sections import nothing
from lovasz_repro.report.study_tables import Study
from lovasz_repro.words import points


def binary(study: Study) -> Section:
    table = binary_table(study)
    title = headings.training(table)
    if table.empty:
        return Section("training", "Training curves", title, [nothing("curves")])
    blocks: list[Block] = [
        picture(
            "curves",
            "Four validation losses, image-IoU and its gain over training steps for "
            f"{prose.loss_names(table['loss'].unique())}.",
            "Validation measures over training steps, by training loss; step 0 is the network "
            "before training, where it was scored. Losses are relative to the first validation of "
            "their category. The last panel is the difference in image-IoU to cross-entropy "
            "at the same step. Line: median over categories; band: the middle half of the "
            "categories.",
            figures.curves(table),
        )
    ]
    if text := prose.still_falling(study.records.curves):
        blocks.append(Paragraph(text))
    return Section("training", "Training curves", title, blocks)


def multiclass(scores: LabelScores, curves: pd.DataFrame) -> Section:
    """The curves over the cells (folds, seeds), at the batch size of the configuration."""
    losses = scores.at(scores.batch_size)
    table = _spread(_from_start(curves, losses), ["fold", "seed"], ["miou"], losses)
    if table.empty:
        return Section("training", "Training curves", "No curves", [nothing("curves")])
    own = table.loc[(table["measure"] == "miou") & (table["loss"] == LOVASZ_SOFTMAX), "mean"]
    title = "The mIoU while the networks are fine-tuned"
    if len(own) > 1:
        change = points((own.iloc[-1] - own.iloc[-2]) / 100)
        title = (
            f"Between the last two validations mIoU under Lovász-Softmax moves by {change} points"
        )
    shown = picture(
        "curves",
        f"mIoU and its gain over cross-entropy for {prose.loss_names(table['loss'].unique())}.",
        "mIoU over training steps on every fifth val image, on the network’s grid, by training "
        "loss; step 0 is the network before. The second panel is the difference to "
        "cross-entropy at the same step. Line: median over folds and seeds; band: the middle half.",
        figures.curves(table),
    )
    return Section("training", "Training curves", title, [shown])


def binary_table(study: Study) -> pd.DataFrame:
    """The curves of the losses, image_iou and gain, over the categories common to all losses.

    Losses are relative to a category's first validation.
    """
    curves, scores = study.records.curves, study.scores
    curves = curves[curves["category"].isin(scores.common(scores.present))]
    curves = curves[(curves["loss"] == UNTRAINED) | (curves["step"] > 0)]
    losses = [loss for loss in scores.trained if (curves["loss"] == loss).any()]
    runs = _from_start(curves, losses).groupby(["category", "loss", "step"], as_index=False)
    runs = runs[[*MEASURES, "image_iou"]].mean()
    first = runs[runs["step"] == runs["step"].min()].groupby("category")[list(MEASURES)].mean()
    for name in MEASURES:
        runs[name] = runs[name] / runs["category"].map(first[name])
    return _spread(runs, ["category"], [*MEASURES, "image_iou"], losses)


def _from_start(curves: pd.DataFrame, losses: Sequence[str]) -> pd.DataFrame:
    """The rows of these losses, each with those of the untrained network, at step 0."""
    start = curves[curves["loss"] == UNTRAINED]
    trained = curves[curves["loss"].isin(losses)]
    return pd.concat([*(start.assign(loss=loss) for loss in losses), trained])


def _spread(
    runs: pd.DataFrame, keys: list[str], measures: list[str], losses: Sequence[str]
) -> pd.DataFrame:
    """The mean, the median and the middle half over the runs: loss, measure, step, mean, middle,
    low, high.

    The last measure, an IoU, is in percent. The gain is added: its difference to cross-entropy in
    the same run at the same step, in points.

    Args:
        runs: loss, step, keys, measures. keys: the columns that identify a run of a loss.
    """
    keys, iou = [*keys, "step"], measures[-1]
    runs = runs.assign(**{iou: 100 * runs[iou]})
    against = runs.loc[runs["loss"] == REFERENCE, [*keys, iou]]
    runs = runs.merge(against, "left", keys, suffixes=("", "_reference"))
    runs["gain"] = (runs[iou] - runs[f"{iou}_reference"]).where(runs["loss"] != REFERENCE)
    measures = [*measures, "gain"]
    long = runs.melt(["loss", *keys], measures, var_name="measure").dropna()
    order = {"measure": pd.CategoricalDtype(measures), "loss": pd.CategoricalDtype(losses)}
    groups = long.astype(order).groupby(["measure", "loss", "step"], observed=True)["value"]
    found = groups.agg(
        mean="mean",
        middle="median",
        low=lambda x: x.quantile(0.25),
        high=lambda x: x.quantile(0.75),
    )
    return found.reset_index().astype({"measure": str, "loss": str})
