"""The interactive page of edits in a headless Chromium: by keyboard, mouse and touch, in light and dark."""

import json
import re
from pathlib import Path

import pytest

from pipeline.report.edited import EditedImage, EditedPicture
from pipeline.report.edits_page import COLUMNS, REPORTED, as_data, rows_of_edits, write_edits_page
from tests.browser import Browser
from tests.pipeline.report_page import EDITED, HOSTILE, SPACES

SHOWN = "document.getElementById('shown').textContent"
SOURCES = "[...document.querySelectorAll('.compared figure:not([hidden]) img')].map(image => image.src)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "edits.html"
    write_edits_page(path, title="Cars", spaces=SPACES, pictures=EDITED)
    return path


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.open(page)
    return browser


def data_of(page: Path) -> list[dict]:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="edits">(.*?)</script>', text, re.DOTALL)[1])


def choose(browser: Browser, selector: str, value: str) -> None:
    """Choose a value of a form's control, as a person does."""
    browser.evaluate(
        f"(() => {{ const control = document.querySelector({selector!r}); control.value = {value!r};"
        " control.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def test_the_page_opens_unedited_asks_for_nothing_and_complains_about_nothing(opened, page):
    assert opened.evaluate(SHOWN) == "0"
    first = data_of(page)[0]["series"]["shift"]
    unedited = next(edit for edit in first if edit["magnitude"] == 0)
    assert opened.evaluate(SOURCES) == [unedited["sam"], unedited["w_plus"]]
    assert [url for url in opened.requests() if url != page.as_uri()] == []
    assert opened.complaints() == []
    assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_arrow_keys_on_the_slider_follow_the_direction(opened, page):
    series = data_of(page)[0]["series"]["shift"]
    opened.evaluate("document.getElementById('magnitude').focus()")
    seen = []
    for _ in range(3):
        opened.press("ArrowRight")
        seen.append((opened.evaluate(SHOWN), opened.evaluate(SOURCES)))
    wanted = [(f"+{edit['magnitude']:g}", [edit["sam"], edit["w_plus"]]) for edit in series[-2:]]
    assert seen == [*wanted, wanted[-1]]  # it stops at the end
    assert opened.evaluate("document.getElementById('magnitude').getAttribute('aria-valuetext')") == "shift +2"


def test_another_direction_and_image_keep_the_magnitude_as_far_as_it_goes(opened, page):
    opened.evaluate("document.getElementById('magnitude').focus()")
    opened.press("ArrowRight")
    choose(opened, "#direction", "darken")
    assert opened.evaluate(SHOWN) == "+1"
    opened.evaluate("document.querySelectorAll('[name=picture]')[2].click()")
    wanted = next(edit for edit in data_of(page)[2]["series"]["darken"] if edit["magnitude"] == 1)
    assert opened.evaluate(SHOWN) == "+1"
    assert opened.evaluate(SOURCES) == [wanted["sam"], wanted["w_plus"]]


def test_a_finger_that_is_dragged_over_an_image_moves_the_slider(opened):
    opened.call("Emulation.setTouchEmulationEnabled", enabled=True)
    x, y, width = opened.evaluate(
        "(() => { const box = document.querySelector('.compared img').getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2, box.width]; })()"
    )
    try:
        opened.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        for step in range(1, 6):
            points = [{"x": x - step * width / 10, "y": y}]
            opened.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=points)
        opened.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    finally:
        opened.call("Emulation.setTouchEmulationEnabled", enabled=False)
    assert opened.evaluate(SHOWN) == "\N{MINUS SIGN}2"


def test_every_control_has_a_label_and_every_image_a_description(opened):
    named = "[...document.querySelectorAll('input, select')].map(control => control.labels.length)"
    assert set(opened.evaluate(named)) == {1}
    assert opened.evaluate("[...document.images].filter(image => !image.alt).length") == 0
    alts = opened.evaluate("[...document.querySelectorAll('.compared img')].map(image => image.alt)")
    assert alts == [f"{EDITED[0].key}, shift 0, {name}" for name in ("SAM", "W+ alone")]


def test_a_hostile_key_is_shown_and_nothing_of_it_runs(opened):
    opened.evaluate("document.querySelectorAll('[name=picture]')[5].click()")
    assert opened.evaluate("window.owned ?? null") is None
    assert opened.evaluate("document.querySelector('.compared img').alt").startswith(HOSTILE)
    assert opened.evaluate("document.querySelectorAll('[onerror]').length") == 0


def test_controls_are_large_enough_for_fingers(opened):
    heights = "[...document.querySelectorAll('select, input')].map(control => control.getBoundingClientRect().height)"
    assert min(opened.evaluate(heights)) >= 44


@pytest.mark.parametrize("width", [360, 820, 1920])
def test_the_page_never_scrolls_sideways(browser, page, width):
    browser.open(page, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_follows_light_and_dark(browser, page):
    brightness = {}
    for dark in (False, True):
        browser.open(page, dark=dark)
        for name in ("backgroundColor", "color"):
            colour = browser.evaluate(f"getComputedStyle(document.body).{name}")
            brightness[name, dark] = sum(map(int, re.findall(r"\d+", colour)[:3]))
    assert brightness["backgroundColor", False] > 600 > 300 > brightness["color", False]
    assert brightness["backgroundColor", True] < 150 < 350 < brightness["color", True]


def test_the_report_shows_the_first_images_with_both_ends_and_the_unedited_one():
    rows = rows_of_edits(EDITED, SPACES, 1.0)
    assert [row.key for row in rows] == [picture.key for picture in EDITED[:REPORTED]]
    shift, darken = rows[0].series
    assert shift.magnitudes == ("\N{MINUS SIGN}2", "\N{MINUS SIGN}1", "0", "+1", "+2")
    assert darken.magnitudes == ("0", "+0.5", "+1")
    assert list(shift.rows) == ["SAM", "W+ alone"]
    assert [shown.name for shown in rows[0].before] == ["input", "predicted, W+", "assignment", "SAM", "W+ alone"]


def test_many_magnitudes_are_thinned_evenly():
    one = EDITED[0]
    edits = tuple(EditedImage("far", float(m), one.unedited) for m in range(-10, 11))
    picture = EditedPicture(one.key, one.shard, one.image_HW3, one.predicted_HW, one.assignment_HW, one.unedited, edits)
    magnitudes = rows_of_edits([picture], SPACES, 1.0)[0].series[0].magnitudes
    assert len(magnitudes) == COLUMNS
    assert {magnitudes[0], "0", magnitudes[-1]} == {"\N{MINUS SIGN}10", "0", "+10"}


def test_nothing_in_data_can_end_its_block():
    data = as_data({"key": HOSTILE + "</script>&"})
    assert not set("<>&") & set(data)
    assert json.loads(data) == {"key": HOSTILE + "</script>&"}
