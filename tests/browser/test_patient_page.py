"""The page for one patient in a real browser: it computes as one types and keeps nothing."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from sagittal_risk.page import patient_page
from sagittal_risk.patients import Patients

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    binary = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        raise RuntimeError("browser tests need chromium ($CHROME) and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield running
    running.quit()


def fill(browser: WebDriver, **fields: str) -> None:
    for name, value in fields.items():
        one = browser.find_element(By.NAME, name)
        if one.tag_name == "select":
            Select(one).select_by_value(value)
        else:
            one.clear()
            one.send_keys(value)


def row(browser: WebDriver, equation: str, body: str = "risks") -> list[str]:
    for line in browser.find_elements(By.CSS_SELECTOR, f"#{body} tr"):
        cells = [cell.text for cell in line.find_elements(By.TAG_NAME, "td")]
        if cells[0] == equation:
            return cells
    return []


def wait(browser: WebDriver, condition: object) -> None:
    # An update replaces rows: one that went stale in between is looked up again.
    from selenium.common.exceptions import StaleElementReferenceException

    WebDriverWait(browser, 10, ignored_exceptions=[StaleElementReferenceException]).until(condition)


def test_a_patient_is_scored_as_one_types(browser: WebDriver) -> None:
    with patient_page() as local:
        browser.get(local.address)
        wait(browser, lambda b: "not known: age" in row(b, "prevent_cvd_10y")[4])
        fill(browser, age="50", sex="female", total_cholesterol="200", hdl_cholesterol="45")
        fill(browser, systolic="160", bmi="35", egfr="90", diabetes="1", smoker="0")
        fill(browser, bp_treated="1", statin="0")
        wait(browser, lambda b: row(b, "prevent_cvd_10y")[3] == "14.7 %")
        fill(browser, systolic="220")
        wait(browser, lambda b: "out of range: systolic" in row(b, "prevent_cvd_10y")[4])
        fill(browser, systolic="high")
        error = (By.ID, "error")
        wait(browser, lambda b: "a number" in b.find_element(*error).text)
        fill(browser, systolic="160")
        wait(browser, lambda b: row(b, "prevent_cvd_10y")[3] == "14.7 %")
        assert browser.find_element(*error).text == ""
        assert not row(browser, "prevent_hba1c_cvd_10y")
        fill(browser, hba1c="9.2")
        wait(browser, lambda b: (row(b, "prevent_hba1c_cvd_10y") or [""] * 4)[3] == "16.5 %")
        fill(browser, egfr="", creatinine="0.8")
        wait(browser, lambda b: "eGFR 90 from creatinine" in b.find_element(By.ID, "egfr").text)
        assert not [
            e
            for e in browser.get_log("browser")
            if "favicon" not in e["message"] and "400" not in e["message"]
        ]
        stored = browser.execute_script("return localStorage.length + sessionStorage.length")
        assert (stored, browser.get_cookies()) == (0, [])
        browser.refresh()
        wait(browser, lambda b: "not known: age" in row(b, "prevent_cvd_10y")[4])


class SlowModel:
    """Stands for a language model: its answers take their time, and come one at a time."""

    def __init__(self) -> None:
        self.busy, self.most = 0, 0

    def ask(self, patient: Patients) -> dict[str, Any]:
        self.busy += 1
        self.most = max(self.most, self.busy)
        threading.Event().wait(0.2)
        self.busy -= 1
        age = float(patient.columns["age"][0])
        risk = None if np.isnan(age) else age / 1000
        return {"equation": "model:tiny", "outcome": "CVD", "years": None, "risk": risk,
                "notes": "answer mass 0.98", "sound": True}  # fmt: skip


def test_a_model_is_asked_one_question_at_a_time_and_ends_with_the_latest(
    browser: WebDriver,
) -> None:
    model = SlowModel()
    with patient_page(model=model) as local:  # type: ignore[arg-type]
        browser.get(local.address)
        wait(browser, lambda b: row(b, "model:tiny", "model"))
        fill(browser, systolic="120", bmi="24", age="57")
        wait(browser, lambda b: row(b, "model:tiny", "model")[3] == "5.7 %")
        shown = row(browser, "model:tiny", "model")
        assert shown[1:] == ["CVD", "", "5.7 %", "answer mass 0.98"]
        assert row(browser, "pce")
        assert model.most == 1


def test_a_page_that_outlives_its_program_says_so(browser: WebDriver) -> None:
    with patient_page() as local:
        browser.get(local.address)
        wait(browser, lambda b: row(b, "pce"))
    fill(browser, age="50")
    wait(browser, lambda b: "start it again" in b.find_element(By.ID, "error").text)
