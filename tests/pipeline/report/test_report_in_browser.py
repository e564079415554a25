"""The report in a headless Chromium: every image is there, nothing else is asked for, nothing foreign runs."""

import json
import re
from pathlib import Path

import pytest

from pipeline.report import charts
from pipeline.report.page import render_report, write_page
from tests.browser import Browser
from tests.pipeline.report_page import HOSTILE, PER_SAMPLE, PICTURES, REPORT, SPACES


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, render_report(**REPORT))
    return path


def texts(browser: Browser, selector: str) -> list[str]:
    cells = f"[...document.querySelectorAll({json.dumps(selector)})].map(element => element.innerText.trim())"
    return list(browser.evaluate(cells))


def test_a_browser_shows_every_image_and_asks_for_nothing_else(browser, report):
    browser.open(report)
    of_gallery = "[...document.querySelectorAll('article:not(.edited) img')]"
    widths = browser.evaluate(f"{of_gallery}.map(image => image.complete ? image.naturalWidth : 0)")
    assert len(widths) == len(PICTURES) * (sum(PER_SAMPLE.values()) + 1) - 1
    assert min(widths) > 0
    assert browser.requests() == [report.as_uri()]
    assert browser.complaints() == []


def test_a_browser_runs_nothing_that_came_with_a_sample(browser, report):
    browser.open(report)
    assert browser.evaluate("window.owned ?? null") is None
    assert browser.evaluate("document.scripts.length") == 1
    assert browser.evaluate("document.querySelectorAll('img:not([alt]), [onerror]').length") == 0
    assert HOSTILE in texts(browser, ".sample h3 .key")


def test_small_images_are_enlarged_with_hard_pixels_and_all_keep_their_aspect(browser, report):
    browser.open(report)
    shown = "image => [image.width, image.height, image.naturalWidth, getComputedStyle(image).imageRendering]"
    images = browser.evaluate(f"[...document.images].map({shown})")
    for width, height, natural, rendering in images:
        assert rendering == ("pixelated" if natural == 64 else "auto")
        assert width / height == pytest.approx(1 if natural == 64 else 256 / 192, rel=0.02)
        assert natural > 64 or width > 64


def test_the_legend_names_every_space_in_its_colour(browser, report):
    browser.open(report)
    assert texts(browser, ".legend li") == list(SPACES)
    colours = browser.evaluate(
        "[...document.querySelectorAll('.legend .swatch')].map(swatch => getComputedStyle(swatch).backgroundColor)"
    )
    wanted = [tuple(bytes.fromhex(charts.space_colour(space)[1:])) for space in SPACES]
    assert [tuple(map(int, re.findall(r"\d+", colour))) for colour in colours] == wanted


def test_tables_hold_the_figures(browser, report):
    browser.open(report)
    cells = (
        "[...document.querySelectorAll('%s tbody tr')].map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    assert [row[:4] for row in browser.evaluate(cells % "#spaces")] == [
        ["W+", "22.11", "0.431", "70.2 %"],
        ["F4", "25.36", "0.302", "15.1 %"],
        ["F6", "28.80", "0.187", "8.4 %"],
        ["F8", "33.47", "0.084", "4.2 %"],
        ["F10", "38.95", "0.031", "2.1 %"],
        ["SAM", "28.41", "0.153", ""],
    ]
    stages = browser.evaluate(cells % "#throughput")
    assert stages[1] == ["error_maps", "16", "1,000", "13 min 31 s", "", "1.23", "8 × NVIDIA H200"]
    assert stages[6] == ["publish", "0", "0", "0.0 s", "", "–", "–"]


@pytest.mark.parametrize("width", [360, 820, 1920])
def test_the_page_never_scrolls_sideways(browser, report, width):
    browser.open(report, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_the_curves_follow_light_and_dark(browser, report):
    brightness = {}
    for dark in (False, True):
        browser.open(report, dark=dark)
        for part in ("body", ".panel text"):
            name = "backgroundColor" if part == "body" else "fill"
            colour = browser.evaluate(f"getComputedStyle(document.querySelector({part!r})).{name}")
            brightness[part, dark] = sum(map(int, re.findall(r"\d+", colour)[:3]))
    assert brightness["body", False] > 600 > 300 > brightness[".panel text", False]
    assert brightness["body", True] < 150 < 350 < brightness[".panel text", True]


def test_an_image_is_enlarged_by_a_click_and_the_arrow_keys_continue(browser, report):
    browser.open(report)
    browser.evaluate("document.querySelector('.zoom').click()")
    assert texts(browser, "dialog[open] p") == [f"Input of {PICTURES[0].key}"]
    assert browser.evaluate("document.querySelector('dialog img').width") > 500
    browser.press("ArrowRight")
    assert texts(browser, "dialog[open] p")[0].startswith(f"Invertibility map of {PICTURES[0].key} in W+")
    browser.evaluate("document.querySelector('dialog').click()")
    assert texts(browser, "dialog[open]") == []
    assert browser.complaints() == []
