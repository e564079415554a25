"""The run report: what it says, and that a browser shows it whole, without asking for anything else."""

import base64
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline import charts
from pipeline.report import MAX_ROWS, decimal, devices, duration, group_quarantine, headline, percent, write_report
from pipeline.summary import Picture, Quarantined, Samples, StageTiming, Summary

SPACES = ("W+", "F4", "F6", "F8", "F10")
HOSTILE = "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'>\"&"
PER_SAMPLE = {"input": 1, "predicted": len(SPACES), "assignment": 1, "sam": 1, "error": 1}


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a car on a road under a sky `[H, W, 3]` uint8, and labels: 0 scene, 1 car, 2 tree, 3 occluder."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    sky, field = rng.uniform(0.35, 0.9, 3) * [0.7, 0.85, 1.0], rng.uniform(0.25, 0.6, 3) * [0.8, 1.0, 0.5]
    image = np.where((y < 0.55)[..., None], sky * (0.6 + 0.8 * y[..., None]), field)
    image = np.where((y > 0.72)[..., None], rng.uniform(0.25, 0.45), image)
    labels = np.zeros((height, width), np.uint8)
    left, tree = rng.uniform(0.15, 0.45), rng.uniform(0.1, 0.9)
    crown = (x - tree) ** 2 + (y - 0.45) ** 2 < 0.012
    body = (abs(x - left - 0.18) < 0.19) & (abs(y - 0.68) < 0.055)
    cabin = (abs(x - left - 0.18) < 0.11 - 0.3 * (0.62 - y)) & (abs(y - 0.595) < 0.045)
    wheels = np.minimum((x - left - 0.06) ** 2, (x - left - 0.3) ** 2) + (y - 0.735) ** 2 < 0.0018
    image[crown], labels[crown] = [0.25, 0.4, 0.15], 2
    image[body | cabin], labels[body | cabin | wheels] = rng.uniform(0.2, 0.9, 3), 1
    image[wheels] = 0.08
    box = (abs(x - rng.uniform(0.2, 0.8)) < 0.14) & (abs(y - rng.uniform(0.2, 0.5)) < 0.11)
    image[box], labels[box] = rng.uniform(0, 1, (int(box.sum()), 3)), 3
    return (255 * image.clip(0, 1)).astype(np.uint8), labels


def picture(seed: int, height: int = 64, width: int = 64, **changes: object) -> Picture:
    rng = np.random.default_rng(seed)
    image_HW3, labels_HW = scene(rng, height, width)
    hardness_HW = np.array([0.08, 0.2, 0.45, 1.3])[labels_HW] + 0.05 * rng.standard_normal((height, width))
    soft = sum(np.roll(hardness_HW, (dy, dx), (0, 1)) for dy in range(-2, 3) for dx in range(-2, 3)) / 25
    predicted_LHW = np.stack([soft.clip(0) * scale for scale in (1, 0.7, 0.45, 0.2, 0.08)]).astype(np.float32)
    alone = Image.fromarray(image_HW3).filter(ImageFilter.GaussianBlur(2.2))
    sam = Image.fromarray(image_HW3).filter(ImageFilter.GaussianBlur(0.6))
    values = {
        "key": f"scene_{seed:05d}",
        "shard": "cars-held-out-000003.tar",
        "role": "held_out",
        "image_HW3": image_HW3,
        "predicted_LHW": predicted_LHW,
        "assignment_HW": np.array([0, 0, 1, 2 + seed % 3], np.uint8)[labels_HW],
        "sam_HW3": np.asarray(sam),
        "error_HW": (0.2 * soft.clip(0)).astype(np.float32),
        "psnr_db": 28.0 + 0.31 * seed,
        "lpips": float(0.2 * soft.clip(0).mean()),
        "w_plus_HW3": np.asarray(alone),
        "w_plus_psnr_db": 21.5 + 0.27 * seed,
    }
    return Picture(**(values | changes))


