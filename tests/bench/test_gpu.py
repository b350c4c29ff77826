"""`bench gpu` without a GPU: its tiny version, what it writes, and what it says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from lovasz_repro.__main__ import main
from lovasz_repro.bench import gpu
from lovasz_repro.bench.losses import METHODS, Case
from lovasz_repro.models.deeplab import build
from lovasz_repro.report.readme import update_benchmarks


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    assert main(["bench", "gpu", "--device", "cpu", "--rounds", "1", "--out", str(folder)]) == 0
    return folder


def test_the_tiny_version_times_losses_and_steps(out: Path) -> None:
    table = pd.read_csv(out / "cpu.csv", keep_default_na=False)
    steps = table[table["case"].str.startswith("step of")]
    assert list(steps["name"]) == list(gpu.TRAINED)
    assert steps["ratio"].iloc[0] == 1
    assert (table[["milliseconds", "megabytes"]] > 0).all(axis=None)
    ours = table[table["name"].str.startswith("lovasz_")].drop(steps.index, errors="ignore")
    methods = ours["name"].str.split(",").str[0].unique()
    names = [f"lovasz_{kind} {method}" for kind in ("hinge", "softmax") for method in METHODS]
    assert sorted(methods) == sorted(names)
    assert set(ours["check"]) == {"same bits twice"}


def test_what_cannot_be_measured_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    command = ["bench", "gpu", "--device", "cpu", "--rounds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(gpu, "training_step", fails)
    assert main(command) == 0
    assert "step of test_resnet, 2x65x65: out of memory; left out" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "cpu.csv")
    assert set(table["case"]) == {str(case) for case in gpu.TINY_CASES}
    monkeypatch.setattr(gpu, "_losses", fails)
    assert main(command) == 1
    assert "nothing could be measured" in capsys.readouterr().err


def test_the_table_of_the_readme(out: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- gpu:begin --><!-- gpu:end -->")
    update_benchmarks(tmp_path)
    assert "Not measured." in readme.read_text()
    (tmp_path / "gpu-one.csv").write_bytes((out / "cpu.csv").read_bytes())
    update_benchmarks(tmp_path)
    text = readme.read_text()
    assert "Not measured" not in text
    checked = pd.read_csv(out / "cpu.csv")["check"].eq("same bits twice").sum()
    assert text.count("| same bits twice |") == checked > 4
    assert "nan" not in text


def test_other_bits_are_found() -> None:
    def noisy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (logits * torch.rand_like(logits)).sum()

    assert not gpu.same_bits(noisy, Case(1, 9, 9, gain=0.0), torch.device("cpu"))


def test_a_step_changes_the_network() -> None:
    (step,), loss = gpu.TINY_STEPS, gpu.TRAINED["lovasz_hinge sort"]
    module, call = gpu.training_step(step, loss, torch.device("cpu"))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    call()
    assert not all(map(torch.equal, before, module.parameters()))


@pytest.mark.parametrize("step", gpu.STEPS, ids=str)
def test_the_networks_need_no_file(step: gpu.Step) -> None:
    assert build(step.network, pretrained=False).stride == step.network.output_stride


def test_no_gpu_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "lovasz-repro: bench gpu: no CUDA GPU was found; --device cpu runs a tiny version\n"
    )
    assert not any(tmp_path.iterdir())
