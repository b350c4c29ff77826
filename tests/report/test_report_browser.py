"""The page in a real browser, from a file and from a server, at desktop and phone width."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lovasz_repro.data.voc import VOC
from lovasz_repro.report import write_report
from lovasz_repro.report.gallery import write_gallery
from tests.helpers import photographs, synthetic

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="needs chromium (or google-chrome) and chromedriver on the PATH",
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DESKTOP, PHONE = (1280, 900), (390, 844)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    runs = root / "runs"
    synthetic.write_study(
        runs, categories=synthetic.CATEGORIES[:4], images_per_cell=8, seeds=(0,), generated=True
    )
    photographs.write_predictions(runs)
    write_gallery(runs, VOC(photographs.write_voc(runs, root / "voc")))
    return write_report(runs, root / "out")


@pytest.fixture(scope="module")
def server(page: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(page.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/index.html"
        http.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(request: pytest.FixtureRequest, browser: Any, page: Path, server: str) -> Any:
    """The page just loaded, from its file or the server; its log holds this load alone."""
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    resize(browser, DESKTOP)
    from_file = getattr(request, "param", "file") == "file"
    browser.get(page.as_uri() if from_file else server)
    return browser


either_place = pytest.mark.parametrize("opened", ["file", "server"], indirect=True)


def resize(browser: Any, size: tuple[int, int]) -> None:
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def column(browser: Any, table: str, place: int) -> list[str]:
    """The texts of a table's column, from above."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].map(cell => cell.innerText.trim())"
    )
    return list(browser.execute_script(script, f"#{table} tbody tr > :nth-child({place})"))


@either_place
def test_no_errors_and_no_request_leaves_the_page(opened: Any) -> None:
    requests = [
        message["params"]["request"]["url"]
        for entry in opened.get_log("performance")
        for message in [json.loads(entry["message"])["message"]]
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith("data:")] == [opened.current_url]
    assert opened.get_log("browser") == []


@either_place
def test_all_images_load_and_have_a_text(opened: Any) -> None:
    images = opened.execute_async_script(
        "const done = arguments[0], images = [...document.images];"
        "Promise.allSettled(images.map(image => image.decode()))"
        ".then(() => done(images.map(image => [image.naturalWidth, image.alt])));"
    )
    assert len(images) > 40
    assert [text for width, text in images if not width or not text] == []
    backgrounds = opened.execute_script(
        "return [...document.querySelectorAll('.photo.bare')]"
        ".map(tile => [getComputedStyle(tile).backgroundImage.slice(0, 16), tile.ariaLabel])"
    )
    assert len(backgrounds) == 12
    assert all(image == 'url("data:image/' and label for image, label in backgrounds)


def press(button: Any, by_key: bool) -> None:
    if by_key:
        button.send_keys(Keys.ENTER)
    else:
        button.click()


@pytest.mark.parametrize("by_key", [False, True], ids=["click", "keyboard"])
def test_tables_sort(opened: Any, by_key: bool) -> None:
    # The first column of levels, behind the difference and its p value.
    before = column(opened, "categories", 4)
    heading = opened.find_element(By.CSS_SELECTOR, "#categories thead th:nth-child(4)")
    button = heading.find_element(By.TAG_NAME, "button")
    ascending = sorted(before, key=float)
    assert before != ascending
    press(button, by_key)
    assert column(opened, "categories", 4) == ascending
    assert heading.get_attribute("aria-sort") == "ascending"
    press(button, by_key)
    assert column(opened, "categories", 4) == ascending[::-1]
    assert heading.get_attribute("aria-sort") == "descending"


def test_text_columns_sort_too(opened: Any) -> None:
    button = opened.find_element(By.CSS_SELECTOR, "#image-iou thead th button")
    button.click()
    names = column(opened, "image-iou", 1)
    assert names == sorted(names, key=str.lower)


def test_the_slider_moves_the_edge(opened: Any) -> None:
    slider = opened.find_element(By.CSS_SELECTOR, ".compare input")
    edge = opened.find_element(By.CSS_SELECTOR, ".compare .edge")
    before = edge.rect["x"]
    slider.send_keys(Keys.HOME)
    assert edge.rect["x"] < before - 50


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_never_scrolls_sideways(opened: Any, size: tuple[int, int]) -> None:
    resize(opened, size)
    width = opened.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    outside = opened.execute_script(
        "return [...document.querySelectorAll('main *')].filter(node => !node.closest('.scroll')"
        " && node.getBoundingClientRect().right > innerWidth + 1).map(node => node.outerHTML)"
    )
    assert outside == []


def test_figures_stay_readable_on_a_phone(opened: Any) -> None:
    """They scroll within their frame instead of shrinking to its width."""
    resize(opened, PHONE)
    script = "return document.querySelector('#gain img').getBoundingClientRect().width"
    assert opened.execute_script(script) > 1.4 * PHONE[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(opened: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ink, paper = (
        [int(part) for part in color[4:-1].split(",")]
        for color in opened.execute_script(
            "const style = getComputedStyle(document.body);"
            "return [style.color, style.backgroundColor]"
        )
    )
    assert (sum(ink) < sum(paper)) == (scheme == "light")
    assert contrast(ink, paper) > 7


def contrast(one: list[int], other: list[int]) -> float:
    """WCAG's ratio of two sRGB colours."""

    def luminance(color: list[int]) -> float:
        parts = [c / 255 for c in color]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
