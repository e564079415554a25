"""The SAM encoder: its own codes in the assigned spaces, in one pass or to start from; others are refused."""

from typing import Any

import numpy as np
import pytest
import torch

from generators.errors import ArgumentError
from stages.base.errors import SettingError, WeightsError
from stages.encoder.checkpoint import load_sam_encoder
from stages.encoder.fitting import shown
from stages.error_maps import ErrorMaps
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


SMALL = {"steps": 1, "learning_rate": 1e-9}
"""A schedule that leaves codes where they start."""


@pytest.mark.parametrize("as_start", [True, False])
def test_inversions_start_from_its_w_plus_and_deltas(networks, path, as_start: bool):
    encoder = {"kind": "sam", "checkpoint": path}
    method = {"kind": "optimise"} if as_start else {"kind": "hybrid", "encoder": encoder}
    start = {"start": {"kind": "encoder", "encoder": encoder}} if as_start else {}
    exact: dict[str, Any] = {"bundles": {"max_loss_db": 0}, "precision": "fp32"}
    (started,) = inverted(stage_of(networks, method, schedule=SMALL, **exact, **start), sample(0))
    (encoded,) = inverted(stage_of(networks, {"kind": "sam_encoder", "checkpoint": path}, **exact), sample(0))
    np.testing.assert_allclose(started.row["w_plus"], encoded.row["w_plus"], atol=1e-3)
    codes, expected = (unpack_codes(record.row["w_plus"], record.arrays) for record in (started, encoded))
    assert set(codes.deltas) == {"F2", "F4"}
    for space, delta in codes.deltas.items():
        assert float(expected.deltas[space].abs().max()) > 0.05
        torch.testing.assert_close(delta, expected.deltas[space], rtol=1e-2, atol=1e-3)


def test_in_w_plus_alone_the_encoder_is_told_so_and_gives_no_delta(networks, path):
    encoder = {"kind": "sam", "checkpoint": path}
    method = {"kind": "hybrid", "encoder": encoder, "spaces": "W+"}
    (found,) = inverted(stage_of(networks, method, schedule=SMALL), sample(0))
    image_13HW = fit(pixels_of(sample(0)), Region.whole(tiny.SIDE_PX))[None]
    nowhere_else = torch.zeros(1, tiny.SIDE_PX, tiny.SIDE_PX, dtype=torch.uint8)
    codes = load_sam_encoder(path)(*shown(image_13HW, nowhere_else, 3, Region.whole(32), 32))
    np.testing.assert_allclose(found.row["w_plus"], codes.w_plus[0].numpy(), rtol=1e-2, atol=1e-2)
    assert not unpack_codes(found.row["w_plus"], found.arrays).deltas


def test_deltas_start_at_zero_where_nothing_acts(networks, path):
    stage = stage_of(networks, start={"kind": "encoder", "encoder": {"kind": "sam", "checkpoint": path}})
    inverter = stage.inverter(CPU)
    left_HW = np.where(np.arange(tiny.SIDE_PX)[None] < 8, 2, 0).astype(np.uint8).repeat(tiny.SIDE_PX, axis=0)
    masks = inverter.masks(left_HW[None])
    photograph = stage.photograph(sample(0), pixels_of(sample(0)), inverter)
    start = inverter.item(photograph, masks, assignment_HW=left_HW).start
    acts = masks["F4"].expand_as(start.deltas["F4"]) > 0
    assert bool(start.deltas["F4"][acts].any())
    assert not bool(start.deltas["F4"][~acts].any())


def test_error_maps_cannot_start_from_an_encoder_that_is_trained_after_them(networks):
    start = {"kind": "encoder", "encoder": {"kind": "sam"}}
    with pytest.raises(ValueError, match="trained after error maps, which cannot start from it; name the file"):
        ErrorMaps.model_validate({**networks, "start": start})


@pytest.mark.parametrize("method", [{"kind": "sam_encoder"}, {"kind": "hybrid", "encoder": {"kind": "sam"}}])
def test_without_a_checkpoint_it_waits_for_the_runs_own(networks, path, method):
    stage = stage_of(networks, method)
    assert stage.method.needs_training
    assert stage.with_encoder(path).method.encoder.checkpoint == path
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
