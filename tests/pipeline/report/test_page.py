"""The run report: what it says, and that a browser shows it whole, without asking for anything else."""

import base64
import html
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.report import charts, summary
from pipeline.report.edits_page import EDITS_PAGE, REPORTED
from pipeline.report.figures import decimal, devices, duration, percent
from pipeline.report.map_quality import MapQuality
from pipeline.report.page import MAX_ROWS, group_quarantine, headline, health, render_report, write_page
from pipeline.report.summary import SAM, Quarantined, Samples
from pipeline.report.templates import script_digest
from tests.pipeline.report_page import (
    EMPTY,
    MAPS,
    PER_SAMPLE,
    PICTURES,
    QUARANTINE,
    REPORT,
    SPACES,
    SUMMARY,
    TRADE_OFF,
    Page,
    page_of,
    picture,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, render_report(**REPORT))
    return path


def test_a_report_is_one_file_that_refers_to_no_other(report):
    page = Page(report.read_text(encoding="utf-8"))
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]
    for _, attributes in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:")) or (name, address) == ("href", EDITS_PAGE), attributes
    styles = " ".join([*(a.get("style") or "" for _, a in page.elements), report.read_text(encoding="utf-8")])
    assert not re.search(r"@import|url\((?!#)", styles)


def test_every_sample_has_every_image_with_a_text_of_its_own(report):
    images = Page(report.read_text(encoding="utf-8")).all("img")
    kinds = Counter((image["class"] or "").split()[0] for image in images)
    wanted = {kind: number * len(PICTURES) for kind, number in PER_SAMPLE.items()} | {"alone": len(PICTURES) - 1}
    wanted |= {"before": 5 * REPORTED, "edit": 2 * (5 + 3) * REPORTED}  # two methods, two directions with 0
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


def test_a_calibration_curve_shows_its_points_in_the_colours_of_the_page():
    points = [(0.0, 0.01, 5), (0.1, 0.3, 5), (0.2, 0.25, 5)]
    svg = charts.draw_calibration("F6", points)
    assert svg == charts.draw_calibration("F6", points)
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == {charts.space_colour("F6")}
    assert {"F6", "0", "0.05", "0.2"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))


@pytest.mark.parametrize("scale", [0.0, 1e-9, 0.001, 1.0 / 1.08, 37.0])
def test_a_calibration_curve_is_drawn_at_any_scale(scale):
    assert "<svg" in charts.draw_calibration("W+", [(0.0, scale, 1), (scale, 0.0, 1)])


def test_whether_the_map_is_right_is_told_space_by_space(tmp_path):
    text = " ".join(page_of(tmp_path).text.split())
    assert "W+ 0.709 0.551 \N{MINUS SIGN}0.0971" in text
    assert "F10 – – +0.0000" in text
    assert "invertibility map 0.931 0.845 error map 0.975 0.713" in text
    assert "average precision 0.056, the share of occluded pixels" in text
    drawn = [a for a in page_of(tmp_path).all("div") if (a.get("aria-label") or "").startswith("Calibration of")]
    assert len(drawn) == len(SPACES)
    assert (drawn[0]["aria-label"] or "").endswith("0.400 0.520; 0.900 1.170")


def test_without_ground_truth_the_maps_are_still_held_to_what_was_achieved(tmp_path):
    blind = replace(MAPS, average_precision_error_map=None, average_precision_predicted_map=None)
    summary = replace(SUMMARY, maps=blind, auroc_error_map=None, auroc_predicted_map=None)
    text = " ".join(page_of(tmp_path, summary=summary).text.split())
    assert "W+ 0.709 0.551" in text
    assert "known occluders" not in text


def test_a_measured_trade_off_is_shown_with_its_knee_and_the_configured_threshold(tmp_path):
    page = page_of(tmp_path)
    text = " ".join(page.text.split())
    assert "Means over 16 samples, 14 of them held out" in text
    assert "0.152 knee 29.10 0.098 66.8 %" in text
    assert "0.225 configured 28.41 0.153 70.2 %" in text
    assert "Knee: refine_maps.threshold=0.152, where" in text
    assert {"knee, τ 0.152", "SAM, τ 0.225"} <= set(re.findall(r"[a-zA-Z]+, τ [\d.]+", text))
    unmeasured = page_of(tmp_path, summary=replace(SUMMARY, trade_off=None)).text
    assert "What another threshold would give" not in unmeasured


def test_a_trade_off_without_a_knee_says_so(tmp_path):
    straight = replace(TRADE_OFF, knee=None, configured=None)
    text = page_of(tmp_path, summary=replace(SUMMARY, trade_off=straight)).text
    assert "No knee: the curve is flat" in text
    assert "configured" not in text


