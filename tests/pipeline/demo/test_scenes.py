"""The demo's scenes: drawn from z alone, with labels that say exactly what was painted where."""

import numpy as np
import pytest
import torch

from pipeline.demo.scenes import LABELS, PARAMETERS, Z_DIM, draw_scenes, scene_parameters

CAR, SUN, SKY, ROAD, FIELD = (LABELS.index(name) for name in ("car", "sun", "sky", "road", "field"))


@pytest.fixture(scope="module")
def z():
    return torch.randn(24, Z_DIM, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def scenes(z):
    return draw_scenes(z)


def with_parameter(name, value):
    """Return a z whose named component is far from the others' middle."""
    z = torch.zeros(1, Z_DIM)
    z[0, -1] = 5.0  # keeps the length, which plays no part, from being zero
    z[0, PARAMETERS.index(name)] = value
    return z


def test_equal_z_give_equal_scenes(z, scenes):
    again = draw_scenes(z.clone())
    assert torch.equal(again.image, scenes.image)
    assert torch.equal(again.labels, scenes.labels)


def test_a_scene_does_not_depend_on_its_neighbours(z, scenes):
    alone = draw_scenes(z[5:6])
    assert torch.allclose(alone.image[0], scenes.image[5], atol=1e-6)
    assert torch.equal(alone.labels[0], scenes.labels[5])


def test_another_z_is_another_scene(scenes):
    flat = scenes.image.flatten(1)
    assert (torch.cdist(flat, flat) + torch.eye(len(flat)) > 0.5).all()


def test_the_length_of_z_plays_no_part(z, scenes):
    assert torch.allclose(draw_scenes(3 * z).image, scenes.image, atol=1e-4)


def test_components_without_a_parameter_change_nothing_but_the_length():
    z = torch.zeros(2, Z_DIM)
    z[:, 0] = 1.0
    z[0, len(PARAMETERS)] = z[1, len(PARAMETERS) + 1] = 1.0
    first, second = draw_scenes(z).image
    assert torch.equal(first, second)


def test_parameters_are_shares_and_grow_with_their_component(z):
    unit = scene_parameters(z)
    assert unit.shape == (24, len(PARAMETERS))
    assert 0 <= unit.min() < 0.1 < 0.9 < unit.max() <= 1
    low, high = (scene_parameters(with_parameter("car_x", value))[0] for value in (-2.0, 2.0))
    moved = (low != high).nonzero().flatten().tolist()
    assert moved == [PARAMETERS.index("car_x")]
    assert low[moved] < 0.5 < high[moved]


@pytest.mark.parametrize("resolution", [32, 64, 96])
def test_images_and_labels_have_the_resolution_and_are_in_range(z, resolution):
    scenes = draw_scenes(z[:4], resolution)
    assert scenes.image.shape == (4, 3, resolution, resolution)
    assert scenes.labels.shape == (4, resolution, resolution)
    assert scenes.image.isfinite().all()
    assert -1.1 <= scenes.image.min() < scenes.image.max() <= 1.1
    assert set(scenes.labels.unique().tolist()) <= set(range(len(LABELS) - 1))


def test_every_scene_has_a_car_a_sky_and_a_road_and_nothing_occluding_it(scenes):
    for labels in scenes.labels:
        counts = np.bincount(labels.flatten(), minlength=len(LABELS))
        assert counts[CAR] > 80
        assert counts[SKY] > 80
        assert counts[ROAD] > 80
        assert counts[LABELS.index("occluder")] == 0


def test_the_sun_is_labelled_where_it_was_painted():
    z = with_parameter("sun_x", 1.5)
    share_x, share_y = (scene_parameters(z)[0, PARAMETERS.index(name)].item() for name in ("sun_x", "sun_y"))
    centre_x, centre_y = 0.08 + 0.84 * share_x, 0.07 + 0.17 * share_y
    middles = (torch.arange(64) + 0.5) / 64
    away = torch.hypot(middles[None, :] - centre_x, middles[:, None] - centre_y)
    painted = draw_scenes(z).labels[0] == SUN
    assert torch.equal(painted, (away < 0.065) & ~(draw_scenes(z).labels[0] > SUN))
    assert painted.sum() > 30


def test_what_moves_is_what_is_labelled():
    """Only the car's colour differs: pixels outside the car and its antialiased edge stay equal."""
    first, second = (draw_scenes(with_parameter("car_hue", value)) for value in (-0.4, 0.4))
    assert torch.equal(first.labels, second.labels)
    changed = (first.image - second.image).abs().amax(dim=1)[0] > 0.02
    car = first.labels[0] == CAR
    near = torch.nn.functional.max_pool2d(car[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    assert changed.any()
    assert not (changed & ~near).any()
    assert (changed & car).sum() > 0.4 * car.sum()


def test_objects_in_front_hide_those_further_back(scenes):
    bottom = scenes.labels[:, -2]
    assert set(bottom.unique().tolist()) == {ROAD}
    assert (scenes.labels[:, 0] != FIELD).all()
