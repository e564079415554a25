import math

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from stages.maps.region import Region, crop, fit, fit_labels, place, psnr_db, to_uint8

CARS = Region(top=64, height=384, width=512)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """An image whose red tells the column and whose green tells the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8)


def test_a_region_inside_the_canvas_is_accepted_and_one_that_leaves_it_is_not():
    assert CARS.inside(512) is CARS
    assert Region.whole(64).inside(64) == Region(height=64, width=64)
    with pytest.raises(ValueError, match=r"rows 64 to 448, columns 0 to 512 leave the canvas of 256 x 256"):
        CARS.inside(256)
    with pytest.raises(ValueError, match="columns 1 to 9 leave"):
        Region(left=1, height=8, width=8).inside(8)


@pytest.mark.parametrize("fields", [{"top": -1}, {"height": 0}, {"width": 1.5}, {"fit": "pad"}, {"bottom": 3}])
def test_a_region_that_is_none_is_refused(fields):
    with pytest.raises(ValidationError):
        Region(**({"height": 8, "width": 8} | fields))


def test_crop_takes_the_region_and_place_puts_it_back_among_zeros():
    region = Region(top=1, left=2, height=2, width=1)
    canvas = torch.arange(16).reshape(1, 1, 4, 4)
    assert crop(canvas, region).tolist() == [[[[6], [10]]]]
    placed = place(crop(canvas, region), region, 4)
    assert placed.nonzero()[:, 2:].tolist() == [[1, 2], [2, 2]]
    assert placed.dtype == canvas.dtype
    assert torch.equal(crop(placed, region), crop(canvas, region))


def test_the_whole_canvas_is_its_own_crop():
    canvas = torch.zeros(2, 3, 8, 8)
    assert crop(canvas, Region.whole(8)) is canvas


def test_gradcheck_of_crop():
    canvas = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: crop(x, Region(top=1, height=2, width=3)), canvas)


def test_place_works_on_an_assignment_too():
    placed = place(torch.ones(2, 3, dtype=torch.uint8), Region(height=2, width=3), 4)
    assert placed.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]


def test_tensors_of_another_size_are_refused():
    with pytest.raises(ValueError, match="a canvas is square, got 4 x 6"):
        crop(torch.zeros(1, 1, 4, 6), Region(height=2, width=2))
    with pytest.raises(ValueError, match=r"expected a region \[..., 2, 2\], got \[1, 1, 2, 3\]"):
        place(torch.zeros(1, 1, 2, 3), Region(height=2, width=2), 8)


@pytest.mark.parametrize("how", ["crop", "stretch"])
def test_an_image_of_the_regions_size_keeps_its_pixels(how):
    image = noise(24, 32)
    fitted = fit(image, Region(height=24, width=32, fit=how))
    assert fitted.dtype == torch.float32
    assert fitted.shape == (3, 24, 32)
    assert (fitted[0, 0, 0].item() + 1) * 127.5 == pytest.approx(image[0, 0, 0])
    assert np.array_equal(to_uint8(fitted[None])[0], image)


def test_the_middle_of_an_image_of_another_aspect_is_kept():
    wide = fit(ramp(20, 60), Region(height=20, width=20))
    assert np.array_equal(to_uint8(wide[None])[0], ramp(20, 60)[:, 20:40])
    tall = fit(ramp(60, 20), Region(height=10, width=20))
    assert np.array_equal(to_uint8(tall[None])[0], ramp(60, 20)[25:35])


def test_stretching_keeps_all_of_the_image():
    image = ramp(20, 60)
    fitted = to_uint8(fit(image, Region(height=20, width=20, fit="stretch"))[None])[0]
    assert np.array_equal(fitted, np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.LANCZOS)))
    assert fitted[:, 0, 0].max() <= 2
    assert fitted[:, -1, 0].min() >= 57


def test_a_fine_pattern_turns_grey_when_reduced():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = fit(stripes, Region(height=16, width=16))[:, 2:-2, 2:-2]
    assert inner.abs().max() < 0.05


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (333, 7), (97, 131)])
def test_images_of_any_size_are_fitted(height, width):
    fitted = fit(noise(height, width), Region(height=12, width=16))
    assert fitted.shape == (3, 12, 16)
    assert fitted.abs().max() <= 1
    assert fit_labels(np.ones((height, width), np.int32), Region(height=12, width=16)).shape == (12, 16)


@pytest.mark.parametrize("image", [noise(4, 4)[..., 0], noise(4, 4) / 255, np.zeros((0, 4, 3), np.uint8)])
def test_what_is_not_an_rgb_image_is_refused(image):
    with pytest.raises(ValueError, match="expected an RGB image"):
        fit(image, Region(height=4, width=4))


def test_labels_follow_the_image():
    labels_HW = np.arange(12, dtype=np.int32).reshape(2, 6)
    assert fit_labels(labels_HW, Region(height=2, width=2)).tolist() == [[2, 3], [8, 9]]
    assert fit_labels(labels_HW, Region(height=2, width=3, fit="stretch")).tolist() == [[1, 3, 5], [7, 9, 11]]
    assert fit_labels(labels_HW, Region(height=4, width=4)).tolist() == [[2, 2, 3, 3]] * 2 + [[8, 8, 9, 9]] * 2
    assert fit_labels(labels_HW, Region(height=2, width=2)).dtype == np.int32


def test_labels_stay_within_half_a_pixel_of_the_image():
    red = fit(ramp(90, 120), Region(height=50, width=30))[0]
    columns_HW = fit_labels(np.tile(np.arange(120), (90, 1)), Region(height=50, width=30))
    assert np.abs((red.numpy() + 1) * 127.5 - columns_HW)[:, 2:-2].max() <= 1


def test_labels_of_another_layout_are_refused():
    with pytest.raises(ValueError, match=r"expected labels \[H, W\], got \[2, 2, 1\]"):
        fit_labels(np.zeros((2, 2, 1), np.int32), Region(height=2, width=2))


def test_pixels_are_rounded_and_clamped():
    grey = torch.tensor([-7.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0.9999, 3.0])
    assert to_uint8(grey.expand(1, 3, 1, -1))[0, 0, :, 1].tolist() == [0, 0, 0, 1, 255, 255]


def test_pixels_are_laid_out_as_images():
    x_N3HW = torch.randn(2, 3, 4, 5, requires_grad=True)
    pixels = to_uint8(x_N3HW)
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


def test_psnr_worked_by_hand():
    x = torch.zeros(3, 3, 2, 2)
    y = torch.stack([torch.full((3, 2, 2), 0.2), torch.full((3, 2, 2), 2.0), torch.zeros(3, 2, 2)])
    # halved to [0, 1]: differences .1, .5 (clamped), 0
    assert psnr_db(x, y).tolist() == pytest.approx([20, 20 * math.log10(2), math.inf])


def test_psnr_is_an_images_own_and_symmetric():
    x, y = torch.rand(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    psnr = psnr_db(x, y)
    assert torch.equal(psnr, psnr_db(y, x))
    assert torch.equal(psnr[2:3], psnr_db(x[2:3], y[2:3]))
    with pytest.raises(ValueError, match="one shape"):
        psnr_db(x, y[:1])


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden/2_sam/preprocess.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.mark.parametrize("index", [0, 1])
def test_fitting_reaches_the_golden_images(golden, index):
    image = golden[f"img{index}"]
    small = fit(image, Region(height=24, width=32, fit="stretch"))
    np.testing.assert_allclose(small, golden[f"build_t_24x32_{index}"], atol=1e-6)
    full = fit(image, Region(height=image.shape[0], width=image.shape[1]))
    np.testing.assert_allclose(full, golden[f"build_t_full_{index}"], atol=1e-6)


def test_rounding_is_above_the_golden_truncation_by_one_level_at_most(golden):
    ours = to_uint8(torch.from_numpy(golden["tensor2pil_in"])[None])[0].astype(int)
    above = ours - golden["tensor2pil_out"]
    assert set(np.unique(above)) == {0, 1}
