"""Images, maps and masks at a smaller size: which size, by what means, and from what."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.maps.reduction import at_size, fit_reduced, reduced, reduced_size
from stages.maps.region import Region, fit

CARS = Region(top=64, height=384, width=512)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("size", "side_px", "wanted"),
    [
        ((64, 64), 256, (64, 64)),  # never larger than the region
        ((256, 256), 256, (256, 256)),
        ((384, 512), 256, (192, 256)),
        ((1024, 1024), 256, (256, 256)),
        ((300, 500), 256, (154, 256)),
        ((1, 600), 256, (1, 256)),
        ((384, 512), None, (384, 512)),
    ],
)
def test_the_longer_side_is_reduced_and_the_aspect_kept(size, side_px, wanted):
    assert reduced_size(size, side_px) == wanted
    assert reduced(torch.zeros(1, 1, *size), side_px).shape[2:] == wanted


@pytest.mark.parametrize("side_px", [256, None])
@pytest.mark.parametrize("size", [(30, 50), (64, 64), (200, 90)])
def test_where_the_region_is_small_enough_a_photograph_is_fitted_as_ever(size, side_px):
    region = Region.whole(64)
    assert torch.equal(fit_reduced(photograph(*size), region, side_px), fit(photograph(*size), region))


def test_a_photograph_of_the_regions_size_is_reduced_as_generated_images_are():
    image_HW3 = photograph(384, 512)
    wanted = F.interpolate(fit(image_HW3, CARS)[None], size=(192, 256), mode="area")[0]
    torch.testing.assert_close(fit_reduced(image_HW3, CARS, 256), wanted)


def test_areas_of_a_larger_photograph_are_averaged_without_a_detour_over_the_region():
    image_HW3 = photograph(768, 1024)  # four by four pixels for one
    wanted = F.avg_pool2d(torch.from_numpy(image_HW3).permute(2, 0, 1).float() / 127.5 - 1, 4)
    torch.testing.assert_close(fit_reduced(image_HW3, CARS, 256), wanted, rtol=0, atol=1e-5)
    detour = reduced(fit(image_HW3, CARS)[None], 256)[0]
    assert (detour - wanted).abs().max() > 0.01


def test_pixels_on_a_border_count_with_the_part_that_lies_inside():
    row = np.array([0, 30, 90], np.uint8)  # three pixels for two: 0 and half of 30, half of 30 and 90
    image_HW3 = np.repeat(np.repeat(row[None, :, None], 3, axis=0), 3, axis=2)
    found = fit_reduced(image_HW3, Region.whole(4), 2)
    torch.testing.assert_close(found[0], torch.tensor([[10.0, 70.0], [10.0, 70.0]]) / 127.5 - 1)


@pytest.mark.parametrize(("fitting", "kept"), [("crop", slice(128, 896)), ("stretch", slice(None))])
def test_what_the_region_cuts_off_is_not_averaged(fitting, kept):
    image_HW3 = photograph(1024, 1024)
    region = CARS.model_copy(update={"fit": fitting})
    inner = torch.from_numpy(image_HW3[kept]).permute(2, 0, 1)[None].double() / 127.5 - 1
    wanted = F.interpolate(inner, size=(192, 256), mode="area")[0]
    if fitting == "crop":
        torch.testing.assert_close(fit_reduced(image_HW3, region, 256).double(), wanted, rtol=0, atol=1e-5)
    else:
        assert fit_reduced(image_HW3, region, 256).shape == wanted.shape
        assert fit_reduced(image_HW3, region, 256).mean() == pytest.approx(float(inner.mean()), abs=1e-5)


def test_a_photograph_smaller_than_the_result_is_enlarged_once():
    image_HW3 = photograph(96, 128)
    wanted = fit(image_HW3, Region(height=192, width=256))
    assert torch.equal(fit_reduced(image_HW3, CARS, 256), wanted)
    assert torch.equal(fit_reduced(photograph(192, 256), CARS, 256), fit(photograph(192, 256), CARS, (192, 256)))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), photograph(0, 4)])
def test_only_rgb_images_are_fitted(wrong):
    with pytest.raises(ValueError, match="expected an RGB image"):
        fit_reduced(wrong, CARS, 256)


def test_a_map_at_the_size_of_the_region_has_the_same_mean():
    error_LHW = np.random.default_rng(0).random((2, 6, 8))
    larger = at_size(error_LHW, (12, 24))
    assert larger.shape == (2, 12, 24)
    np.testing.assert_allclose(larger.mean(axis=(1, 2)), error_LHW.mean(axis=(1, 2)))
    np.testing.assert_array_equal(at_size(larger, (6, 8)), error_LHW)
    assert at_size(error_LHW, (6, 8)) is error_LHW


@pytest.mark.parametrize(("height", "width"), [(300, 384), (256, 384), (5, 384)])
def test_generated_images_are_reduced_as_photographs_are_where_sides_are_not_multiples(height: int, width: int):
    image_HW3 = photograph(height, width)
    twice_as_large_HW3 = image_HW3.repeat(2, axis=0).repeat(2, axis=1)
    generated_N3HW = fit(image_HW3, Region(height=height, width=width))[None]
    wanted = fit_reduced(twice_as_large_HW3, Region(height=height, width=width), 256)
    torch.testing.assert_close(reduced(generated_N3HW, 256)[0], wanted, rtol=0, atol=1e-5)


def test_reduction_keeps_float32_inside_autocast():
    image = torch.from_numpy(photograph(1, 3)).permute(2, 0, 1)[None].float()
    with torch.autocast("cpu", torch.bfloat16):
        found = reduced(image, 2)
    assert torch.equal(found, reduced(image, 2))
    assert found.dtype == torch.float32
