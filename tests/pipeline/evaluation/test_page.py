"""The page of an evaluation: every method, claim and picture, and nothing from elsewhere."""

import re

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.compute import committed
from pipeline.evaluation.conclude import concluded, pictured, write
from pipeline.evaluation.reading import codes_of, samples_of
from pipeline.report.conclude import viewer_of
from stages.maps.region import to_uint8
from tests.pipeline.evaluation.conftest import EVALUATE


@pytest.fixture(scope="module")
def shown(evaluated_run, tmp_path_factory):
    """An evaluation with its grid and its page."""
    plan = evaluated_run.plan(*EVALUATE)
    found = concluded(plan, committed(plan))
    grid = pictured(found, plan)
    return found, grid, write(found, grid, tmp_path_factory.mktemp("out"))


def test_the_page_has_every_method_claim_and_picture(shown):
    found, grid, page = shown
    text = page.read_text()
    for line in found.lines:
        assert f'<th scope="row">{line.name}</th>' in text
        assert line.psnr_db.shown(2) in text
    assert all(claim.verdict in text and claim.name for claim in found.claims)
    assert text.count("<svg") == 2
    assert len(grid.rows) == 3
    assert len(re.findall(r"<img ", text)) == 3 * (1 + 2 * len(found.lines))  # input; inverted and edited
    assert found.circumstances.perceptual_digest[:16] in text


def test_claims_that_fail_are_marked(shown):
    found, _, page = shown
    failed = sum(claim.holds is False for claim in found.claims)
    assert failed > 0  # of a random generator
    assert page.read_text().count('<td class="fails">fails</td>') == failed
    assert f"hold, {failed} fail," in page.read_text()


def test_pictures_are_of_the_codes_as_stored(shown, evaluated_run):
    found, grid, page = shown
    viewer = viewer_of(evaluated_run.plan(*EVALUATE))
    for method in found.methods:
        for row, sample in samples_of(method, method.rows):
            (of_image,) = [one for one in grid.rows if one.key == row.key]
            cell = of_image.cells[method.name]
            np.testing.assert_array_equal(cell.inverted_HW3, to_uint8(viewer.picture(codes_of(sample)))[0])
            assert cell.psnr_db == row.psnr_db
            assert (cell.edited_HW3 != cell.inverted_HW3).any() or method.name == "F4"
    with Image.open(page.with_name("grid.png")) as image:
        assert image.width > 128 * 6


def test_a_browser_shows_every_picture_and_asks_for_nothing_else(shown, browser):
    _, _, page = shown
    browser.open(page)
    widths = browser.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    assert widths == [32] * len(widths)
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.scripts.length") == 0
