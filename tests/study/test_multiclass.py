"""All labels at once: losses, counts, a study on shapes, its records, tables and report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import Tensor

from lovasz_repro.__main__ import main
from lovasz_repro.analysis.multiclass import LabelScores, claim, label_table, scores_table
from lovasz_repro.analysis.resample import IMAGE_REPLICATES, resamples
from lovasz_repro.config import Cells, Experiment, Optim, Runtime
from lovasz_repro.data.voc import VOC, VOID
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json, write_json
from lovasz_repro.losses import (
    MULTICLASS_LOSSES,
    lovasz_softmax,
    make_loss,
    softmax_cross_entropy,
    softmax_jaccard,
)
from lovasz_repro.records import UNTRAINED, Cell, load
from lovasz_repro.study.identity import open_run
from lovasz_repro.study.setup import MulticlassSetup
from lovasz_repro.study.workspace import Workspace
from lovasz_repro.training.metrics import label_confusion
from lovasz_repro.training.segmenter import LabelSegmenter, NonFiniteError
from tests.helpers.studies import Killed, command, contents, kill_at, run, tiny

CELL = Cell("all", "lovasz_softmax.batch2", 0, 0)
LOSSES = ["cross_entropy", "lovasz_softmax", "cross_entropy.batch2", "lovasz_softmax.batch2"]


def batch(classes: int = 5, void: bool = True) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(classes)
    logits = torch.randn(3, classes, 6, 7, generator=draw, dtype=torch.float64)
    target = torch.randint(0, classes - 1, (3, 6, 7), generator=draw)  # the last class is absent
    if void:
        target[:, 0] = VOID
    return logits, target


def test_cross_entropy_is_torchs() -> None:
    logits, target = batch()
    logits.requires_grad_()
    ours = softmax_cross_entropy(logits, target)
    theirs = F.cross_entropy(logits, target, ignore_index=VOID)
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(value, logits)[0] for value in (ours, theirs))
    torch.testing.assert_close(*gradients)
    assert softmax_cross_entropy(logits, torch.full_like(target, VOID)) == 0


def test_soft_jaccard_is_smps_over_the_classes_that_are_there() -> None:
    logits, target = batch(void=False)
    theirs = smp.losses.JaccardLoss("multiclass", smooth=0.0, eps=0.0)(logits, target)
    # Theirs counts an absent class as 0 in the mean.
    torch.testing.assert_close(softmax_jaccard(logits, target), theirs * 5 / 4)


@pytest.mark.parametrize("name", list(MULTICLASS_LOSSES))
def test_void_pixels_change_nothing(name: str) -> None:
    logits, target = batch()
    loss = make_loss(name, MULTICLASS_LOSSES)
    seen = loss(logits[:, :, 1:], target[:, 1:])
    torch.testing.assert_close(loss(logits, target), seen)
    logits = logits.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(logits, target), logits)[0]
    assert (gradient[:, :, 0] == 0).all()
    assert (gradient[:, :, 1:] != 0).any()


def test_soft_jaccards_gradient_is_that_of_its_value() -> None:
    logits, target = batch()
    assert torch.autograd.gradcheck(
        partial(softmax_jaccard, target=target), logits.clone().requires_grad_()
    )


def test_names_are_the_forms_that_they_say() -> None:
    logits, target = batch()
    each = [lovasz_softmax(x[None], y[None]) for x, y in zip(logits, target, strict=True)]
    made = {name: loss(logits, target) for name, loss in MULTICLASS_LOSSES.items()}
    torch.testing.assert_close(made["lovasz_softmax_per_image"], torch.stack(each).mean())
    # Over all classes the absent one costs its highest score.
    highest = logits.softmax(1)[:, -1].masked_fill(target == VOID, 0).max()
    expected = (4 * made["lovasz_softmax"] + highest) / 5
    torch.testing.assert_close(made["lovasz_softmax_all"], expected)
    half = (made["cross_entropy"] + made["lovasz_softmax"]) / 2
    torch.testing.assert_close(made["mixed"], half)


SOFTMAX = (softmax_cross_entropy, softmax_jaccard)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_target_of_another_shape_is_refused(loss: Callable[..., Tensor]) -> None:
    logits, target = batch()
    with pytest.raises(ValueError, match="target must fit the logits"):
        loss(logits, target[:, :3])
    with pytest.raises(ValueError, match="C >= 2"):
        loss(logits[:, :1], target)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("wrong", [99, -1, 5])
def test_other_labels_are_refused(loss: Callable[..., Tensor], wrong: int) -> None:
    logits, target = batch()
    target[0, 3, 3] = wrong
    with pytest.raises(ValueError, match=r"labels must be 0 \.\.\. 4 or 255"):
        loss(logits, target)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_class_can_be_ignored_and_no_label_wraps_around(loss: Callable[..., Tensor]) -> None:
    logits, target = batch(void=False)
    ignored = torch.where(target == 2, VOID, target)
    torch.testing.assert_close(loss(logits, target, ignore_index=2), loss(logits, ignored))
    # 256 does not fit a byte; it is not 0.
    torch.testing.assert_close(
        loss(logits, target.to(torch.uint8), ignore_index=256), loss(logits, target)
    )


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_on_void_need_not_be_finite(loss: Callable[..., Tensor], value: float) -> None:
    logits, target = batch()
    expected = loss(logits, target)
    logits = logits.clone()
    logits[:, :, 0] = value
    logits.requires_grad_()
    torch.testing.assert_close(loss(logits, target), expected)
    gradient = torch.autograd.grad(loss(logits, target), logits)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", SOFTMAX)
def test_half_precision_is_computed_in_single(loss: Callable[..., Tensor]) -> None:
    logits, target = batch()
    assert loss(logits.half(), target).dtype == torch.float32


def test_counts_by_label_are_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    prediction, target = draw.integers(0, 4, (2, 3, 50))
    target[:, :9] = VOID
    found = label_confusion(torch.from_numpy(prediction), torch.from_numpy(target), 4).numpy()
    for own, said, truth in zip(found, prediction, target, strict=True):
        matrix = confusion_matrix(truth[9:], said[9:], labels=range(4))
        hit = matrix.diagonal()
        np.testing.assert_array_equal(own.T, [hit, matrix.sum(0) - hit, matrix.sum(1) - hit])


def small(root: Path, where: Path, **rest: Any) -> Experiment:
    """An experiment of seconds on the shapes."""
    cells = Cells(losses=LOSSES, folds=[0], seeds=[0])
    config = replace(tiny(root, where, steps=8, **rest), task="multiclass", cells=cells)
    return replace(config, runtime=Runtime(device="cpu"))


def test_weights_that_are_not_finite_are_no_score(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step, which no loss shows; their logits still have a largest label."""

    def break_it(self: LabelSegmenter) -> None:
        if self.optim.steps == 8:  # a cell, not the base
            next(self.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(LabelSegmenter, "on_train_end", break_it)
    with pytest.raises(NonFiniteError, match=r"is not finite at learning rate 0\.02"):
        run(small(shapes_root, tmp_path), Cell("all", "cross_entropy", 0, 0))


def test_a_larger_batch_takes_fewer_steps(shapes_root: Path, tmp_path: Path) -> None:
    """Their number need not be a multiple of the configuration's distance of validations."""
    config = replace(
        small(shapes_root, tmp_path), optim=Optim(0.02, steps=6, batch_size=4, validate_every=2)
    )
    folder = run(config, Cell("all", "cross_entropy.batch8", 0, 0))
    assert read_json(folder / "result.json")["steps"] == 3
    assert pd.read_csv(folder / "curve.csv")["step"].tolist() == [1, 2, 3]


@pytest.fixture(scope="module")
def cell(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small(shapes_root, tmp_path_factory.mktemp("cell")), CELL)


def test_a_batch_size_of_its_own_sees_as_many_images(cell: Path) -> None:
    result = read_json(cell / "result.json")
    assert (result["batch_size"], result["steps"]) == (2, 16)  # of 8 steps with 4 images
    curve = pd.read_csv(cell / "curve.csv")
    assert curve["step"].tolist() == [4, 8, 12, 16]
    assert not (cell / "resume.ckpt").exists()


def test_stopped_and_resumed_gives_the_same_bytes(
    cell: Path, shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(shapes_root, tmp_path)
    with monkeypatch.context() as patch:
        kill_at(9, patch, steps=16)
        with pytest.raises(Killed):
            run(config, CELL)
    folder = Path(config.folder) / CELL.path
    assert not (folder / "result.json").exists()
    assert (folder / "resume.ckpt").exists()
    run(config, CELL)
    for name in ("classes.csv", "curve.csv", "result.json"):
        assert (folder / name).read_bytes() == (cell / name).read_bytes(), name


def test_miou_is_scikit_learns_of_the_predictions(shapes_root: Path, tmp_path: Path) -> None:
    config = small(shapes_root, tmp_path)
    workspace = Workspace(config)
    folder = run(config, Cell("all", UNTRAINED, 0, 0))
    setup = MulticlassSetup(workspace, "all", 0)
    train_index, val_index, _ = setup.indices()
    module, _, data = setup.train(UNTRAINED, 0.0, 0, train_index, val_index, None, None, "")
    said: list[NDArray[np.int64]] = []
    truth: list[NDArray[np.int64]] = []
    with torch.inference_mode():
        for raw in data.test_dataloader():
            whole = data.prepare(raw)
            labels = module.native(whole, module(whole.inputs)).argmax(1)
            for row, index, (height, width) in zip(
                labels, whole.chosen.tolist(), whole.native_sizes.tolist(), strict=True
            ):
                mask = VOC(shapes_root).mask(workspace.images.ids[index])
                said.append(row[:height, :width].numpy()[mask != VOID])
                truth.append(mask[mask != VOID].astype(np.int64))
    result = read_json(folder / "result.json")
    there = np.union1d(np.concatenate(truth), np.concatenate(said))
    ious = jaccard_score(
        np.concatenate(truth), np.concatenate(said), labels=there, average=None, zero_division=0.0
    )
    assert result["miou"] == pytest.approx(ious.mean(), abs=1e-9)
    own = [
        jaccard_score(y, x, labels=np.unique(y), average="macro", zero_division=0.0)
        for y, x in zip(truth, said, strict=True)
    ]
    assert result["image_miou"] == pytest.approx(np.mean(own), abs=1e-9)
    assert result["images"] == len(own)


def arguments(shapes_root: Path, runs: Path) -> list[str]:
    """The study of test_study with all labels at once, by the command line."""
    given = command(shapes_root, runs)
    changed = {"--cells.losses": f"[{', '.join(LOSSES)}]", "--cells.seeds": "[0, 1]"}
    for flag, value in changed.items():
        given[given.index(flag) + 1] = value
    return [*given, "--task", "multiclass", "--cells.folds", "[0, 1]", "--name", "labels"]


@pytest.fixture(scope="module")
def finished(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("labels")
    assert main(arguments(shapes_root, runs)) == 0
    return runs / "labels"


def test_every_cell_is_recorded(finished: Path) -> None:
    records = load(finished)
    assert records.multiclass
    assert len(records.results) == 2 * 2 * (len(LOSSES) + 1)
    assert records.missing == records.stale == []
    assert records.images.empty
    assert {len(entry["trials"]) for entry in records.tuning["fold0"].values()} == {2}
    steps = {loss: entry["steps"] for loss, entry in records.tuning["fold0"].items()}
    assert steps == dict(zip(LOSSES, (6, 6, 12, 12), strict=True))


def test_the_same_study_again_does_nothing(finished: Path, shapes_root: Path) -> None:
    before = contents(finished)
    assert main(arguments(shapes_root, finished.parent)) == 0
    assert contents(finished) == before


def recounted(runs: Path) -> pd.DataFrame:
    """mIoU and mIoU per image by loss, by pandas alone: seeds averaged, folds pooled."""
    tables = []
    for path in sorted(runs.glob("cells/all/*/*/classes.csv")):
        fold, seed = path.parent.name.split("-")
        table = pd.read_csv(path, dtype={"id": str})
        tables.append(table.assign(loss=path.parent.parent.name, fold=fold, seed=seed))
    rows = pd.concat(tables)
    sums = rows.groupby(["loss", "label"])[["tp", "fp", "fn"]].sum()
    there = rows[rows["tp"] + rows["fn"] > 0]
    iou = (there["tp"] / there[["tp", "fp", "fn"]].sum(axis=1)).rename("iou")
    own = pd.concat([there[["loss", "seed", "id"]], iou], axis=1)
    return pd.DataFrame(
        {
            "miou": (sums["tp"] / sums.sum(axis=1)).groupby("loss").mean(),
            "image_miou": own.groupby(["loss", "seed", "id"])["iou"].mean().groupby("loss").mean(),
        }
    )


def test_report_by_the_command_line(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "reports" / "labels"
    assert main(["report", "--runs", str(finished), "--out", str(out)]) == 0
    shown = pd.read_csv(out / "tables/losses.csv").set_index("loss")
    expected = recounted(finished)
    np.testing.assert_allclose(shown["value"], expected["miou"][shown.index], atol=1e-9)
    np.testing.assert_allclose(shown["value_image"], expected["image_miou"][shown.index], atol=1e-9)
    change = expected["miou"]["lovasz_softmax.batch2"] - expected["miou"]["cross_entropy.batch2"]
    assert shown["difference"]["lovasz_softmax.batch2"] == pytest.approx(change, abs=1e-9)
    text = (out / "report.md").read_text()
    judged = claim(scores_table(LabelScores(load(finished)), "miou"))
    assert judged.verdict in text.split("\n## ")[1]
    for name in ("per-label", "curves", "gain", "tuning"):
        assert (out / f"figures/{name}.svg").is_file()
    again = tmp_path / "again"
    assert main(["report", "--runs", str(out / "records.zip"), "--out", str(again)]) == 0
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(out)).read_bytes(), path


@pytest.mark.usefixtures("undrawn")
def test_readme_and_list_name_the_verdict(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "README.md").write_text("<!-- reports:begin -->\n<!-- reports:end -->\n")
    runs = tmp_path / "runs"
    shutil.copytree(finished, runs)
    study = read_json(runs / "study.json")
    write_json(runs / "study.json", {**study, "generated": False})
    given = ["report", "--runs", str(runs), "--out", str(reports / "labels")]
    assert main([*given, "--readme", str(tmp_path / "README.md")]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "**All labels at once, [labels](reports/labels/report.md).** Lovász-Softmax per" in text
    assert "(reports/labels/report.md)" in text
    assert (
        "all labels at once, 4 training losses, 20 of 20 cells"
        in (reports / "README.md").read_text()
    )


def edit_result(folder: Path) -> None:
    result = read_json(folder / "result.json")
    write_json(folder / "result.json", {**result, "miou": result["miou"] + 0.01})


def edit_rows(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        """As a stranger would who makes up a record: with the right sums."""
        from lovasz_repro.files import sha256, write_table
        from lovasz_repro.records.agreement import label_scores

        rows = change(pd.read_csv(folder / "classes.csv", dtype={"id": str}))
        write_table(folder / "classes.csv", rows)
        result = read_json(folder / "result.json")
        result["files"]["classes.csv"] = sha256((folder / "classes.csv").read_bytes())
        write_json(folder / "result.json", {**result, **label_scores(rows)})

    return edit


def other_truth(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[rows["tp"].idxmax(), "tp"] += 7
    return rows


def below_zero(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[rows["fn"].idxmax(), "fp"] = -1
    return rows


def nothing_there(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[rows["fn"] + rows["tp"] == 0, "fp"] = 0
    return rows


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edit_result, "miou: .* but classes.csv beside it gives"),
        (edit_rows(lambda rows: pd.concat([rows, rows[:1]])), "there twice"),
        (edit_rows(nothing_there), "neither in an image nor"),
        (edit_rows(other_truth), r"tp \+ fn of .* is not that of another cell"),
        (edit_rows(below_zero), "number below 0 in column fp"),
        (lambda folder: (folder / "classes.csv").write_text("id\n"), "another SHA-256"),
    ],
)
def test_edited_records_are_refused(
    finished: Path, tmp_path: Path, edit: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    edit(tmp_path / "runs/cells/all/lovasz_softmax/fold0-seed1")
    with pytest.raises(UserError, match=said):
        load(tmp_path / "runs")


def test_tuning_without_its_measure_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    path = tmp_path / "runs/tuning.json"
    tuning = json.loads(path.read_text().replace('"miou"', '"image_iou"'))
    write_json(path, tuning)
    with pytest.raises(UserError, match=r"fold0.cross_entropy.trials\[0\]: there is no miou"):
        load(tmp_path / "runs")


def made_up(gain: float, seeds: int = 3, images: int = 60) -> Any:
    """Records of two losses on two folds, with a known shift of every IoU."""
    draw = np.random.default_rng(1)
    rows = []
    for fold in (0, 1):
        level = draw.uniform(0.5, 0.9, (images, 3))
        for seed in range(seeds):
            for loss, shift in (("cross_entropy", 0.0), ("lovasz_softmax", gain)):
                iou = np.clip(level + shift + draw.normal(0, 0.01, level.shape), 0, 1)
                for image, label in np.ndindex(level.shape):
                    hit = round(1000 * float(iou[image, label]))
                    name = f"{fold}-{image:03d}"
                    rows.append((loss, fold, seed, name, label, hit, 0, 1000 - hit))
    columns = ["loss", "fold", "seed", "id", "label", "tp", "fp", "fn"]
    config = {"data": {"classes": ["bird", "cat"]}, "optim": {"batch_size": 10}}
    grid = SimpleNamespace(losses=["cross_entropy", "lovasz_softmax", UNTRAINED])
    classes = pd.DataFrame(rows, columns=columns)
    return SimpleNamespace(study={"config": config}, grid=grid, classes=classes, results={})


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.03, "reproduced"), (-0.03, "not reproduced"), (0.0, "undecided")]
)
def test_verdict_follows_a_known_gain(gain: float, verdict: str) -> None:
    scores = LabelScores(made_up(gain))
    judged = claim(scores_table(scores, "miou"))
    assert judged.verdict == verdict
    assert judged.low <= gain <= judged.high
    assert judged.effect == pytest.approx(gain, abs=0.005)
    parts = [scores_table(scores, name)["difference"].sum() for name in ("missed", "false")]
    assert sum(parts) == pytest.approx(-judged.effect, abs=1e-9)
    table = label_table(scores).dropna(subset="difference")
    assert table["category"].tolist() == ["background", "bird", "cat"]
    assert table["difference"].mean() == pytest.approx(judged.effect, abs=1e-9)


def test_bootstrap_is_that_of_a_plain_loop() -> None:
    records = made_up(0.02, images=20)
    found = LabelScores(records).bootstrap(["lovasz_softmax", "cross_entropy"], "miou")
    weights = [resamples(20, IMAGE_REPLICATES, 1 + 2 * fold) for fold in (0, 1)]
    for replicate in (0, 7, 100):
        rows = records.classes.copy()
        fold, image = (rows["id"].str.split("-").str[k].astype(int) for k in (0, 1))
        times = np.array([weights[f][replicate][i] for f, i in zip(fold, image, strict=True)])
        for name in ("tp", "fp", "fn"):
            rows[name] = rows[name] * times
        sums = rows.groupby(["loss", "label"])[["tp", "fp", "fn"]].sum()
        miou = (sums["tp"] / sums.sum(axis=1)).groupby("loss").mean()
        expected = miou["lovasz_softmax"] - miou["cross_entropy"]
        assert found.values[replicate] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (["lovasz_hinge"], "there is no 'lovasz_hinge'"),
        (["lovasz_softmax.batch3"], "are no whole number of steps of"),
        (["lovasz_softmax.batch0"], "there is no 'lovasz_softmax.batch0'"),
    ],
)
def test_losses_that_cannot_be_are_named(tmp_path: Path, losses: list[str], said: str) -> None:
    config = small(tmp_path, tmp_path)
    with pytest.raises(UserError, match=said):
        replace(config, cells=Cells(losses=losses))


def test_binary_studies_do_not_know_of_a_task(shapes_root: Path, tmp_path: Path) -> None:
    config = tiny(shapes_root, tmp_path)
    with pytest.raises(UserError, match=r"there is no 'hinge.batch2'"):
        replace(config, cells=Cells(["bird"], ["hinge.batch2"]))
    workspace = Workspace(config)
    open_run(workspace, [Cell("bird", "hinge", 0, 0)])
    assert "task" not in read_json(workspace.folder / "study.json")["config"]
    assert small(shapes_root, tmp_path).digest({}) != replace(
        small(shapes_root, tmp_path), task="binary", cells=config.cells
    ).digest({})
