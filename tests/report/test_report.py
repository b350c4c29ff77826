"""The report: same bytes from same records, what is missing is said, what is hostile is escaped."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lovasz_repro import report
from lovasz_repro.__main__ import main
from lovasz_repro.data.voc import VOC
from lovasz_repro.errors import UserError
from lovasz_repro.files import read_json, write_bytes, write_json
from lovasz_repro.records import Cell, load
from lovasz_repro.records.cells import write_cell
from lovasz_repro.report.archive import pack, read_files
from lovasz_repro.report.curves import binary_table
from lovasz_repro.report.document import percent, signed
from lovasz_repro.report.examples import COLORS, difference
from lovasz_repro.report.gallery import _tint, choose, write_gallery
from lovasz_repro.report.readme import _weight
from lovasz_repro.report.sections import SHIPPED
from lovasz_repro.report.study_tables import Study
from lovasz_repro.report.style import style
from lovasz_repro.words import points
from tests.helpers import photographs, recount, synthetic
from tests.helpers.places import ROOT
from tests.helpers.undrawn import nothing_drawn

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
LIST = "<!-- reports:begin --><!-- reports:end -->"
BENCH = "".join(
    f"<!-- {name}:begin --><!-- {name}:end -->" for name in ("bench", "train", "convergence", "gpu")
)
CATEGORIES = synthetic.CATEGORIES[:3]
CELL = Cell("bicycle", "hinge", 1, 0)
LINKS = ("../../experiments/head.yaml", "../README.md")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole study with a gallery; beside it what its report's links lead to."""
    root = tmp_path_factory.mktemp("whole")
    for name in ("experiments/head.yaml", "reports/README.md"):
        write_bytes(root / name, b"")
    runs = root / "runs"
    synthetic.write_study(runs, categories=CATEGORIES, images_per_cell=12)
    photographs.write_predictions(runs)
    write_gallery(runs, VOC(photographs.write_voc(runs, root / "voc")))
    return runs


@pytest.fixture(scope="module")
def written(recorded: Path) -> tuple[Path, Path]:
    """The study and its report."""
    out = recorded.parent / "reports/head"
    report.write_report(recorded, out)
    return recorded, out


@pytest.fixture
def text_of(tmp_path: Path, undrawn: None) -> Callable[[Path], str]:
    """The Markdown report of a run's folder."""

    def text(runs: Path) -> str:
        report.write_report(runs, tmp_path / "out")
        return (tmp_path / "out/report.md").read_text("utf-8")

    return text


