"""Drawings: small pictures of pages of many are embedded without loss."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.report.charts import LOSSLESS_SIDE_PX, draw_compact


@pytest.mark.parametrize("side_px", [1, 64, LOSSLESS_SIDE_PX])
def test_small_pictures_lose_nothing(side_px):
    image_HW3 = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), np.uint8)
    drawing = draw_compact(image_HW3)
    with Image.open(io.BytesIO(base64.b64decode(drawing.uri.partition(",")[2]))) as image:
        assert image.format == "WEBP"
        assert np.array_equal(np.asarray(image.convert("RGB")), image_HW3)


def test_larger_pictures_are_compressed_with_loss():
    random = np.random.default_rng(0)
    small, large = (random.integers(0, 256, (side, side, 3), np.uint8) for side in (128, 129))
    assert len(draw_compact(large).uri) < 0.9 * len(draw_compact(small).uri)