def test_the_trade_off_is_drawn_most_editable_first_in_the_colours_of_the_page():
    points = [(0.0, 30.0, "0.1"), (0.5, 29.0, "0.2"), (1.0, 20.0, "0.4")]
    panel = charts.Panel("PSNR (dB)", points, 1, (0.8, 25.0, "0.3"), high_is_good=True)
    svg = charts.draw_trade_off(panel, "W+")
    assert svg == charts.draw_trade_off(panel, "W+")
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == {charts.space_colour("W+")}
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"knee, τ 0.2", "SAM, τ 0.3"} <= set(texts)
    places = {text: float(x) for x, text in re.findall(r'x="([\d.]+)"[^>]*>(100|0)</text>', svg)}
    assert places["100"] < places["0"]


def test_numbers_are_written_for_people():
    assert [decimal(x) for x in (None, float("nan"), float("inf"), 28.413)] == ["–", "–", "∞", "28.41"]
    assert [percent(x) for x in (None, 0.6134)] == ["–", "61.3 %"]
    assert [duration(s) for s in (3.44, 59.97, 811.2, 7322)] == ["3.4 s", "1 min 00 s", "13 min 31 s", "2 h 02 min"]
    assert [devices(names) for names in ((), ("CPU",), ("A", "A", "B"))] == ["–", "CPU", "2 × A, B"]


def test_headline_figures_are_those_of_the_summary():
    shown = {tile.label: (tile.value, tile.note) for tile in headline(SUMMARY)}
    assert shown == {
        "samples": ("5,520", "5,495 recorded + 25 quarantined"),
        "PSNR, SAM": ("28.41 dB", "W+ alone 22.11 dB after 501 steps, SAM 1,001 steps"),
        "PSNR, SAM, occluded": ("27.02 dB", "W+ alone 19.87 dB after 501 steps, SAM 1,001 steps"),
        "perceptual error, SAM": ("0.153", "lpips-demo"),
        "share left in W+": ("61.3 %", "of pixels, occluded samples"),
        "AUROC, invertibility map": ("0.931", "of known occluders; error map 0.975"),
        "average precision, invertibility map": ("0.845", "error map 0.713; chance 0.056"),
    }
    unknown = replace(SUMMARY, auroc_predicted_map=None, auroc_error_map=None, psnr_db_occluded={}, maps=MapQuality())
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
    assert "Is the map right?" not in page.text
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


def test_a_key_that_is_not_text_is_shown_as_its_bytes(tmp_path):
    page = page_of(tmp_path, quarantine=[Quarantined("s.tar", "caf\udce9", "undecodable name")])
    assert r"caf\udce9" in page.text


def test_the_health_of_a_run_is_one_line_at_the_top():
    assert health(SUMMARY) == [("1 shard with faults", True), ("25 samples quarantined", True), ("1 unit failed", True)]
    clean = replace(SUMMARY, samples=Samples(7, 7, 0), shard_faults={}, failed_units={})
    assert health(clean) == [
        ("no shards with faults", False),
        ("no samples quarantined", False),
        ("no units failed", False),
    ]


def test_sam_is_defined_where_the_page_begins(report):
    lede, _, _ = Page(report.read_text(encoding="utf-8")).text.partition("samples")
    assert "SAM: spatially-adaptive multilayer inversion" in lede


def test_the_table_of_spaces_defines_sam(report):
    page = Page(report.read_text(encoding="utf-8"))
    assert page.all("abbr") == [{"title": SAM}]
    assert f"by SAM ({SAM})" in page.text


def test_the_style_and_the_script_are_part_of_the_page_as_they_are(report):
    page = report.read_text(encoding="utf-8")
    folder = Path(summary.__file__).parent / "template"
    assert f"<style>\n{(folder / 'report.css').read_text()}</style>" in page
    script = (folder / "report.js").read_text()
    assert f"<script>{script}</script>" in page
    assert f"script-src '{script_digest(script)}'" in html.unescape(page)


def test_the_worst_images_have_a_section_of_their_own(tmp_path):
    text = page_of(tmp_path, pictures=PICTURES[6:]).text
    before, said, after = text.partition("The sample with the lowest PSNR of this run")
    assert said
    assert "19.02 dB" in after
    assert "19.02 dB" not in before
    assert "lowest PSNR" not in page_of(tmp_path, pictures=PICTURES[:3]).text


def test_the_page_says_where_the_latents_are(tmp_path):
    page = page_of(tmp_path)
    assert "Where the latents are" in page.text
    assert "s3://latents/cars" in page.text


def test_the_correlation_of_two_segments_is_not_shown_but_their_number_is(tmp_path):
    row = next(line for line in page_of(tmp_path).text.split("per segment")[1].split("Calibration")[0].split("F8")[1:])
    assert "155" in row
    assert "–" in row.split("F10")[1]
    assert "2" in row.split("F10")[1]