class TestBytes:
    def test_from_its_own_archive_in_another_process(
        self, written: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Whatever order Python's sets take there."""
        (tmp_path / "records.zip").write_bytes((written[1] / "records.zip").read_bytes())
        code = (
            "import pathlib, sys; from lovasz_repro import report; "
            "out = pathlib.Path(sys.argv[1]); report.write_report(out / 'records.zip', out)"
        )
        environment = {**os.environ, "PYTHONHASHSEED": "1234"}
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
        assert files(tmp_path) == files(written[1])

    def test_the_archive_holds_the_records_and_no_more(self, written: tuple[Path, Path]) -> None:
        runs, out = written
        with zipfile.ZipFile(out / "records.zip") as archive:
            names = archive.namelist()
            content = {name: archive.read(name) for name in names}
        assert names == sorted(names)
        assert not [name for name in names if name.endswith((".npz", ".pt"))]
        assert {name: (runs / name).read_bytes() for name in names} == content
        assert load(out / "records.zip").images.equals(load(runs).images)

    def test_a_cell_that_is_finished_after_the_records_were_read_is_left_out(
        self, recorded: Path, tmp_path: Path
    ) -> None:
        runs = tmp_path / "runs"
        shutil.copytree(recorded, runs)
        result = runs / CELL.path / "result.json"
        content = result.read_bytes()
        result.unlink()
        records = load(runs)
        result.write_bytes(content)
        assert not [name for name in read_files(runs, records) if name.startswith(f"{CELL.path}/")]

    def test_what_an_older_report_left_is_gone(
        self, written: tuple[Path, Path], tmp_path: Path, undrawn: None
    ) -> None:
        for name in ("figures/old.svg", "tables/old.csv", "notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("old")
        report.write_report(written[0], tmp_path)
        assert not {"figures/old.svg", "tables/old.csv"} & files(tmp_path).keys()
        assert (tmp_path / "notes.txt").read_text() == "old"


@pytest.fixture(scope="module")
def plain(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    with nothing_drawn():
        report.write_report(recorded, out, photographs=False)
    return out


class TestWithoutPhotographs:
    def test_there_are_none(self, plain: Path, recorded: Path) -> None:
        with zipfile.ZipFile(plain / "records.zip") as archive:
            kept = {name: archive.read(name) for name in archive.namelist()}
        everything = kept | files(plain)
        assert [n for n, content in everything.items() if content.startswith(b"\xff\xd8")] == []
        assert b"image/jpeg" not in everything["index.html"]
        left_out = {entry["image"] for entry in load(recorded).gallery}
        assert len(left_out) == 9
        assert not any(name.encode() in kept["gallery/gallery.json"] for name in left_out)
        # Nothing else is lost.
        assert {f"gallery/{name}" for name in left_out} | kept.keys() == set(
            read_files(recorded, load(recorded))
        )

    def test_a_report_from_its_archive_is_the_same(
        self, plain: Path, tmp_path: Path, undrawn: None
    ) -> None:
        for shown in (True, False):
            out = tmp_path / str(shown)
            report.write_report(plain / "records.zip", out, shown)
            assert files(out) == files(plain)

    def test_every_example_is_shown(self, plain: Path) -> None:
        page = (plain / "index.html").read_text("utf-8")
        assert page.count('class="example"') == 9
        assert page.count("<figcaption>truth</figcaption>") == 9
        assert "<figcaption>image</figcaption>" not in page
        assert "--image:" not in page
        assert len(list((plain / "figures/gallery").glob("*.png"))) == 9

    def test_the_command_s_flag(
        self, recorded: Path, tmp_path: Path, plain: Path, undrawn: None
    ) -> None:
        arguments = ["report", "--runs", str(recorded), "--out", str(tmp_path / "out")]
        assert main([*arguments, "--without-photographs"]) == 0
        assert files(tmp_path / "out") == files(plain)


def test_a_difference_is_found_missed_and_false() -> None:
    truth, prediction = (np.zeros((3, 4), bool) for _ in "12")
    truth[:2, :2] = True
    prediction[1:, :2] = True
    shown = difference(*(_tint(mask, "#123456") for mask in (truth, prediction)))
    with Image.open(io.BytesIO(shown)) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    for name, mask in (
        ("found", truth & prediction),
        ("missed", truth & ~prediction),
        ("false", ~truth & prediction),
    ):
        color = np.array([*bytes.fromhex(COLORS[name][1:]), 255])
        assert ((pixels == color).all(-1) == mask).all(), name
    assert (pixels[~(truth | prediction), 3] == 0).all()


class TestContent:
    def test_sections_come_in_order(self, written: tuple[Path, Path]) -> None:
        page = (written[1] / "index.html").read_text("utf-8")
        assert re.findall(r'<section id="([\w-]+)"', page) == [
            "answer",
            "table-1",
            "by-category",
            "training",
            "sources",
            "by-prevalence",
            "operating-point",
            "pixels",
            "predictions",
            "surrogates",
            "practice",
        ]

    def test_titles_and_captions_use_no_words_of_ours(self, written: tuple[Path, Path]) -> None:
        """Words that a segmentation engineer would not know at once."""
        texts = [written[1] / "report.md", *(written[1] / "figures").glob("*.svg")]
        assert len(texts) > 10
        ours = r"operating point|nearness|labeling|paired difference|(?<!fine-)\btuned|\breference"
        for path in texts:
            assert not re.findall(ours, path.read_text("utf-8")), path.name

    def test_headings_never_skip_a_level(self, written: tuple[Path, Path]) -> None:
        page = (written[1] / "index.html").read_text("utf-8")
        levels = [int(level) for level in re.findall(r"<h(\d)", page)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))

    def test_ids_are_unique_and_links_lead_somewhere(self, written: tuple[Path, Path]) -> None:
        page = (written[1] / "index.html").read_text("utf-8")
        ids = re.findall(r'\bid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)

    def test_nothing_is_loaded_from_elsewhere(self, written: tuple[Path, Path]) -> None:
        page = (written[1] / "index.html").read_text("utf-8")
        sources = re.findall(r'(?:src|srcset|href)="([^"]*)"|url\(([^)]*)\)', page)
        assert sources
        loaded = [a or b for a, b in sources if not (a or b).startswith(("data:", "#"))]
        tables = [f"tables/{path.name}" for path in self.linked_tables(written[1], page)]
        assert sorted(loaded) == sorted([*tables, *LINKS])
        assert len(tables) > 10

    def linked_tables(self, out: Path, page: str) -> list[Path]:
        """The CSV files that the page's links lead to, which are there."""
        paths = [out / link for link in re.findall(r'<a href="(tables/[^"]+)">CSV</a>', page)]
        assert all(path.is_file() for path in paths)
        return paths

    def test_markdown_links_are_there(self, written: tuple[Path, Path]) -> None:
        out = written[1]
        links = re.findall(r"\]\(([^)]+)\)", (out / "report.md").read_text("utf-8"))
        assert len(links) > 10
        assert all((out / link).is_file() for link in links)

    def test_figures_are_xml_without_a_date(self, written: tuple[Path, Path]) -> None:
        figures = sorted((written[1] / "figures").glob("*.svg"))
        assert len(figures) == 11
        for path in figures:
            ElementTree.fromstring(path.read_text("utf-8"))
            assert "<dc:date>" not in path.read_text("utf-8")

    def test_the_answer_holds_the_table_s_numbers(self, written: tuple[Path, Path]) -> None:
        out = written[1]
        with (out / "tables/image-iou.csv").open(encoding="utf-8") as file:
            value = {row["row"]: float(row["value"]) for row in csv.DictReader(file)}
        answer = (out / "report.md").read_text("utf-8").split("\n\n")[2]
        assert f"{100 * value['lovasz_hinge']:.1f}\u00a0%" in answer
        assert f"{100 * value['cross_entropy']:.1f}\u00a0%" in answer
        assert "The paper’s gain is +3.4†" in answer

    def test_the_paper_s_values_are_marked_once(self, written: tuple[Path, Path]) -> None:
        for name in ("report.md", "index.html"):
            text = (written[1] / name).read_text("utf-8")
            assert text.count("quoted from memory, not checked against the PDF") == 1

    def test_table_1_is_sorted_and_holds_what_needs_no_training(
        self, written: tuple[Path, Path]
    ) -> None:
        text = (written[1] / "report.md").read_text("utf-8")
        table = text[text.index("| training loss | image-IoU") :].split("\n\n")[0]
        rows = [line.split(" | ") for line in table.splitlines()[2:]]
        values = [float(re.sub(r"[*]|<sub>.*", "", row[1])) for row in rows]
        assert values == sorted(values, reverse=True)
        names = [row[0].removeprefix("| ") for row in rows]
        untrained = {"before fine-tuning", "before fine-tuning, threshold chosen"}
        assert untrained | {"all background"} < set(names)
        assert values[names.index("all background")] == 50.0

    def test_table_1_counted_again(self, written: tuple[Path, Path]) -> None:
        recount.check(written[1])

    def test_the_untrained_network_is_no_loss_of_a_claim(self, written: tuple[Path, Path]) -> None:
        for name in ("measures", "claims", "costs"):
            with (written[1] / f"tables/{name}.csv").open(encoding="utf-8") as file:
                text = file.read()
            assert ("untrained" in text) == (name == "costs"), name

    def test_curves_start_with_the_untrained_network(self, written: tuple[Path, Path]) -> None:
        records = load(written[0])
        table = (
            binary_table(Study(records))
            .set_index(["measure", "loss", "step"])["middle"]
            .sort_index()
        )
        for loss in ("cross_entropy", "lovasz_hinge"):
            assert table.loc[("image_iou", loss)].index.tolist()[:2] == [0, 50]
            assert table.loc[("hinge", loss, 0)] == pytest.approx(1)
            gains = []
            for category in CATEGORIES:
                rows = records.curves[
                    (records.curves["category"] == category) & (records.curves["step"] == 50)
                ]
                means = rows.groupby("loss")["image_iou"].mean()
                gains.append(100 * (means[loss] - means["cross_entropy"]))
            if loss != "cross_entropy":
                assert table.loc[("gain", loss, 50)] == pytest.approx(sorted(gains)[1])
        assert "untrained" not in table.index.get_level_values("loss")

    def test_headings_state_findings(self, written: tuple[Path, Path]) -> None:
        text = (written[1] / "report.md").read_text("utf-8")
        found = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert [heading for heading in found if not any(c.isdigit() for c in heading)] == []

    def test_the_paper_stands_beside_ours(self, written: tuple[Path, Path]) -> None:
        text = (written[1] / "report.md").read_text("utf-8")
        for loss, value in (
            ("cross-entropy", "77.1"),
            ("hinge", "75.8"),
            ("Lovász hinge", r"80\.5"),
        ):
            assert re.search(rf"^\| {loss} \| [^|]* \| (\*\*)?{value}", text, re.MULTILINE)

    @pytest.mark.usefixtures("undrawn")
    def test_generated_shapes_carry_a_banner(
        self, written: tuple[Path, Path], tmp_path: Path
    ) -> None:
        runs = tmp_path / "runs"
        synthetic.write_study(runs, categories=CATEGORIES, images_per_cell=4, generated=True)
        report.write_report(runs, tmp_path / "out")
        for out, generated in ((tmp_path / "out", True), (written[1], False)):
            page = (out / "index.html").read_text("utf-8")
            assert ('class="banner"' in page) == generated
            assert ("not a result" in (out / "report.md").read_text("utf-8")) == generated


class TestIncomplete:
    """What the records lack is said where the reader looks for it."""

    def study(self, tmp_path: Path, **options: object) -> Path:
        runs = tmp_path / "runs"
        settings: dict[str, object] = {
            "categories": CATEGORIES,
            "images_per_cell": 6,
            "seeds": (0,),
            **options,
        }
        synthetic.write_study(runs, **settings)  # type: ignore[arg-type]
        return runs

    def test_a_missing_loss(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        losses = synthetic.LOSSES
        missing = [
            Cell(category, "lovasz_hinge", fold, seed)
            for category in CATEGORIES
            for fold in (0, 1)
            for seed in (0,)
        ]
        text = text_of(self.study(tmp_path, losses=losses, missing=missing))
        assert "Cells not run: 6 of 36." in text
        assert "cannot say which of the two gives the better image-IoU" in text
        assert re.search(r"^\| Lovász hinge \| missing \| \*\*80\.5\*\*", text, re.MULTILINE)

    def test_a_missing_cell_leaves_its_category_out_of_means(
        self, tmp_path: Path, text_of: Callable[[Path], str]
    ) -> None:
        text = text_of(self.study(tmp_path, missing=[CELL]))
        assert "Cells not run: 1 of 36." in text
        assert str(CELL) in text
        assert "Levels are means over 2 of 3 categories" in text
        assert "mean over 3 categories: a gain of" in text  # which does not need the hinge
        assert "1 of 2 cells" in text

    def test_no_category_is_whole(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        missing = [Cell(category, "hinge", 0, 0) for category in CATEGORIES]
        text = text_of(self.study(tmp_path, missing=missing))
        assert "No category has the same finished cells under every loss" in text
        assert "mean over 3 categories: a gain of" in text

    def test_a_rate_that_diverged(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        runs = self.study(tmp_path)
        tuning = read_json(runs / "tuning.json")
        for fold in tuning.values():
            for entry in fold.values():
                worse = [
                    {**trial, "lr": lr, "image_iou": 0.0}
                    for lr in (1e-5, 1.0)
                    for trial in entry["trials"][:3]
                ]
                entry |= {"at_edge": False, "trials": [*entry["trials"], *worse]}
        loss = next(loss for loss, entry in tuning["fold1"].items() if entry["lr"] != 0.03)
        trial = next(t for t in tuning["fold1"][loss]["trials"] if t["lr"] == 0.03)
        trial["image_iou"] = None  # one of three categories
        mixed = tuning["fold0"]["mixed"]
        best = [trial for trial in mixed["trials"] if trial["lr"] <= mixed["lr"]]
        mixed |= {"at_edge": True, "trials": best}
        write_json(runs / "tuning.json", tuning)
        text = text_of(runs)
        assert re.findall(r"^\| (.*) \| (\d) \|.*\| diverged \|", text, re.MULTILINE) == [
            (style(loss).label, "1")
        ]
        assert "lies the rate of cross-entropy + Lovász (fold 0)." in text
        assert text.count("\u00a0‡") == 1

    def test_a_failed_cell(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        text = text_of(self.study(tmp_path, failed={CELL: "loss not finite at step 30"}))
        assert "Cells that failed: 1 of 36." in text
        assert f"{CELL}: loss not finite at step 30" in text

    def test_mixed_hashes(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        runs = self.study(tmp_path, stale=[CELL])
        text = text_of(runs)
        own = read_json(runs / "study.json")["hash"][:12]
        assert f"({own}), or with another rate or number of steps than is chosen now" in text
        assert ": 1 of 36; run the study again." in text
        assert str(CELL) in text

    def test_a_nan_is_named(self, tmp_path: Path) -> None:
        runs = self.study(tmp_path)
        frame = load(runs).images.query("id == '2007_000000'").iloc[:1]
        cell = Cell(*frame.iloc[0][["category", "loss", "fold", "seed"]])
        images = synthetic.images_of(cell, 6, 0.0).assign(iou=float("nan"))
        result = read_json(runs / cell.path / "result.json")
        tables = {
            "images.csv": images,
            "curve.csv": synthetic.curve_of(cell, 300),
            "thresholds.csv": synthetic.thresholds_of(images),
        }
        write_cell(runs / cell.path, tables, result, synthetic.cost(cell))
        with pytest.raises(UserError, match=r"images\.csv: not a number in \[0, 1\] in column iou"):
            report.write_report(runs, tmp_path / "out")

    def test_without_a_gallery_there_is_no_empty_section(
        self, tmp_path: Path, text_of: Callable[[Path], str]
    ) -> None:
        text = text_of(self.study(tmp_path))
        page = (tmp_path / "out/index.html").read_text("utf-8")
        assert 'id="predictions"' not in page
        assert text.count("These records hold no pictures of predictions.") == 1

    def test_no_cells_at_all(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        runs = self.study(tmp_path, losses=("lovasz_hinge",), folds=(0,), seeds=(0,))
        for path in runs.glob("cells/*/*/*/result.json"):
            path.unlink()
        text = text_of(runs)
        assert "Cells not run: 3 of 3." in text
        assert "Needs cells trained with" in text

    def test_nothing_but_cells_and_study(
        self, tmp_path: Path, text_of: Callable[[Path], str]
    ) -> None:
        runs = self.study(tmp_path)
        for pattern in ("[!s]*.json", "base/*/*", "cells/**/cost.json"):
            for path in runs.glob(pattern):
                path.unlink()
        study = read_json(runs / "study.json")
        write_json(runs / "study.json", {**study, "config": {}, "data": {}})
        text = text_of(runs)
        for part in ("Commit", "Hardware", "Versions", "Records of", "Wall-clock"):
            assert re.search(rf"^- {part}( \(UTC\))?: not recorded$", text, re.MULTILINE)
        for part in ("Learning rates tried", "Costs", "Data lists", "over all labels"):
            assert f"{part}: not recorded." in text

    def test_a_gallery_picture_that_is_not_there(self, tmp_path: Path, undrawn: None) -> None:
        names = {"image": "a.jpg", "truth": "t.png", "outline": "o.png"}
        runs = self.study(tmp_path)
        entry = choose(load(runs).images, CATEGORIES[0])[0]
        entry |= {"width": 4, "height": 3, "overlays": {}, "iou": {}} | names
        write_json(runs / "gallery/gallery.json", {"images": [entry]})
        with pytest.raises(UserError, match=r"gallery/a\.jpg"):
            report.write_report(runs, tmp_path / "out")


class Tags(HTMLParser):
    """Every tag that a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


HOSTILE = '<script>alert("x")</script>"\'><img src=x onerror=alert(1)>|`*](javascript:alert(1))'


def test_hostile_names_are_escaped(tmp_path: Path, undrawn: None) -> None:
    runs = tmp_path / "runs"
    failed = {CELL: HOSTILE}
    synthetic.write_study(runs, categories=CATEGORIES, images_per_cell=4, failed=failed)
    write_json(runs / "machine.json", {"commit": HOSTILE, "processor": HOSTILE})
    page = report.write_report(runs, tmp_path / "out").read_text("utf-8")
    tags = Tags(page).tags
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert not [a for tag, a in tags if tag == "img" and not str(a["src"]).startswith("data:")]
    text = (tmp_path / "out/report.md").read_text("utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert "](javascript" not in text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0312, "+3.1"), (-0.0216, "−2.2"), (float("nan"), "–"), (0.0, "+0.00"),
        # Below one point two decimals: the parts of a small difference add up to it.
        (-0.0004, "−0.04"), (0.0084, "+0.84"), (0.00994, "+0.99"), (0.00996, "+1.0"),
        # An interval from just below zero includes it, and shows it; a rounding error does not.
        (-3e-5, "−0.00"), (3e-5, "+0.00"), (-1e-12, "+0.00"),
    ],
)  # fmt: skip
def test_points_have_one_sign(value: float, written: str) -> None:
    assert points(value) == written


def test_zero_bias_has_no_minus() -> None:
    assert signed(-1e-9) == "+0.00"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name, generated in (("head", False), ("demo", True), ("finetune", False)):
        runs = folder / "runs" / name
        synthetic.write_study(
            runs,
            categories=CATEGORIES,
            seeds=(0, 1) if name == "head" else (3,),
            images_per_cell=4,
            experiment=name,
            generated=generated,
        )
        archive = folder / "reports" / name / "records.zip"
        write_bytes(archive, pack(read_files(runs, load(runs))))
    return folder


class TestReadme:
    @pytest.fixture
    def reports(self, made: Path, tmp_path: Path) -> Path:
        shutil.copytree(made, tmp_path, dirs_exist_ok=True)
        return tmp_path / "reports"

    def test_a_study_of_heads_is_the_result_only_for_want_of_another(self) -> None:
        archives = {name: ROOT / f"reports/{name}/records.zip" for name in ("head", "finetune")}
        weights = {name: _weight(load(path)) for name, path in archives.items()}
        assert weights["head"][2] > weights["finetune"][2]  # cells
        assert weights["finetune"] > weights["head"]

    def test_the_result_stands_between_the_markers(self, tmp_path: Path, reports: Path) -> None:
        readme = tmp_path / "README.md"
        readme.write_text(f"# Title\n\n{BEGIN}\nformer\n{END}\n\nMore.\n", encoding="utf-8")
        (reports / "README.md").write_text(LIST, encoding="utf-8")
        report.update_readme(readme, reports)
        once = readme.read_text("utf-8")
        report.update_readme(readme, reports)
        assert readme.read_text("utf-8") == once
        assert once.startswith(f"# Title\n\n{BEGIN}\n| training loss | paper†, gain |")
        assert "\n- **The claim.** The Lovász hinge gives an image-IoU of " in once
        assert once.endswith(f"{END}\n\nMore.\n")
        assert "former" not in once
        assert "demo" not in once
        assert "[the report of `head`](reports/head/report.md)" in once
        assert "[finetune]" not in once
        assert "(reports/head/figures/gain.svg)" in once
        assert "(reports/finetune/figures/gain.svg)" not in once
        assert once.count("quoted from memory, not checked against the PDF") == 1
        listed = (reports / "README.md").read_text("utf-8")
        assert (
            "- [head](head/report.md): 3 categories, 5 training losses, 72 of 72 cells." in listed
        )
        assert "| [finetune](finetune/report.md) | seed 3 | 3 categories, 2 folds |" in listed
        assert "\n| [head]" not in listed  # it is the one that they stand beside
        assert "demo" not in listed

    def test_its_tables_hold_the_report_s_numbers(self, tmp_path: Path, reports: Path) -> None:
        readme = tmp_path / "README.md"
        readme.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
        report.update_readme(readme, reports)
        study = Study(load(reports / "head/records.zip"))
        tables = re.findall(r"((?:^\|.*\n)+)", readme.read_text("utf-8"), re.MULTILINE)
        (rows,) = ([line.split(" | ") for line in table.splitlines()[2:]] for table in tables)
        level = {style(row.row).label: row for row in study.headline.itertuples()}
        assert len(rows) == len(level) - 1
        assert "before fine-tuning, threshold chosen" not in {row[0] for row in rows}
        values = [level[row[0].removeprefix("| ")].value for row in rows]
        assert values == sorted(values, reverse=True)
        for row in rows:
            own = level[row[0].removeprefix("| ")]
            assert row[2].strip("*") == percent(own.value)
            assert re.sub(r"<sub>.*", "", row[3]).strip() == points(own.difference)
            assert row[4].strip("* |") == percent(own.present)

    def test_the_benchmarks_have_a_file_of_their_own(self, tmp_path: Path) -> None:
        readme, bench = tmp_path / "README.md", tmp_path / "reports/bench"
        readme.write_text(f"{BEGIN}{END}", encoding="utf-8")
        shutil.copytree(ROOT / "reports/bench", bench)
        (bench / "README.md").write_text(BENCH, encoding="utf-8")
        report.update_readme(readme, tmp_path / "reports")
        text = (bench / "README.md").read_text("utf-8")
        with (bench / "loss.csv").open(encoding="utf-8") as file:
            smp = next(
                row
                for row in csv.DictReader(file)
                if row["loss"] == "smp" and row["case"] == "8x321x321, hard"
            )
        assert f"| 8x321x321, hard | smp | {float(smp['milliseconds']):.2f} |" in text
        assert "| finetune-top | bare step |" in text
        before = readme.read_bytes()
        (bench / "README.md").unlink()
        with pytest.raises(UserError, match=r"bench.README\.md"):
            report.update_readme(readme, tmp_path / "reports")
        assert readme.read_bytes() == before

    def test_runs_are_compared_beside_a_larger_one_that_is_not_whole(
        self, tmp_path: Path, reports: Path
    ) -> None:
        """README's result is the larger one; the table of runs holds whole ones alone."""
        runs = tmp_path / "runs/begun"
        shutil.copytree(tmp_path / "runs/head", runs)
        synthetic.write_study(
            runs, categories=(*CATEGORIES, "train"), images_per_cell=4, experiment="begun"
        )
        (runs / CELL.path / "result.json").unlink()
        write_bytes(reports / "begun/records.zip", pack(read_files(runs, load(runs))))
        readme = tmp_path / "README.md"
        readme.write_text(f"{BEGIN}{END}")
        (reports / "README.md").write_text(LIST, encoding="utf-8")
        report.update_readme(readme, reports)
        assert "[the report of `begun`]" in readme.read_text("utf-8")
        listed = (reports / "README.md").read_text("utf-8")
        assert "| [finetune](finetune/report.md) | seed 3 | 3 categories, 2 folds |" in listed
        assert "| [begun]" not in listed

    def test_without_reports_it_says_so(self, tmp_path: Path) -> None:
        readme = tmp_path / "README.md"
        readme.write_text(f"{BEGIN}{END}")
        report.update_readme(readme, tmp_path / "reports")
        assert "No results" in readme.read_text("utf-8")

    @pytest.mark.parametrize("content", ["", BEGIN, f"{END}{BEGIN}"])
    def test_without_markers_it_is_an_error(self, tmp_path: Path, content: str) -> None:
        readme = tmp_path / "README.md"
        readme.write_text(content)
        with pytest.raises(UserError, match="README"):
            report.update_readme(readme, tmp_path)
        assert readme.read_text() == content


def test_links_of_committed_reports_lead_somewhere() -> None:
    assert sorted(SHIPPED) == sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
    for path in ROOT.glob("reports/*/report.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
            assert (path.parent / link).exists(), f"{path}: {link}"


@pytest.mark.parametrize(
    "archive", sorted(ROOT.glob("reports/*/records.zip")), ids=lambda path: path.parent.name
)
def test_committed_reports_follow_from_their_records(
    archive: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Texts to the byte, tables to rounding, which depends on the processor. A figure's bytes are
    those of one version of matplotlib; a report of each kind is drawn, for errors."""
    if archive.parent.name not in ("finetune", "multiclass"):
        request.getfixturevalue("undrawn")
    report.write_report(archive, tmp_path)
    committed = archive.parent
    for name in ("report.md", "records.zip"):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name
    for path in committed.glob("tables/*"):
        again = pd.read_csv(tmp_path / "tables" / path.name)
        pd.testing.assert_frame_equal(again, pd.read_csv(path), rtol=1e-8, atol=1e-9)


@pytest.mark.slow
def test_the_committed_comparison_follows_from_its_reports(tmp_path: Path, undrawn: None) -> None:
    committed = ROOT / "reports/compare"
    text = (committed / "report.md").read_text("utf-8")
    names = re.findall(r"^- (\w+): \d+ of \d+ cells", text, re.MULTILINE)
    documents = (ROOT / "reports/README.md").read_text("utf-8").replace("\\\n    ", "")
    assert f"--compare {' '.join(f'reports/{name}' for name in names)}\n" in documents
    report.write_comparison([ROOT / "reports" / name for name in names], tmp_path)
    again = (tmp_path / "report.md").read_text("utf-8")
    assert re.sub(r"\]\(\S*?(\w+/report\.md)\)", r"](../\1)", again) == text
    for path in committed.glob("tables/*"):
        table = pd.read_csv(tmp_path / "tables" / path.name)
        pd.testing.assert_frame_equal(table, pd.read_csv(path), rtol=1e-8, atol=1e-9)


def test_generated_texts_follow_from_the_committed_records(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    report.update_readme(readme, tmp_path / "reports")
    for name in ("README.md", "reports/README.md", "reports/bench/README.md"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), name