PICTURES = [picture(seed) for seed in range(7)] + [
    picture(7, key=HOSTILE, role="supervision", w_plus_HW3=None, w_plus_psnr_db=None),
    picture(8, 192, 256, role=None),
]
SUMMARY = Summary(
    samples=Samples(inventory=5520, recorded=5495, quarantined=25),
    seconds={"invert": 1234.5},
    spaces=SPACES,
    perceptual="lpips-demo",
    resolution_px=(192, 256),
    psnr_db={"W+": 22.114, "F4": 25.361, "F6": 28.802, "F8": 33.47, "F10": 38.955},
    lpips={"W+": 0.4312, "F4": 0.3021, "F6": 0.1874, "F8": 0.0842, "F10": 0.0311},
    psnr_db_sam=28.413,
    lpips_sam=0.1526,
    psnr_db_occluded={"w_plus": 19.87, "sam": 27.02},
    share_w_plus=0.6134,
    shares={"W+": 0.702, "F4": 0.151, "F6": 0.084, "F8": 0.042, "F10": 0.021},
    auroc_error_map=0.9754,
    auroc_predicted_map=0.9311,
    zero_edit_difference=0.0,
    shard_faults={"cars-000007.tar": ["duplicate key scene_00012", "member beyond the end of the file"]},
    failed_units={"invert/cars-000002.tar/128-192": f"worker died three times {HOSTILE}"},
)
TIMINGS = [
    StageTiming("inventory", 12, 5520, 3.4, ("CPU",) * 4),
    StageTiming("error_maps", 16, 1000, 811.2, ("NVIDIA H200",) * 8),
    StageTiming("train_segmenter", 1, 900, 240.0, ("NVIDIA H200",)),
    StageTiming("predict_maps", 87, 5510, 21.9, ("NVIDIA H200",) * 8),
    StageTiming("refine_maps", 87, 5510, 44.0, ("CPU",) * 16),
    StageTiming("invert", 87, 5495, 1234.5, ("NVIDIA H200",) * 8),
    StageTiming("publish", 0, 0, 0.0),
]
QUARANTINE = [
    *(Quarantined("cars-000004.tar", f"scene_{i:05d}", "image is truncated: 1031 of 4096 bytes") for i in range(21)),
    *(Quarantined("cars-000009.tar", f"scene_{i:05d}", "no image member (jpg, png, webp)") for i in range(3)),
    Quarantined("cars-000009.tar", HOSTILE, f"not an image: {HOSTILE}"),
]
REPORT = {
    "title": "Cars, held-out occluders",
    "summary": SUMMARY,
    "timings": TIMINGS,
    "pictures": PICTURES,
    "quarantine": QUARANTINE,
    "settings": "seed: 0\nrefine_maps:\n  threshold: 0.225  # <tau>\n",
    "about": {
        "invertmill": "0.1.0",
        "generator": "sha256:9f2c…",
        "devices": "8 × NVIDIA H200",
        "note": "demo assets: not a published GAN, not LPIPS-VGG",
    },
}
EMPTY = REPORT | {
    "summary": replace(
        SUMMARY,
        samples=Samples(0, 0, 0),
        psnr_db=dict.fromkeys(SPACES),
        lpips=dict.fromkeys(SPACES),
        psnr_db_sam=None,
        lpips_sam=None,
        psnr_db_occluded={"w_plus": None, "sam": None},
        share_w_plus=None,
        shares=dict.fromkeys(SPACES),
        auroc_error_map=None,
        auroc_predicted_map=None,
        zero_edit_difference=None,
        shard_faults={},
        failed_units={},
    ),
    "timings": [],
    "pictures": [],
    "quarantine": [],
    "settings": "",
    "about": {},
}


