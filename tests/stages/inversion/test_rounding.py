"""The steps of stored codes: as large as the limits permit, and what they cost is what is recorded."""

import numpy as np
import pytest
import torch

from generators.latents import Codes
from generators.source import GeneratorSource
from pipeline.data.fingerprint import settings_of
from stages.inversion.packing import format_of, pack_codes, unpack_codes
from stages.inversion.rounding import MAX_LPIPS_LOSS, Packed, Packing, pack_exactly, pack_within
from stages.inversion.viewer import Viewer
from stages.invert import Invert
from stages.maps.region import Region
from stages.perceptual.source import PerceptualSource
from tests import tiny

CPU = torch.device("cpu")
SIDE = tiny.SIDE_PX


@pytest.fixture(scope="module")
def viewer(tmp_path_factory) -> Viewer:
    networks = tiny.write_networks(tmp_path_factory.mktemp("networks"))
    generator = GeneratorSource(checkpoint=networks["generator"]).load(CPU)
    perceptual = PerceptualSource(backbone="small", weights=networks["perceptual"]).load(CPU)
    return Viewer(generator, perceptual, Region.whole(SIDE), tiny.SPACES)


def found(viewer: Viewer, seed: int, noise: float = 0.1) -> tuple[Codes, torch.Tensor]:
    """Return codes and the photograph that they nearly form."""
    random = torch.Generator().manual_seed(seed)
    thirds_HW = np.repeat(np.arange(SIDE, dtype=np.uint8)[None] * 3 // SIDE, SIDE, axis=0)
    masks = viewer.masks(thirds_HW[None])
    generator = viewer.generator
    deltas = {s: 0.5 * torch.randn(1, *generator.feature_shape(s), generator=random) for s in masks}
    codes = Codes(generator.map(torch.randn(1, generator.z_dim, generator=random)), deltas, masks)
    picture = viewer.picture(codes)
    return codes, (picture + noise * torch.randn(picture.shape, generator=random)).clamp(-1, 1)


def within(packed: Packed, loss_db: float) -> bool:
    assert packed.psnr_loss_db is not None
    assert packed.lpips_loss is not None
    return packed.psnr_loss_db <= loss_db and packed.lpips_loss <= MAX_LPIPS_LOSS


@pytest.mark.parametrize("seed", range(4))
def test_what_is_stored_loses_less_than_the_limits_and_larger_steps_lose_more(viewer, seed):
    codes, target = found(viewer, seed)
    packed = pack_within(Packing(), codes, target, viewer)
    assert packed.format == "int8"
    assert within(packed, 0.05)
    steps = {name.partition(".")[0]: 3 * float(a) for name, a in packed.arrays.items() if name.endswith(".step")}
    stored = unpack_codes(None, pack_codes(codes, 0, steps))
    before = viewer.measure(viewer.picture(codes), target)
    after = viewer.measure(viewer.picture(stored), target)
    lost = float(before.psnr_db - after.psnr_db) > 0.05 or float(after.lpips - before.lpips) > MAX_LPIPS_LOSS
    assert lost, "three times the step would have been good too"


def test_the_recorded_measures_and_losses_are_those_of_the_stored_codes(viewer):
    codes, target = found(viewer, 0)
    packed = pack_within(Packing(), codes, target, viewer)
    picture = viewer.picture(unpack_codes(None, packed.arrays))
    assert torch.equal(picture, packed.picture_13HW)
    after, before = viewer.measure(picture, target), viewer.measure(viewer.picture(codes), target)
    assert torch.equal(after.psnr_db, packed.measures.psnr_db)
    assert packed.psnr_loss_db == float(before.psnr_db - after.psnr_db)
    assert packed.lpips_loss == pytest.approx(float(after.lpips - before.lpips), abs=1e-7)


def test_a_zero_edit_of_stored_codes_is_exactly_the_stored_reconstruction(viewer):
    codes, target = found(viewer, 1)
    stored = unpack_codes(None, pack_within(Packing(), codes, target, viewer).arrays)
    generator = viewer.generator
    image = generator.synthesize(stored.w_plus, stored.deltas, stored.masks)
    assert torch.equal(generator.edit(stored.w_plus, stored.deltas, stored.masks, torch.zeros(generator.w_dim)), image)


def test_a_smaller_loss_is_stored_in_smaller_steps(viewer):
    codes, target = found(viewer, 2)
    steps = [pack_within(Packing(max_loss_db=db), codes, target, viewer).arrays["F4.step"] for db in (0.5, 0.05, 0.002)]
    assert steps[0] > steps[1] > steps[2]


def test_no_loss_keeps_float16_to_the_bit(viewer):
    codes, target = found(viewer, 3)
    packed = pack_within(Packing(max_loss_db=0), codes, target, viewer)
    assert packed.format == "float16"
    wanted = pack_codes(codes, 0)
    assert packed.arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(packed.arrays[name], array)


def test_an_image_whose_photograph_is_matched_nearly_exactly_needs_a_finer_type(viewer):
    codes, target = found(viewer, 0, noise=0.0)
    w_plus = codes.w_plus.half().float()  # else rounding w_plus loses more than is permitted
    exact = Codes(w_plus, codes.deltas, codes.masks)
    target = viewer.picture(exact) + 1e-5
    packed = pack_within(Packing(), exact, target, viewer)
    assert packed.format in ("int16", "float16")
    assert format_of(packed.arrays) == packed.format


def test_codes_without_deltas_are_stored_as_w_plus_alone(viewer):
    codes, target = found(viewer, 0)
    packed = pack_within(Packing(), Codes(codes.w_plus), target, viewer)
    assert packed.arrays.keys() == {"version", "w_plus"}


def test_deltas_that_change_nothing_are_stored_as_zeros(viewer):
    codes, target = found(viewer, 0)
    idle = Codes(codes.w_plus, {s: torch.zeros_like(delta) for s, delta in codes.deltas.items()}, codes.masks)
    packed = pack_within(Packing(), idle, target, viewer)
    assert packed.format == "int8"
    assert not packed.arrays["F4.codes"].any()


def test_the_default_loss_keeps_the_fingerprint_of_stores_made_before_and_another_does_not():
    def hashed(packing: Packing) -> dict:
        stage = Invert.model_construct(bundles=packing, generator=None, perceptual=None)
        return settings_of(stage, Invert.indifferent)

    assert "bundles" not in hashed(Packing())
    assert "bundles" not in hashed(Packing(reconstructions=True))
    assert hashed(Packing(max_loss_db=0.01))["bundles"] == {"max_loss_db": 0.01}


def test_codes_stored_together_are_those_stored_alone_in_float16(viewer):
    images = [found(viewer, seed) for seed in range(3)]
    together = pack_exactly([codes for codes, _ in images], torch.cat([target for _, target in images]), viewer)
    for packed, (codes, target) in zip(together, images, strict=True):
        alone = pack_within(Packing(max_loss_db=0), codes, target, viewer)
        assert (packed.format, packed.psnr_loss_db) == ("float16", None)
        for name, array in alone.arrays.items():
            np.testing.assert_array_equal(packed.arrays[name], array)
        assert float(packed.measures.psnr_db) == pytest.approx(float(alone.measures.psnr_db), abs=1e-3)
