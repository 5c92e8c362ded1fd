"""The HTML report in a real Chromium: it loads without a complaint or a request, fits, and prints."""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autobatch.reports.html import document, notebook
from tests.golden.test_text_report import CASES

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TELEPHONE, DESK = 375, 1280
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its chromedriver on the PATH (Debian: chromium and chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing (the extra `browser`)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def show(browser: Any, page: Path, *, width: int, scheme: str = "light", media: str = "screen") -> None:
    """Loads a page as a screen of this width, or as paper, would show it."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == TELEPHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())


def requests(browser: Any) -> list[str]:
    """The addresses that the page asked for since it was shown; a browser's own start page asks too."""
    told = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    sent = [one["params"] for one in told if one["method"] == "Network.requestWillBeSent"]
    return [one["request"]["url"] for one in sent if not one["documentURL"].startswith("chrome://")]


def colours(browser: Any) -> tuple[str, str]:
    script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    ink, page = browser.execute_script(script)
    return ink, page


def written(folder: Path, name: str) -> Path:
    path = folder / f"{name}.html"
    path.write_text(document.render(CASES[name]()), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CASES)
def test_a_page_loads_without_a_complaint_or_a_request_and_fits(
    browser: Any, tmp_path: Path, name: str
) -> None:
    path = written(tmp_path, name)
    seen = set()
    for width in (TELEPHONE, DESK):
        for scheme in ("light", "dark"):
            show(browser, path, width=width, scheme=scheme)
            assert browser.get_log("browser") == []
            assert requests(browser) == [path.as_uri()]
            wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            needed, there = browser.execute_script(wide)
            assert needed <= there <= width
            seen.add(colours(browser))
            if folder := os.environ.get("AUTOBATCH_SCREENSHOTS"):
                browser.get_screenshot_as_file(f"{folder}/{name}-{width}-{scheme}.png")
    assert len(seen) == 2


def test_what_is_on_the_page_is_seen(browser: Any, tmp_path: Path) -> None:
    """Letters have a height, charts lie within their cards, and the answer is the largest text."""
    show(browser, written(tmp_path, "checked"), width=TELEPHONE)
    script = """
    const size = one => parseFloat(getComputedStyle(one).fontSize);
    const seen = [...document.querySelectorAll('svg.chart')].filter(one => one.getClientRects().length > 0);
    const texts = seen.map(one =>
      Math.min(...[...one.querySelectorAll('text')].map(t => t.getBoundingClientRect().height)));
    const all = [...document.querySelectorAll('body *')].filter(one => one.children.length === 0);
    const largest = all.reduce((a, b) => size(b) > size(a) ? b : a);
    const outside = seen.flatMap(one => [...one.querySelectorAll('text')]).filter(one => {
      const own = one.getBoundingClientRect();
      return own.left < 0 || own.right > innerWidth;
    });
    return [texts, largest.textContent, outside.length];
    """
    heights, largest, outside = browser.execute_script(script)
    # Time, two of losses, throughput and memory; a telephone shows the narrow chart of the time alone.
    assert len(heights) == 5
    assert min(heights) >= 10
    assert largest == "32"
    assert outside == 0


def test_paper_is_light_and_shows_all_columns(browser: Any, tmp_path: Path) -> None:
    path = written(tmp_path, "checked")
    show(browser, path, width=DESK, scheme="light")
    ink, _ = colours(browser)
    # A4 without its margins, at 96 pixels an inch.
    show(browser, path, width=688, scheme="dark", media="print")
    assert colours(browser)[0] == ink
    script = """
    const shown = selector =>
      [...document.querySelectorAll(selector)].every(one => one.offsetParent !== null);
    return [shown('.rare'), shown('.card.raw'), document.documentElement.scrollWidth];
    """
    rare, raw, width = browser.execute_script(script)
    assert rare
    assert not raw
    assert width <= 688
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    pdf = b64decode(printed["data"])
    assert pdf.startswith(b"%PDF-")
    assert 1 <= pdf.count(b"/Type /Page\n") <= 6
    if folder := os.environ.get("AUTOBATCH_SCREENSHOTS"):
        Path(folder, "checked.pdf").write_bytes(pdf)


def test_no_script_in_a_name_runs(browser: Any, tmp_path: Path) -> None:
    attack = "</title><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
    found = CASES["checked"]()
    found = replace(found, why=attack, warnings=(attack,), workload=replace(found.workload, model=attack))
    path = tmp_path / "page.html"
    path.write_text(document.render(found), encoding="utf-8")
    show(browser, path, width=DESK)
    assert browser.execute_script("return window.ran === undefined && document.images.length === 0")
    assert attack in browser.execute_script("return document.querySelector('.fact').textContent")
    assert requests(browser) == [path.as_uri()]


def test_a_fragment_leaves_the_notebook_as_it_is(browser: Any, tmp_path: Path) -> None:
    """The computed styles of a page around it are the same with and without it."""
    around = (
        "<!doctype html><meta charset=utf-8><style>body { background: #111; color: #eee; font: 14px serif }"
        " .use { color: red } table { color: blue }</style>"
        "<h1>t</h1><p class=use>p</p><table><tr><td>x</table>"
    )
    script = """
    return [...document.querySelectorAll('body, h1, body > p, body > table, body > table td')].map(one =>
      [...getComputedStyle(one)].filter(name => !/height|block-size|origin/.test(name))
        .map(name => getComputedStyle(one)[name]).join());
    """
    styles = []
    for number, more in enumerate(("", notebook.render(CASES["checked"]()))):
        path = tmp_path / f"{number}.html"
        path.write_text(around + more, encoding="utf-8")
        show(browser, path, width=DESK)
        styles.append(browser.execute_script(script))
    assert len(styles[0]) == 5
    assert styles[0] == styles[1]
    answer = "return getComputedStyle(document.querySelector('.autobatch-use')).color"
    assert browser.execute_script(answer) == "rgb(238, 238, 238)"
