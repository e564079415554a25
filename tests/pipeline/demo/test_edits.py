"""The demo's edits: its directions move what they are named after, and the true edits change nothing else."""

import io

import numpy as np
import pytest
import torch

from generators import load_generator
from generators.directions.direction import check_fits
from generators.directions.loading import read_directions
from generators.directions.sampling import seeded_w
from pipeline.demo.edits import DIRECTIONS, EDITS, TRUE_MAGNITUDES, pixels, true_edits
from pipeline.demo.fit_directions import GENERATOR, z_of
from pipeline.demo.occluders import Occluded, paste_occluder
from pipeline.demo.scenes import LABELS, PARAMETERS, Z_DIM, draw_scenes, scene_parameters

SEEDS = range(30_000, 30_008)
"""Not those on which the directions were fitted or scaled."""


@pytest.fixture(scope="module")
def generator():
    return load_generator(GENERATOR)


@pytest.fixture(scope="module")
def occluded() -> tuple[torch.Tensor, Occluded]:
    z = torch.randn(1, Z_DIM, generator=torch.Generator().manual_seed(5))
    scene = draw_scenes(z)
    labels_HW = scene.labels[0].numpy().astype(np.uint8)
    return z[0], paste_occluder(pixels(scene)[0], labels_HW, "rings", np.random.default_rng(1))


def test_the_shipped_directions_are_the_demos_and_name_their_generator(generator):
    shipped = read_directions(DIRECTIONS).directions
    assert shipped.keys() == EDITS.keys()
    for name, direction in shipped.items():
        check_fits(direction.delta, generator.num_ws, generator.w_dim, name)
        assert direction.provenance.generator_sha256 == generator.digest
        assert direction.provenance.kind == EDITS[name].way
        assert direction.provenance.layers == EDITS[name].layers


@pytest.mark.parametrize("name", EDITS)
def test_magnitude_1_moves_its_parameter_by_one_standard_deviation(generator, name):
    """Of some moves of the renderer, the one by 1 comes closest to the edited samples."""
    edit, direction = EDITS[name], read_directions(DIRECTIONS).directions[name]
    edited = generator.synthesize(next(seeded_w(generator, SEEDS)) + direction.delta)
    away = {
        move: float((draw_scenes(z_of(SEEDS), moved={edit.parameter: move}).image - edited).square().mean())
        for move in (-1.0, 0.0, 0.5, 1.0, 1.5)
    }
    assert min(away, key=away.get) == 1.0


@pytest.mark.parametrize("name", EDITS)
def test_a_moved_parameter_moves_alone(name):
    z = torch.randn(4, Z_DIM, generator=torch.Generator().manual_seed(2))
    moved = scene_parameters(z, {EDITS[name].parameter: 1.0})
    changed = (moved != scene_parameters(z)).any(dim=0).nonzero().flatten().tolist()
    assert changed == [PARAMETERS.index(EDITS[name].parameter)]


def test_true_edits_leave_the_occluder_and_the_rest_of_the_scene_alone(occluded):
    z, scene = occluded
    with np.load(io.BytesIO(true_edits(z, scene)), allow_pickle=False) as images:
        assert set(images.files) == {f"{name}.{magnitude:g}" for name in EDITS for magnitude in TRUE_MAGNITUDES}
        for image_HW3 in images.values():
            changed_HW = (image_HW3 != scene.image).any(axis=2)
            assert changed_HW.sum() > 20
            assert not (changed_HW & scene.mask).any()
            assert not changed_HW[:12].any()  # the sky


def test_a_true_edit_of_colour_changes_the_car_only(occluded):
    z, scene = occluded
    with np.load(io.BytesIO(true_edits(z, scene)), allow_pickle=False) as images:
        changed_HW = (images["car-colour.1"] != scene.image).any(axis=2)
    car_HW = torch.from_numpy(scene.labels == LABELS.index("car"))
    near_HW = torch.nn.functional.max_pool2d(car_HW[None].float(), 3, stride=1, padding=1)[0] > 0
    assert not (changed_HW & ~near_HW.numpy()).any()


def test_equal_scenes_have_equal_bytes(occluded):
    assert true_edits(*occluded) == true_edits(*occluded)
