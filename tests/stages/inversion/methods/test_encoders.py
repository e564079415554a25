"""Encoders as a method and as a start: their own codes, or codes to continue from; others are refused."""

import numpy as np
import pytest
import torch

from generators import load_encoder
from generators.errors import ArgumentError
from stages.base.errors import WeightsError
from stages.images.image_member import pixels_of
from stages.inversion.methods import Encode
from stages.maps.region import Region, fit
from tests import tiny
from tests.generators.biggan_folder import tiny_biggan
from tests.generators.encoders.small import published
from tests.stages.inversion.methods.inverted import CPU, inverted, sample, sources, stage_of


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("networks"))


def written(folder, encoder_type: str = "Encoder4Editing", **opts):
    path = folder / "encoder.pt"
    path.write_bytes(published(encoder_type, resolution=32, rows=8, w_dim=8, **opts).data)
    return path


@pytest.mark.parametrize(("encoder_type", "passes"), [("Encoder4Editing", 1), ("BackboneEncoder", 2)])
def test_encode_records_the_encoders_codes_and_its_passes(networks, tmp_path, encoder_type: str, passes: int):
    path = written(tmp_path, encoder_type, n_iters_per_batch=2)
    (found,) = inverted(stage_of(networks, {"kind": "encode", "encoder": {"checkpoint": path}}), sample(0))
    image_3HW = fit(pixels_of(sample(0)), Region.whole(tiny.SIDE_PX))
    expected = load_encoder(path)(image_3HW[None])[0].half().numpy()
    np.testing.assert_allclose(found.row["w_plus"], expected, rtol=1e-2, atol=1e-2)
    assert (found.row["steps"], found.row["loss"], found.row["share_w_plus"]) == (passes, None, 1)
    assert not [name for name in found.arrays if name.endswith((".delta", ".codes"))]


def test_an_encoder_is_a_start_and_the_hybrid_is_the_same(networks, tmp_path):
    encoder = {"checkpoint": written(tmp_path)}
    small = {"steps": 1, "learning_rate": 1e-6}
    stage = stage_of(networks, start={"kind": "encoder", "encoder": encoder}, schedule=small)
    (started,) = inverted(stage, sample(0))
    (hybrid,) = inverted(stage_of(networks, {"kind": "hybrid", "encoder": encoder}, schedule=small), sample(0))
    np.testing.assert_array_equal(started.row["w_plus"], hybrid.row["w_plus"])
    image_3HW = fit(pixels_of(sample(0)), Region.whole(tiny.SIDE_PX))
    codes = load_encoder(encoder["checkpoint"])(image_3HW[None])[0]
    torch.testing.assert_close(torch.from_numpy(started.row["w_plus"]).float(), codes, rtol=1e-2, atol=1e-2)


def test_a_hybrid_with_another_start_is_refused(tmp_path, networks):
    method = {"kind": "hybrid", "encoder": {"checkpoint": tmp_path / "e4e.pt"}}
    with pytest.raises(ValueError, match="both say where inversions start: remove start"):
        stage_of(networks, method, start={"kind": "learnt", "samples": 8})


def test_an_encoder_of_another_generator_is_refused_by_name(tmp_path, networks):
    path = tmp_path / "church.pt"
    path.write_bytes(published("Encoder4Editing").data)
    method = Encode.model_validate({"encoder": {"checkpoint": path}})
    generator = stage_of(networks).viewer(CPU).generator
    with pytest.raises(ArgumentError, match=r"church\.pt \(e4e\) was trained for a generator of 16 px"):
        method.check_fits(generator, generator.spaces)
    with pytest.raises(ArgumentError, match="work with StyleGAN2 only"):
        method.check_fits(tiny_biggan(), tiny_biggan().spaces)
    with pytest.raises(WeightsError, match=r"no weights at .*missing\.pt"):
        Encode.model_validate({"encoder": {"checkpoint": tmp_path / "missing.pt"}}).check()


def test_codes_that_are_not_finite_reject_their_image_alone(networks, tmp_path, monkeypatch):
    stage = stage_of(networks, {"kind": "encode", "encoder": {"checkpoint": written(tmp_path)}})
    real = type(load_encoder(tmp_path / "encoder.pt")).forward

    def bright_ones_fail(encoder, images):
        codes = real(encoder, images)
        codes[images.mean(dim=(1, 2, 3)) > images.mean()] = torch.nan
        return codes

    monkeypatch.setattr("generators.encoders.encoder.Encoder.forward", bright_ones_fail)
    dark, bright = sorted(map(sample, (0, 1)), key=lambda one: pixels_of(one).mean())
    kept, rejected = stage.setup(CPU)([dark, bright])
    assert kept.row["psnr_db"] > 0
    assert "codes that the encoder gives for it are not finite" in rejected.reason


def test_where_memory_is_full_fewer_images_pass_at_once_and_none_is_lost(networks, tmp_path, monkeypatch, caplog):
    stage = stage_of(networks, {"kind": "encode", "encoder": {"checkpoint": written(tmp_path)}}, batch=4)
    real = type(load_encoder(tmp_path / "encoder.pt")).forward

    def small_memory(encoder, images):
        if len(images) > 1:
            raise torch.OutOfMemoryError("no room")
        return real(encoder, images)

    monkeypatch.setattr("generators.encoders.encoder.Encoder.forward", small_memory)
    assert [record.key for record in inverted(stage, *map(sample, range(3)))] == ["s0", "s1", "s2"]
    assert "no memory for the encoder's passes of" in caplog.text