class Page(HTMLParser):
    """What a page holds: elements, addresses, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._hidden = "", 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += " ".join(data.split()) + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path, **changes: object) -> Page:
    path = folder / "new" / "report.html"
    write_report(path, **(REPORT | {"pictures": []} | changes))
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, **REPORT)
    return path


def test_a_report_is_one_file_that_refers_to_no_other(report):
    page = Page(report.read_text(encoding="utf-8"))
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]
    for _, attributes in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    styles = " ".join([*(a.get("style") or "" for _, a in page.elements), report.read_text(encoding="utf-8")])
    assert not re.search(r"@import|url\((?!#)", styles)


def test_every_sample_has_every_image_with_a_text_of_its_own(report):
    images = Page(report.read_text(encoding="utf-8")).all("img")
    kinds = Counter((image["class"] or "").split()[0] for image in images)
    wanted = {kind: number * len(PICTURES) for kind, number in PER_SAMPLE.items()} | {"alone": len(PICTURES) - 1}
    assert kinds == wanted
    texts = [image["alt"] for image in images]
    assert all(texts)
    assert len(set(texts)) == len(texts)
    assert all(any(picture.key in (text or "") for picture in PICTURES) for text in texts)


def test_images_keep_their_pixels_and_their_aspect(report):
    images = Page(report.read_text(encoding="utf-8")).all("img")
    for image in images:
        decoded = Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",", 1)[1])))
        large = PICTURES[8].key in (image["alt"] or "")
        assert decoded.size == ((256, 192) if large else (64, 64))
        assert decoded.size == (int(image["width"] or 0), int(image["height"] or 0))
        assert ("pixels" in (image["class"] or "")) is not large
        if (image["class"] or "").startswith("input") and image["alt"] == f"Input of {PICTURES[0].key}":
            np.testing.assert_array_equal(np.asarray(decoded), PICTURES[0].image_HW3)


def test_a_large_picture_is_reduced_to_a_light_one():
    drawing = charts.draw_image(np.zeros((768, 1024, 3), np.uint8))
    assert (drawing.width_px, drawing.height_px) == (384, 288)
    assert charts.draw_error(np.zeros((768, 1024), np.float32), 1.0).height_px == 288


def decoded(drawing: charts.Drawing) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(drawing.uri.split(",", 1)[1]))).convert("RGB"))


def test_an_assignment_shows_the_colour_of_its_space_over_the_image_in_grey():
    image_HW3 = np.array([[[100, 100, 100], [100, 100, 100]]], np.uint8)
    shown = decoded(charts.draw_assignment(np.array([[0, 2]], np.uint8), image_HW3, SPACES))
    for space, pixel in zip(("W+", "F6"), shown[0], strict=True):
        colour = np.array(list(bytes.fromhex(charts.space_colour(space)[1:])))
        np.testing.assert_array_equal(pixel, np.rint(0.4 * 100 + 0.6 * colour))


def test_every_space_has_a_colour_of_its_own_in_one_generator():
    for spaces in (SPACES, ("W+", "F2", "F4", "F6"), ("Z+", "F2")):
        assert len({charts.space_colour(space) for space in spaces}) == len(spaces)


def test_an_error_map_is_dark_where_the_error_is_low_and_brightest_from_the_ceiling_on():
    shown = decoded(charts.draw_error(np.array([[0.0, 0.25, 0.5, 9.0]], np.float32), 0.5)).sum(axis=2)[0]
    assert shown[0] < shown[1] < shown[2] == shown[3]
    assert shown[0] < 10


@pytest.mark.parametrize(
    ("values", "ceiling"),
    [([], 1.0), ([0.0], 1.0), ([0.3], 0.3), ([0.3012], 0.31), ([1.28], 1.3), ([0.0] * 999 + [2.0], 2.0)],
)
def test_the_colour_scale_ends_just_above_nearly_all_errors(values, ceiling):
    assert charts.error_ceiling([np.array(values, np.float32)] if values else []) == pytest.approx(ceiling)


def test_one_bright_spot_does_not_darken_every_map():
    assert charts.error_ceiling([np.append(np.full(9999, 0.2, np.float32), np.float32(50))]) == pytest.approx(0.2)


def test_sam_stands_at_the_mean_position_of_its_pixels():
    assert charts.mean_position(SPACES, SUMMARY.shares) == pytest.approx(0.151 + 2 * 0.084 + 3 * 0.042 + 4 * 0.021)
    assert charts.mean_position(SPACES, dict.fromkeys(SPACES, 0.0) | {"F10": 0.3}) == 4
    assert charts.mean_position(SPACES, dict.fromkeys(SPACES)) is None


def test_the_curve_shows_known_figures_in_the_colours_of_the_page():
    values = {"W+": 22.114, "F4": None, "F6": float("inf"), "F8": 33.47, "F10": 38.955}
    curve = charts.Curve("PSNR (dB)", values, 28.413, digits=2, high_is_good=True)
    svg = charts.draw_curve(curve, SPACES, 0.5)
    assert svg == charts.draw_curve(curve, SPACES, 0.5)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {*SPACES, "22.11", "33.47", "38.95", "SAM 28.41"} <= {text.replace("\N{MINUS SIGN}", "-") for text in texts}
    assert not {"inf", "nan", "None"} & set(texts)
    drawn = set(re.findall(r"#[0-9a-f]{6}\b", svg))
    assert drawn == {charts.space_colour(space) for space in ("W+", "F8", "F10")}
    assert "SAM" not in charts.draw_curve(curve, SPACES, None)


def test_numbers_are_written_for_people():
    assert [decimal(x) for x in (None, float("nan"), float("inf"), 28.413)] == ["–", "–", "∞", "28.41"]
    assert [percent(x) for x in (None, 0.6134)] == ["–", "61.3 %"]
    assert [duration(s) for s in (3.44, 59.97, 811.2, 7322)] == ["3.4 s", "1 min 00 s", "13 min 31 s", "2 h 02 min"]
    assert [devices(names) for names in ((), ("CPU",), ("A", "A", "B"))] == ["–", "CPU", "2 × A, B"]


def test_headline_figures_are_those_of_the_summary():
    shown = {tile.label: (tile.value, tile.note) for tile in headline(SUMMARY)}
    assert shown == {
        "samples": ("5,520", "5,495 recorded + 25 quarantined"),
        "PSNR, SAM": ("28.41 dB", "W+ alone 22.11 dB"),
        "PSNR, SAM, occluded": ("27.02 dB", "W+ alone 19.87 dB"),
        "perceptual error, SAM": ("0.153", "lpips-demo"),
        "share left in W+": ("61.3 %", "of pixels, occluded samples"),
        "AUROC, invertibility map": ("0.931", "of known occluders; error map 0.975"),
    }
    unknown = replace(SUMMARY, auroc_predicted_map=None, auroc_error_map=None, psnr_db_occluded={})
    assert [tile.label for tile in headline(unknown)] == [
        *("samples", "PSNR, SAM", "perceptual error, SAM", "share left in W+")
    ]


def test_failures_are_seen_at_once(tmp_path):
    text = page_of(tmp_path).text
    assert "This run is not complete" in text
    assert "1 failed unit" in text
    assert "invert/cars-000002.tar/128-192" in text
    assert "duplicate key scene_00012; member beyond the end of the file" in text
    clean = page_of(tmp_path, summary=replace(SUMMARY, shard_faults={}, failed_units={})).text
    assert "not complete" not in clean


def test_samples_that_are_not_accounted_for_are_a_warning(tmp_path):
    lost = replace(SUMMARY, samples=Samples(100, 90, 7), shard_faults={}, failed_units={})
    assert "3 samples are not accounted for" in page_of(tmp_path, summary=lost).text


def test_an_empty_run_has_a_report_without_figures(tmp_path):
    page = page_of(tmp_path, **EMPTY)
    assert not page.all("img")
    assert not page.all("svg")
    for said in ("No sample was held out", "No pictures were kept", "Nothing was timed", "No sample was quarantined"):
        assert said in page.text
    assert "None" not in page.text
    assert "nan" not in page.text
    assert page.text.count("–") >= 3 * len(SPACES)


def test_the_column_of_the_first_space_alone_is_left_out_if_no_sample_has_it(tmp_path):
    page = page_of(tmp_path, pictures=[picture(1, w_plus_HW3=None, w_plus_psnr_db=None)])
    assert len(page.all("img")) == sum(PER_SAMPLE.values())
    assert "absent" not in {attributes.get("class") for attributes in page.all("div")}


def test_a_few_quarantined_samples_are_listed_and_many_are_grouped(tmp_path):
    few = page_of(tmp_path, quarantine=QUARANTINE[:5])
    assert len([a for a in few.all("tr") if a.get("class") == "quarantined"]) == 5
    assert len(few.all("details")) == 2
    many = page_of(tmp_path)
    assert len(many.all("details")) == 2 + 3
    assert "21 image is truncated: 1031 of 4096 bytes" in many.text


def test_a_long_quarantine_is_cut_and_says_so_but_no_reason_is_hidden(tmp_path):
    quarantine = [Quarantined("s.tar", f"{i}", "rare" if i < 3 else f"common {i % 2}") for i in range(2003)]
    groups = group_quarantine(quarantine)
    assert [(group.reason, group.count) for group in groups] == [("common 1", 1000), ("common 0", 1000), ("rare", 3)]
    assert [len(group.shown) for group in groups] == [248, 249, 3]
    page = page_of(tmp_path, quarantine=quarantine)
    assert len([a for a in page.all("tr") if a.get("class") == "quarantined"]) == MAX_ROWS
    assert "1,503 of them are not shown here" in page.text


def test_a_key_that_is_no_text_is_shown_as_its_bytes(tmp_path):
    page = page_of(tmp_path, quarantine=[Quarantined("s.tar", "caf\udce9", "undecodable name")])
    assert r"caf\udce9" in page.text


# In a browser


class Browser:
    """A headless Chromium with one tab, spoken to over its debugging pipe."""

    DEADLINE_S = 60.0
    SWITCHES = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
    )
    LAUNCH = "import os, sys; [os.dup2(int(sys.argv[i]), i + 2) for i in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"

    def __init__(self, chromium: str, profile: Path) -> None:
        commands, self._write = os.pipe()
        self._read, replies = os.pipe()  # made last, so its number is above those that Chromium wants, 3 and 4
        switches = [*self.SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.LAUNCH, str(commands), str(replies), chromium, *switches],
            pass_fds=(commands, replies),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(replies)
        self._buffer, self._calls, self._session = b"", 0, None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(self.DEADLINE_S)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **params: object) -> dict:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        reply = self._until(lambda message: message.get("id") == self._calls)
        assert "error" not in reply, reply
        return reply["result"]

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        self.events.clear()
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> object:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key)

    def complaints(self) -> list[dict]:
        said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event["method"] in said]

    def requests(self) -> list[str]:
        sent = (e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent")
        return [url for url in sent if not url.startswith("data:")]

    def _until(self, wanted) -> dict:
        end = time.monotonic() + self.DEADLINE_S
        while True:
            while b"\0" in self._buffer:
                raw, self._buffer = self._buffer.split(b"\0", 1)
                message = json.loads(raw)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            assert chunk, "Chromium did not answer"
            self._buffer += chunk


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium on the PATH")
    browser = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def texts(browser: Browser, selector: str) -> list[str]:
    cells = f"[...document.querySelectorAll({json.dumps(selector)})].map(element => element.innerText.trim())"
    return list(browser.evaluate(cells))


def test_a_browser_shows_every_image_and_asks_for_nothing_else(browser, report):
    browser.open(report)
    widths = browser.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
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


def test_an_image_is_enlarged_by_a_click_and_the_arrow_keys_go_on(browser, report):
    browser.open(report)
    browser.evaluate("document.querySelector('.zoom').click()")
    assert texts(browser, "dialog[open] p") == [f"Input of {PICTURES[0].key}"]
    assert browser.evaluate("document.querySelector('dialog img').width") > 500
    browser.press("ArrowRight")
    assert texts(browser, "dialog[open] p")[0].startswith(f"Invertibility map of {PICTURES[0].key} in W+")
    browser.evaluate("document.querySelector('dialog').click()")
    assert texts(browser, "dialog[open]") == []
    assert browser.complaints() == []
