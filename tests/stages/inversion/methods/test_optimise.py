"""Optimisation in the spaces that maps assign, or in one space for the whole image."""

import numpy as np
import pytest

from pipeline.data.fingerprint import settings_of
from stages.base.errors import SettingError
from stages.inversion.methods import Optimise
from stages.inversion.packing import unpack_codes
from tests import tiny
from tests.generators.biggan_folder import tiny_biggan
from tests.stages.inversion.methods.inverted import CPU, inverted, sample, sources, stage_of


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("networks"))


@pytest.mark.parametrize("space", ["W+", "F2", "F4"])
def test_an_image_may_be_inverted_in_one_space_whatever_its_maps_are(networks, space: str):
    (found,) = inverted(stage_of(networks, {"kind": "optimise", "spaces": space}), sample(0))
    assert np.unique(found.arrays["assignment_HW"]).tolist() == [tiny.SPACES.index(space)]
    assert found.row[f"share_{space.lower().replace('+', '_plus')}"] == 1
    codes = unpack_codes(found.row["w_plus"], found.arrays)
    assert set(codes.deltas) == set() if space == "W+" else {space}
    assert all(bool((mask == 1).all()) for mask in codes.masks.values())


def test_in_w_all_layers_share_one_code_that_moves(networks):
    (tied,) = inverted(stage_of(networks, {"kind": "optimise", "spaces": "W"}), sample(0))
    (free,) = inverted(stage_of(networks, {"kind": "optimise", "spaces": "W+"}), sample(0))
    w_plus = tied.row["w_plus"]
    assert (w_plus == w_plus[:1]).all()
    assert not (free.row["w_plus"] == free.row["w_plus"][:1]).all()
    assert tied.row["share_w_plus"] == 1
    mean_w = stage_of(networks).inverter(CPU).prior.mean_w.numpy()
    assert np.abs(w_plus[0] - mean_w).max() > 0.01


def test_the_maps_decide_by_default_and_nothing_of_it_is_hashed(networks):
    stage = stage_of(networks)
    (by_maps,) = inverted(stage, sample(0))
    assert len(np.unique(by_maps.arrays["assignment_HW"])) == 3
    assert "method" not in settings_of(stage)
    assert "method" not in settings_of(stage_of(networks, {"kind": "optimise", "spaces": "maps"}))
    assert settings_of(stage_of(networks, {"kind": "optimise", "spaces": "W"}))["method"] == Optimise(spaces="W")


def test_a_space_that_the_run_lacks_is_refused_by_name(networks):
    with pytest.raises(SettingError, match="no space 'F8' in this run; choose among maps, W, W\\+, F2, F4"):
        stage_of(networks, {"kind": "optimise", "spaces": "F8"}).setup(CPU)
    with pytest.raises(SettingError, match="no space 'F4' in this run"):
        stage_of(networks, {"kind": "optimise", "spaces": "F4"}, spaces=("W+", "F2")).setup(CPU)


def test_w_is_refused_in_a_generator_without_it():
    generator = tiny_biggan()
    with pytest.raises(SettingError, match=r"one code for all layers of a StyleGAN2, .* biggan_deep has Z\+"):
        Optimise(spaces="W").check_fits(generator, generator.spaces)
