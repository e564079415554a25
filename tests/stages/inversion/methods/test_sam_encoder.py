"""The SAM encoder as a method: its own codes in the assigned spaces, in one pass; others are refused."""

import numpy as np
import pytest
import torch

from generators.errors import ArgumentError
from stages.base.errors import SettingError, WeightsError
from stages.encoder.checkpoint import load_sam_encoder
from stages.encoder.fitting import shown
from stages.images.image_member import pixels_of
from stages.inversion.methods import FromSamEncoder
from stages.inversion.packing import unpack_codes
from stages.maps.region import Region, fit
from tests import tiny
from tests.generators.published import tiny as tiny_generator
from tests.stages.inversion.methods.inverted import CPU, STRIPES_HW, inverted, sam_encoder, sample, sources, stage_of


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def path(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    path.write_bytes(sam_encoder(networks))
    return path


def test_it_records_the_encoders_codes_where_each_space_was_assigned(networks, path):
    found, other = inverted(stage_of(networks, {"kind": "sam_encoder", "checkpoint": path}), sample(0), sample(1))
    image_13HW = fit(pixels_of(sample(0)), Region.whole(tiny.SIDE_PX))[None]
    codes = load_sam_encoder(path)(*shown(image_13HW, torch.from_numpy(STRIPES_HW)[None], 3, Region.whole(32), 32))
    np.testing.assert_allclose(found.row["w_plus"], codes.w_plus[0].numpy(), rtol=1e-2, atol=1e-2)
    stored = unpack_codes(found.row["w_plus"], found.arrays)
    for space, delta in stored.deltas.items():
        acts = stored.masks[space].expand_as(delta) > 0
        torch.testing.assert_close(delta[acts], codes.deltas[space][acts], rtol=1e-2, atol=1e-2)
    assert set(stored.deltas) == {"F2", "F4"}
    assert (found.row["steps"], found.row["loss"]) == (1, None)
    assert found.row["psnr_db"] != other.row["psnr_db"]


def test_without_a_checkpoint_it_waits_for_the_runs_own(networks):
    stage = stage_of(networks, {"kind": "sam_encoder"})
    assert stage.method.needs_training
    with pytest.raises(SettingError, match="has no checkpoint; name one, or configure train_encoder"):
        stage.setup(CPU)


def test_a_missing_file_another_generator_and_other_spaces_are_refused_by_name(networks, path, tmp_path):
    method = FromSamEncoder(checkpoint=path)
    generator = networks["generator"].load(CPU)
    method.check_fits(generator, tiny.SPACES)
    with pytest.raises(ArgumentError, match=r"gives codes in W\+, F2, F4, but this run inverts in W\+, F4"):
        method.check_fits(generator, ("W+", "F4"))
    with pytest.raises(ArgumentError, match="give the encoder of this generator"):
        method.check_fits(tiny_generator(16), ("W+", "F2"))
    with pytest.raises(WeightsError, match="no such encoder"):
        FromSamEncoder(checkpoint=tmp_path / "none").check_fits(generator, tiny.SPACES)
