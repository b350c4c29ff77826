"""The report: same bytes from same records, what is missing is said, what is hostile is escaped."""

from __future__ import annotations

import csv
import itertools
import json
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

import photographs
import pytest
import synthetic

from lovasz_repro import report
from lovasz_repro.errors import UserError
from lovasz_repro.gallery import write_gallery
from lovasz_repro.records import Cell, load, write_bytes, write_cell
from lovasz_repro.report import drawing
from lovasz_repro.report.archive import pack, read_files
from lovasz_repro.report.document import points, signed
from lovasz_repro.voc import VOC

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
CATEGORIES = synthetic.CATEGORIES[:3]
CELL = Cell("bicycle", "hinge", 1, 0)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole study with a gallery, and its report."""
    root = tmp_path_factory.mktemp("whole")
    runs = root / "runs"
    synthetic.write_study(runs, categories=CATEGORIES, images_per_cell=12)
    photographs.write_predictions(runs)
    write_gallery(runs, VOC(photographs.write_voc(runs, root / "voc")))
    report.write_report(runs, root / "out")
    return runs, root / "out"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are rendered in the tests that look at them; the others need not wait for it."""
    monkeypatch.setattr(drawing, "_svg", lambda figure: b"<svg/>")
    monkeypatch.setattr(drawing, "_png", lambda figure: b"png")


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

    def test_from_the_same_folder(
        self, written: tuple[Path, Path], tmp_path: Path, undrawn: None
    ) -> None:
        for name in ("once", "again"):
            report.write_report(written[0], tmp_path / name)
        assert files(tmp_path / "once") == files(tmp_path / "again")

    def test_the_archive_holds_the_records_and_no_more(self, written: tuple[Path, Path]) -> None:
        runs, out = written
        with zipfile.ZipFile(out / "records.zip") as archive:
            names = archive.namelist()
            content = {name: archive.read(name) for name in names}
        assert names == sorted(names)
        assert not [name for name in names if name.endswith((".npz", ".pt"))]
        assert {name: (runs / name).read_bytes() for name in names} == content
        assert load(out / "records.zip").images.equals(load(runs).images)

    def test_what_an_older_report_left_is_gone(
        self, written: tuple[Path, Path], tmp_path: Path, undrawn: None
    ) -> None:
        for name in ("figures/old.svg", "tables/old.csv", "notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("old")
        report.write_report(written[0], tmp_path)
        assert not {"figures/old.svg", "tables/old.csv"} & files(tmp_path).keys()
        assert (tmp_path / "notes.txt").read_text() == "old"


class TestContent:
    def test_sections_come_in_order(self, written: tuple[Path, Path]) -> None:
        page = (written[1] / "index.html").read_text("utf-8")
        assert re.findall(r'<section id="([\w-]+)"', page) == [
            "answer",
            "table-1",
            "by-category",
            "training",
            "sources",
            "predictions",
            "surrogates",
            "practice",
        ]

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
        assert all((a or b).startswith(("data:", "#")) for a, b in sources)

    def test_markdown_links_are_there(self, written: tuple[Path, Path]) -> None:
        out = written[1]
        links = re.findall(r"\]\(([^)]+)\)", (out / "report.md").read_text("utf-8"))
        assert len(links) > 10
        assert all((out / link).is_file() for link in links)

    def test_figures_are_xml_without_a_date(self, written: tuple[Path, Path]) -> None:
        figures = sorted((written[1] / "figures").glob("*.svg"))
        assert len(figures) == 9
        for path in figures:
            ElementTree.fromstring(path.read_text("utf-8"))
            assert "<dc:date>" not in path.read_text("utf-8")
            assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    def test_the_answer_holds_the_table_s_numbers(self, written: tuple[Path, Path]) -> None:
        out = written[1]
        with (out / "tables/image-iou.csv").open(encoding="utf-8") as file:
            value = {row["loss"]: float(row["value"]) for row in csv.DictReader(file)}
        answer = (out / "report.md").read_text("utf-8").split("\n\n")[2]
        assert f"{100 * value['lovasz_hinge']:.1f}\u00a0%" in answer
        assert f"{100 * value['cross_entropy']:.1f}\u00a0%" in answer
        assert "quoted from memory, not checked against the PDF" in answer

    def test_the_paper_stands_beside_ours(self, written: tuple[Path, Path]) -> None:
        text = (written[1] / "report.md").read_text("utf-8")
        for loss, value in (
            ("cross-entropy", "77.1"),
            ("hinge", "75.8"),
            ("Lovász hinge", r"80\.5"),
        ):
            assert re.search(rf"^\| {loss} \| (\*\*)?{value}", text, re.MULTILINE)

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
        assert "Cells not run: 6 of 30." in text
        assert "cannot say which of the two gives the better image-IoU" in text
        assert re.search(r"^\| Lovász hinge \| \*\*80\.5\*\* \| missing", text, re.MULTILINE)

    def test_a_missing_cell_leaves_its_category_out_of_means(
        self, tmp_path: Path, text_of: Callable[[Path], str]
    ) -> None:
        text = text_of(self.study(tmp_path, missing=[CELL]))
        assert "Cells not run: 1 of 30." in text
        assert str(CELL) in text
        assert "Levels are means over 2 of 3 categories" in text
        assert "mean over 3 categories: a difference of" in text  # which does not need the hinge
        assert "1 of 2 cells" in text

    def test_no_category_is_whole(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        missing = [Cell(category, "hinge", 0, 0) for category in CATEGORIES]
        text = text_of(self.study(tmp_path, missing=missing))
        assert "No category has the same finished cells under every loss" in text
        assert "mean over 3 categories: a difference of" in text

    def test_a_rate_that_diverged(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        runs = self.study(tmp_path)
        rates = json.loads((runs / "learning_rates.json").read_text())
        rates["hinge"]["curve"][3]["image_iou"] = None
        rates["hinge"] |= {"chosen": 0.01, "at_edge": False}
        rates["mixed"] |= {"chosen": 0.001, "at_edge": True}
        (runs / "learning_rates.json").write_text(json.dumps(rates))
        text = text_of(runs)
        assert re.search(r"^\| hinge \|.*\| diverged \|$", text, re.MULTILINE)
        assert "The rate of cross-entropy + Lovász lies at the edge of what was tried." in text

    def test_a_failed_cell(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        text = text_of(self.study(tmp_path, failed={CELL: "loss not finite at step 30"}))
        assert "Cells that failed: 1 of 30." in text
        assert f"{CELL}: loss not finite at step 30" in text

    def test_mixed_hashes(self, tmp_path: Path, text_of: Callable[[Path], str]) -> None:
        text = text_of(self.study(tmp_path, stale=[CELL]))
        assert "(5ca1ab1e): 1 of 30; run the study again." in text
        assert str(CELL) in text

    def test_a_truncated_table_is_named(self, tmp_path: Path) -> None:
        runs = self.study(tmp_path)
        table = runs / CELL.path / "images.csv"
        table.write_bytes(table.read_bytes()[:-20])
        with pytest.raises(UserError, match=re.escape(str(table))):
            report.write_report(runs, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_nan_is_named(self, tmp_path: Path) -> None:
        runs = self.study(tmp_path)
        frame = load(runs).images.query("id == '2007_000000'").iloc[:1]
        cell = Cell(*frame.iloc[0][["category", "loss", "fold", "seed"]])
        images = synthetic.images_of(cell, 6, 0.0).assign(iou=float("nan"))
        result = json.loads((runs / cell.path / "result.json").read_text())
        curve = synthetic.curve_of(cell, 300)
        write_cell(runs / cell.path, images, curve, result, {})
        with pytest.raises(UserError, match=r"images\.csv: not a finite number in column iou"):
            report.write_report(runs, tmp_path / "out")

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
        study = json.loads((runs / "study.json").read_text())
        (runs / "study.json").write_text(json.dumps({**study, "config": {}, "data": {}}))
        text = text_of(runs)
        for part in ("Commit", "Hardware", "Versions", "Records of", "Wall-clock"):
            assert re.search(rf"^- {part}( \(UTC\))?: not recorded$", text, re.MULTILINE)
        for part in ("Learning rates tried", "Costs", "Data lists", "mean IoU"):
            assert f"{part}: not recorded." in text

    def test_a_gallery_picture_that_is_not_there(self, tmp_path: Path, undrawn: None) -> None:
        names = {"image": "a.jpg", "truth": "t.png", "outline": "o.png"}
        entry = {"category": "bird", "id": "1", "rule": "median", "fold": 0, "seed": 0, "gain": 0.1}
        entry |= {"width": 4, "height": 3, "overlays": {}, "iou": {}} | names
        runs = self.study(tmp_path, gallery=[entry])
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
    study = json.loads((runs / "study.json").read_text())
    study["experiment"] = HOSTILE
    study["data"]["lists"] = {HOSTILE: {"images": 1, "sha256": HOSTILE}}
    (runs / "study.json").write_text(json.dumps(study))
    (runs / "machine.json").write_text(json.dumps({"commit": HOSTILE, "processor": HOSTILE}))
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
    [(0.0312, "+3.1"), (-0.0004, "+0.0"), (-0.0216, "−2.2"), (float("nan"), "–")],
)
def test_points_have_one_sign_and_no_negative_zero(value: float, written: str) -> None:
    assert points(value) == written


def test_zero_bias_has_no_minus() -> None:
    assert signed(-1e-9) == "+0.00"


class TestReadme:
    @pytest.fixture
    def reports(self, tmp_path: Path) -> Path:
        for name, generated in (("head", False), ("demo", True), ("finetune", False)):
            runs = tmp_path / "runs" / name
            synthetic.write_study(
                runs,
                categories=CATEGORIES,
                seeds=(0,),
                images_per_cell=4,
                experiment=name,
                generated=generated,
            )
            archive = tmp_path / "reports" / name / "records.zip"
            write_bytes(archive, pack(read_files(runs, load(runs))))
        return tmp_path / "reports"

    def test_the_table_stands_between_the_markers(self, tmp_path: Path, reports: Path) -> None:
        readme = tmp_path / "README.md"
        readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nMore.\n", encoding="utf-8")
        report.update_readme(readme, reports)
        once = readme.read_text("utf-8")
        report.update_readme(readme, reports)
        assert readme.read_text("utf-8") == once
        assert once.startswith(f"# Title\n\n{BEGIN}\n| training loss | paper (quoted) |")
        assert once.endswith(f"{END}\n\nMore.\n")
        assert "old" not in once
        assert "demo" not in once
        assert "[head](reports/head/report.md)" in once
        assert "(reports/finetune/figures/gain.svg)" in once
        assert "quoted from memory, not checked against the PDF" in once

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


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "archive", sorted(ROOT.glob("reports/*/records.zip")), ids=lambda path: path.parent.name
)
def test_committed_reports_follow_from_their_records(archive: Path, tmp_path: Path) -> None:
    """Texts and tables to the byte; a figure's bytes are those of one version of matplotlib."""
    report.write_report(archive, tmp_path)
    committed = archive.parent
    names = ["report.md", "records.zip", *(f"tables/{p.name}" for p in committed.glob("tables/*"))]
    for name in names:
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name


def test_the_readme_follows_from_the_committed_records(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    report.update_readme(readme, tmp_path / "reports")
    assert readme.read_bytes() == (ROOT / "README.md").read_bytes()


@pytest.mark.slow
def test_a_thousand_cells(tmp_path: Path) -> None:
    """The size that issue and design ask for; time and memory are measured by hand."""
    runs = tmp_path / "runs"
    synthetic.write_study(
        runs, categories=synthetic.CATEGORIES, seeds=range(5), images_per_cell=140
    )
    report.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text("utf-8")
    assert "1000 of 1000 cells" in text
    assert "mean over 20 categories" in text
