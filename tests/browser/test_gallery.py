"""The gallery in a real browser: it filters, ranks, shows pictures, loads nothing, runs no name."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select

sys.path.insert(0, str(Path(__file__).parents[1] / "genai"))
from concept_data import NAMES, make

from sagittal_genai.cli import run
from sagittal_genai.concepts.features import Rows, choose
from sagittal_genai.concepts.gallery import Card, Page, write_gallery
from sagittal_genai.concepts.table import ConceptTable

pytestmark = pytest.mark.browser

ATTACKS = [
    "<script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title = 'owned'\">",
    '"><svg onload="document.title = \'owned\'">',
    "' autofocus onfocus='document.title = 1' x='",
    "</article></main></title><script>document.title = 'owned'</script>",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    binary = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        raise RuntimeError("browser tests need chromium ($CHROME) and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,1100")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield running
    running.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where explain wrote its gallery, for tokens, so that places are marked."""
    path = tmp_path_factory.mktemp("gallery")
    made = make(path / "data", tokens=True)
    arguments = ["--store", str(made.store), "--codes", str(made.codes)]
    arguments += ["--slices", str(made.slices), "--out", str(path / "out"), "--features", "20"]
    assert run(["explain", *arguments]) == 0
    assert run(["search", "liver", "--explained", str(path / "out")]) == 0
    return path / "out"


def opened(browser: WebDriver, file: Path) -> WebDriver:
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what earlier pages left
    browser.get(file.as_uri())
    return browser


def heads(browser: WebDriver) -> list[str]:
    """Names of the cards that can be seen, in their order on the page."""
    found = browser.find_elements(By.CSS_SELECTOR, "article h2")
    return [head.text for head in found if head.is_displayed()]


def expect_quiet(browser: WebDriver, page: Path) -> None:
    """No word on the console, and nothing asked for but the page itself."""
    assert browser.get_log("browser") == []
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]


def test_typing_filters_and_ranks(browser: WebDriver, folder: Path) -> None:
    page = opened(browser, folder / "gallery.html")
    assert sorted(heads(page)) == sorted([*NAMES, "unnamed"])
    field = page.find_element(By.ID, "query")
    field.send_keys("axial l")  # half a word on its way to liver
    assert heads(page)[0] == "axial"
    assert "liver" in heads(page)
    field.send_keys("iver")
    assert set(heads(page)[:2]) == {"axial", "liver"}
    assert "heart" not in heads(page)[:2]
    shown = page.find_element(By.ID, "count").text
    assert shown == f"{len(heads(page))} of {len(NAMES) + 1} features"
    field.clear()
    field.send_keys("pneumothorax")
    assert heads(page) == []
    assert page.find_element(By.CSS_SELECTOR, ".none").is_displayed()
    expect_quiet(page, folder / "gallery.html")


def test_order_and_filter(browser: WebDriver, folder: Path) -> None:
    page = opened(browser, folder / "gallery.html")
    for key in ("density", "monosemanticity"):
        Select(page.find_element(By.ID, "order")).select_by_value(key)
        cards = page.find_elements(By.CSS_SELECTOR, "article")
        values = [float(card.get_attribute(f"data-{key}")) for card in cards]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) > 3
    assert "unnamed" in heads(page)
    page.find_element(By.ID, "named").click()
    assert sorted(heads(page)) == sorted(NAMES)


def test_pictures_are_really_there(browser: WebDriver, folder: Path) -> None:
    for name, count in (("gallery.html", 10 * (len(NAMES) + 1)), ("search.html", 10)):
        page = opened(browser, folder / name)
        sizes = page.execute_script(
            "return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])"
        )
        assert len(sizes) == count
        assert all(complete and natural >= 24 and width > 20 for complete, natural, width in sizes)
        expect_quiet(page, folder / name)


def test_light_and_dark_can_be_read(browser: WebDriver, folder: Path) -> None:
    """The contrast of text and soft text on their card is that of WCAG AA, 4.5."""
    for scheme in ("light", "dark"):
        emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
        page = opened(browser, folder / "gallery.html")
        for selector in ("article h2", ".number", ".measures b", ".measures"):
            ink, card = page.execute_script(
                "const e = document.querySelector(arguments[0]), a = e.closest('article');"
                "return [getComputedStyle(e).color, getComputedStyle(a).backgroundColor]",
                selector,
            )
            assert contrast(ink, card) > 4.5, (scheme, selector)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(first: str, second: str) -> float:
    light = []
    for colour in (first, second):
        parts = [int(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(light) / min(light)


def test_a_narrow_window_does_not_scroll_sideways(browser: WebDriver, folder: Path) -> None:
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page = opened(browser, folder / "gallery.html")
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_are_text_whatever_they_hold(browser: WebDriver, tmp_path: Path) -> None:
    made = make(tmp_path / "data")
    from sagittal_genai.codes import CodeStore

    rows = Rows(CodeStore(made.codes).csr(), made.index, "test", made.store)
    features, _ = choose(rows, ConceptTable(made.index), len(ATTACKS))
    cards = [
        Card(feature, attack, source=attack, rule=attack, bars=[(attack, 0.9, 0.1)])
        for feature, attack in zip(features, ATTACKS, strict=True)
    ]
    file = tmp_path / "attack.html"
    everywhere = Page(ATTACKS[4], ATTACKS[0], [(ATTACKS[1], ATTACKS[2])], ATTACKS)
    write_gallery(file, everywhere, cards, None)
    page = opened(browser, file)
    assert sorted(heads(page)) == sorted(ATTACKS)
    assert page.title == ATTACKS[4]
    page.find_element(By.ID, "query").send_keys("svg")
    assert heads(page) == [ATTACKS[2]]
    assert page.title == ATTACKS[4]
    assert page.find_elements(By.CSS_SELECTOR, "article script, article svg, article img") == []
    assert len(page.find_elements(By.TAG_NAME, "script")) == 1
    expect_quiet(page, file)
