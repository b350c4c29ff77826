"""Parts of the report by themselves: axes, tuning, deviations, the page over several reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lovasz_repro.__main__ import main
from lovasz_repro.files import read_json, write_bytes, write_json
from lovasz_repro.records import Json, Records, load
from lovasz_repro.report import figures, headings
from lovasz_repro.report.archive import pack, read_files
from lovasz_repro.report.axes import window
from lovasz_repro.report.markdown import escaped
from lovasz_repro.report.practice import (
    cost_frame,
    cost_table,
    tuning_frame,
    tuning_table,
)
from lovasz_repro.report.setup import deviations, facts
from lovasz_repro.report.verdict import _gain
from tests.helpers.synthetic import write_study


def intervals(*ends: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(ends, columns=["low", "high"]) / 100


class TestWindow:
    def test_one_far_out_does_not_flatten_the_rest(self) -> None:
        found = window([intervals((1, 3), (2, 4), (-1, 1), (-17, -11))])
        assert found is not None
        assert found[0] > -5
        assert 4 < found[1] < 6

    @pytest.mark.parametrize(
        "ends",
        [
            [(1, 3), (2, 4), (-1, 1), (-5, -3)],  # none is far out
            [(1, 2), (-9, -8)],  # two say nothing of what is usual
            [(np.nan, np.nan)] * 4,
        ],
    )
    def test_else_everything_is_shown(self, ends: list[tuple[float, float]]) -> None:
        assert window([intervals(*ends)]) is None


def trials(values: dict[tuple[float, int], list[float | None]]) -> list[Json]:
    return [
        {"lr": lr, "steps": steps, "category": f"c{i}", "seed": 100 + i % 2, "image_iou": value}
        for (lr, steps), found in values.items()
        for i, value in enumerate(found)
    ]


TUNING: Json = {
    "fold0": {
        "hinge": {
            "lr": 0.01,
            "steps": 900,
            "image_iou": 0.7,
            "at_edge": True,
            "trials": trials(
                {
                    (0.001, 300): [0.5, 0.6],
                    (0.01, 300): [0.6, 0.7],
                    (0.1, 300): [0.9, None],
                    (0.01, 900): [0.6, 0.8],
                }
            ),
        }
    },
    "fold1": {},
}


class TestTuning:
    def test_means_over_trials_and_what_was_chosen(self) -> None:
        table = tuning_frame(TUNING).set_index(["steps", "lr"])
        assert table["image_iou"].dropna().to_dict() == {
            (300, 0.001): pytest.approx(0.55),
            (300, 0.01): pytest.approx(0.65),
            (900, 0.01): pytest.approx(0.7),
        }
        assert table.loc[(300, 0.1), "diverged"] == 1
        assert table.index[table["chosen"]].tolist() == [(900, 0.01)]
        assert table.index[table["at_edge"]].tolist() == [(900, 0.01)]

    def test_the_choice_is_bold_and_its_edge_said(self) -> None:
        table = tuning_table(tuning_frame(TUNING))
        texts = [[field.text for field in row] for row in table.rows]
        assert texts == [
            ["hinge", "0", "300", "55.0", "65.0", "diverged"],
            ["hinge", "0", "900", "–", "70.0\u00a0‡", "–"],
        ]
        assert [field.text for row in table.rows for field in row if field.best] == ["70.0\u00a0‡"]

    def test_none_tried(self) -> None:
        assert tuning_frame({}).empty
        assert tuning_frame({"fold0": {"hinge": {"lr": 1, "steps": 2, "trials": []}}}).empty


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.6, "]. The paper’s gain is +3.4†, above the interval."),
        (
            -0.1,
            0.6,
            "]. The interval includes zero. The paper’s gain is +3.4†, above the interval.",
        ),
        (0.1, 4.0, "]. The paper’s gain is +3.4†."),
        (3.5, 4.0, "]. The paper’s gain is +3.4†, below the interval."),
        (np.nan, np.nan, "points. The paper’s gain is +3.4†."),
    ],
)
def test_the_paper_s_gain_beside_the_interval(low: float, high: float, said: str) -> None:
    row = intervals((low, high)).assign(
        loss="lovasz_hinge", value=0.8, reference_value=0.79, difference=0.01, categories=20
    )
    assert _gain(row, of_voc=True).endswith(said)
    assert "paper" not in _gain(row, of_voc=False)


@pytest.mark.parametrize("of_voc", [True, False])
def test_only_voc_s_own_share_is_marked_for_voc(of_voc: bool) -> None:
    shares = [0.02, 0.25, 0.5]
    row = {"loss": "hinge", "difference": 0.01, "low": 0.0, "high": 0.02}
    figure = Figure()
    figures.prevalence(pd.DataFrame([{"share": x, **row} for x in shares]), ["hinge"], of_voc)(
        figure
    )
    marks = [text.get_text() for text in figure.axes[0].texts]
    assert any("VOC" in mark for mark in marks) == of_voc
    assert "val set here, 50 %" in marks


def test_costs_are_medians(tmp_path: Path) -> None:
    write_study(tmp_path, categories=["bird", "boat", "bus"], seeds=(0,), folds=(0,))
    records = load(tmp_path)
    table = cost_table(cost_frame(records.costs)).data.set_index("loss")
    for loss in ("hinge", "lovasz_hinge"):
        own = sorted(c["train_seconds"] for cell, c in records.costs.items() if cell.loss == loss)
        assert table.loc[loss, "train_seconds"] == own[1]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    runs = tmp_path_factory.mktemp("small")
    write_study(runs, categories=["bird", "boat"], images_per_cell=4)
    return load(runs)


@pytest.mark.parametrize(
    ("config", "expected", "not_expected"),
    [
        ({"network": {"train": "head"}, "data": {"views": 0}}, "whole images", "fixed crop"),
        ({"network": {"train": "top", "split": "blocks.7"}}, "from blocks.7 on", "Only the head"),
        ({"network": {"train": "top"}, "data": {"views": 4}}, "4 fixed crops", "whole images"),
        ({"network": {"score": "log_odds"}}, "log-odds", "Only the"),
        ({"network": {"score": "channel", "train": "all"}}, "", "log-odds"),
        ({"network": {"kind": "deeplabv3_mobilenetv2"}}, "MobileNetV2", "torchvision"),
        ({"tuning": {"holdout": 3, "holdout_list": "val"}}, "a third of", "a fifth of"),
        ({"tuning": {}}, "a fifth of", "within"),
    ],
)
def test_deviations_follow_the_configuration(
    records: Records, config: dict[str, Any], expected: str, not_expected: str
) -> None:
    study = {**records.study, "config": config}
    text = " ".join(deviations(Records(**{**vars(records), "study": study})))
    assert expected in text
    assert not_expected not in text
    assert "held-out training images" not in text


def test_rates_of_a_study_that_has_not_chosen_yet() -> None:
    trial = {"lr": 0.1, "steps": 6, "category": "bird", "seed": 0, "image_iou": 0.5}
    table = tuning_frame({"fold0": {"hinge": {"lr": None, "trials": [trial]}}})
    assert table[["lr", "chosen"]].to_numpy().tolist() == [[0.1, False]]


def test_texts_stay_on_one_line_of_markdown() -> None:
    assert escaped("a\n\n# b\r\n[r]: x\u2028y") == "a # b [r]: x y"


def test_the_header_names_every_commit_that_made_cells(tmp_path: Path) -> None:
    write_study(tmp_path)
    machine = read_json(tmp_path / "machine.json")
    before = {
        **{"commit": "f" * 40, "started": "2025-12-24T08:00:00Z", "seconds": 3600.0},
        **{"processor": "Abacus", "torch": "0.9", "cores": machine["cores"]},
    }
    write_json(tmp_path / "machine.json", {**machine, "earlier": [before]})
    said = dict(facts(load(tmp_path)))
    assert said["Commit"] == "0123456789ab, clean; began at ffffffffffff"
    assert said["Records of (UTC)"] == "2025-12-24 08:00 to 2026-01-01 11:30"
    assert said["Wall-clock"] == "2 h 30 min"
    assert said["Hardware"] == f"cpu, Abacus and {machine['processor']}, {machine['cores']} cores"
    assert f"torch 0.9 and {machine['torch']}, " in said["Versions"]
    write_json(tmp_path / "machine.json", {**machine, "cores": 1})
    assert dict(facts(load(tmp_path)))["Hardware"] == f"cpu, {machine['processor']}, 1 core"


def test_seeds_are_listed(records: Records) -> None:
    assert facts(records)[0][1].endswith("5 training losses and the network before fine-tuning, "
                                         "2 folds and seeds 0 and 1")  # fmt: skip


class TestCompare:
    @pytest.fixture
    def reports(self, tmp_path: Path) -> list[Path]:
        for name, effect in (("weak", 0.2), ("strong", 0.0)):
            runs = tmp_path / "runs" / name
            base = {"lovasz_hinge": effect, "untrained": -effect}
            write_study(
                runs, categories=["bird", "boat", "bus"], images_per_cell=6, seeds=(0,), effect=base
            )
            archive = tmp_path / "reports" / name / "records.zip"
            write_bytes(archive, pack(read_files(runs, load(runs))))
        return [tmp_path / "reports" / name for name in ("weak", "strong")]

    def test_gains_stand_side_by_side(self, reports: list[Path], tmp_path: Path) -> None:
        out = tmp_path / "page"
        names = [str(path) for path in reports]
        assert main(["report", "--compare", *names, "--out", str(out)]) == 0
        assert (out / "index.html").is_file()
        text = (out / "report.md").read_text("utf-8")
        assert len(re.findall(r"^\| (weak|strong) \|", text, re.MULTILINE)) == 8
        assert "[weak](../reports/weak/report.md) · [strong](../reports/strong/report.md)" in text
        assert "## The Lovász hinge’s gain over cross-entropy " in text
        table = pd.read_csv(out / "tables/gains-present-table.csv").set_index("experiment")
        for path in reports:
            images = load(path / "records.zip").images.query("has_category == 1")
            means = images.groupby(["loss", "category"])["iou"].mean()
            gain = (means["lovasz_hinge"] - means["cross_entropy"]).mean()
            own = table.loc[path.name].set_index("loss")
            assert own.loc["lovasz_hinge", "difference"] == pytest.approx(gain)
        base = pd.read_csv(out / "tables/base-strength-table.csv").set_index("experiment")["base"]
        assert base["weak"].nunique() == 1
        assert base["weak"].iloc[0] < base["strong"].iloc[0]

    @pytest.mark.parametrize(
        ("ends", "said"),
        [
            ([(1, 3), (0.5, 2)], "is above zero in e0 and e1"),
            (
                [(-3, -1), (-2, 1)],
                "is below zero in e0; has an interval that includes zero in e1",
            ),
            (
                [(1, 3), (-2, -0.5), (-1, 1), (0, 1), (np.nan, np.nan)],
                "is above zero in e0; is below zero in e1; has an interval that includes zero "
                "in e2 and e3; has no interval in e4",
            ),
        ],
    )
    def test_intervals_say_whether_experiments_agree(
        self, ends: list[tuple[float, float]], said: str
    ) -> None:
        table = intervals(*ends).assign(experiment=[f"e{place}" for place in range(len(ends))])
        assert headings.agreement(table) == said

    @pytest.mark.usefixtures("undrawn")
    def test_a_report_without_the_untrained_network_is_named(
        self, reports: list[Path], tmp_path: Path
    ) -> None:
        runs = tmp_path / "runs/weak"
        study = read_json(runs / "study.json")
        study["grid"]["losses"].remove("untrained")
        write_json(runs / "study.json", study)
        write_bytes(reports[0] / "records.zip", pack(read_files(runs, load(runs))))
        main(["report", "--compare", *map(str, reports), "--out", str(tmp_path / "page")])
        text = (tmp_path / "page/report.md").read_text("utf-8")
        assert "The network before fine-tuning was not scored in: weak." in text

    def test_bad_arguments_are_one_line(
        self, reports: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = ["--out", str(tmp_path / "page")]
        first = str(reports[0])
        for arguments, message in (
            ([], "either --runs or --compare"),
            (["--runs", first, "--compare", first], "either --runs or --compare"),
            (["--compare", first, first], "two reports are named weak"),
            (["--compare", str(tmp_path)], "records.zip"),
        ):
            assert main(["report", *arguments, *out]) == 1
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1
        assert not (tmp_path / "page").exists()
