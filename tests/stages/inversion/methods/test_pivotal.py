"""Pivotal tuning: the generator comes closer to the image, its change is stored small, and nothing else changes."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from generators.directions import Direction, Provenance, save_directions
from generators.latents import Codes
from stages.base.errors import SettingError
from stages.base.stage import Rejected, Sample
from stages.edit import Edit
from stages.inversion.methods import Pivotal
from stages.inversion.packing import unpack_codes
from stages.inversion.tuned import is_tuned, pack_change, tuned_generator
from stages.inversion.tuning import Locality, Noise, Tuning, near_pivot, tune
from stages.maps.region import to_uint8
from tests.generators.biggan_folder import tiny_biggan
from tests.stages.inversion.methods.inverted import CPU, inverted, sample, sources, stage_of

QUICK = {"kind": "pivotal", "pivot": {"steps": 4, "learning_rate": 0.05}}
TUNING = {"steps": 12, "learning_rate": 3e-3, "stop_lpips": 0.0, "locality": {"alpha": 1.0}}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def inverter(networks):
    return stage_of(networks).inverter(CPU)


def pivotal(networks, **tuning):
    return stage_of(networks, {**QUICK, "tuning": {**TUNING, **tuning}})


def test_tuning_comes_closer_than_its_pivot_and_the_bundle_forms_the_measured_image(networks, inverter):
    (pivot,) = inverted(pivotal(networks, steps=1, learning_rate=1e-12), sample(0))
    (tuned,) = inverted(pivotal(networks), sample(0))
    np.testing.assert_array_equal(tuned.row["w_plus"], pivot.row["w_plus"])
    assert (tuned.row["steps"], pivot.row["steps"]) == (16, 5)
    assert tuned.row["psnr_db"] > pivot.row["psnr_db"] + 0.5
    codes = unpack_codes(tuned.row["w_plus"], tuned.arrays)
    viewer = replace(inverter, generator=tuned_generator(inverter.generator, tuned.arrays))
    target = stage_of(networks).photograph(sample(0), stage_of(networks).image.picture(sample(0)).pixels_HW3, viewer)
    measures = viewer.measure(viewer.picture(codes), target.image_3HW[None])
    assert float(measures.psnr_db) == pytest.approx(tuned.row["psnr_db"], abs=1e-4)


def test_the_runs_generator_stays_as_it_is_and_images_do_not_see_each_other(networks):
    work = pivotal(networks).setup(CPU)
    (alone,) = work([sample(1)])
    first, second = work([sample(0), sample(1)])
    (again,) = work([sample(1)])
    for name, change in alone.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], change)
        np.testing.assert_allclose(second.arrays[name].astype(float), change.astype(float), atol=2)
    assert not np.array_equal(
        first.arrays["tuned.synthesis.b4.conv1.weight.change"], alone.arrays["tuned.synthesis.b4.conv1.weight.change"]
    )


def test_tuning_ends_where_the_image_is_close_enough(networks):
    (found,) = inverted(pivotal(networks, stop_lpips=10.0), sample(0))
    assert found.row["steps"] == 4
    assert not is_tuned(found.arrays)


def test_a_tuning_that_diverges_rejects_its_image(networks):
    (found,) = pivotal(networks, learning_rate=1e30).setup(CPU)([sample(0)])
    assert isinstance(found, Rejected)
    assert "tuning became non-finite at step" in found.reason


def test_the_change_is_stored_in_a_fraction_of_the_weights_bytes_and_read_back_to_half_a_level(inverter):
    generator = inverter.generator
    torch.manual_seed(0)
    changed = generator.thawed()
    with torch.no_grad():
        for weight in changed.tunable.values():
            weight.add_(0.01 * torch.randn_like(weight))
    arrays = pack_change(generator, changed)
    assert sum(array.nbytes for array in arrays.values()) < 0.4 * sum(4 * w.numel() for w in changed.tunable.values())
    read = tuned_generator(generator, arrays)
    for name, weight in changed.tunable.items():
        step = arrays[f"tuned.{name}.scale"].max()
        assert float((read.tunable[name] - weight).detach().abs().max()) <= 0.51 * step + 1e-7
    w = generator.map(torch.randn(2, generator.z_dim))
    assert torch.equal(read.synthesize(w), read.freeze().synthesize(w))
    assert not torch.equal(read.synthesize(w), generator.synthesize(w))


def test_without_a_change_the_generator_is_the_runs_own(inverter):
    assert pack_change(inverter.generator, inverter.generator.thawed()) == {}
    assert tuned_generator(inverter.generator, {"F4.delta": np.zeros(1)}) is inverter.generator


def test_a_thawed_generator_gives_the_same_images_and_gradients_to_its_synthesis_alone(inverter):
    generator = inverter.generator
    thawed, w = generator.thawed(), generator.map(torch.randn(1, generator.z_dim))
    image = thawed.synthesize(w)
    torch.testing.assert_close(image, generator.synthesize(w), rtol=1e-4, atol=1e-4)
    image.square().sum().backward()
    assert all(weight.grad is not None for weight in thawed.tunable.values())
    assert not any(parameter.requires_grad for parameter in thawed.mapping.parameters())
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_the_code_of_locality_lies_at_a_distance_towards_the_random_one():
    pivot, other = torch.zeros(1, 2, 2), torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    torch.testing.assert_close(near_pivot(pivot, other, 10.0), 2 * other)
    assert torch.equal(near_pivot(pivot, pivot, 10.0), pivot)


def test_locality_keeps_images_of_other_codes_nearer_to_what_they_were(inverter):
    generator = inverter.generator
    image = inverter.picture(Codes(generator.map(torch.ones(1, generator.z_dim))))
    target, pivot = inverter.target(image), Codes(inverter.prior.mean_w.float().expand(1, generator.num_ws, -1))
    near = near_pivot(pivot.w_plus, generator.map(torch.full((1, generator.z_dim), -1.0)), 1.0)
    changes = []
    for locality in (None, Locality(alpha=1.0, lambda_l2=10.0, lambda_lpips=0.0)):
        settings = Tuning(steps=20, learning_rate=3e-3, stop_lpips=0, locality=locality)
        tuned = tune(inverter, inverter.objective, settings, pivot, target, Noise.from_seed(0, None)).generator
        changes.append(float((tuned.synthesize(near) - generator.synthesize(near)).square().mean()))
    assert changes[1] < 0.7 * changes[0]


def test_a_family_without_weights_to_tune_is_refused_by_name():
    generator = tiny_biggan()
    with pytest.raises(SettingError, match="the family biggan_deep has none that can be tuned; choose optimise"):
        Pivotal().check_fits(generator, generator.spaces)


def test_edits_and_renderings_use_the_generator_of_each_image(networks, inverter, tmp_path):
    save_directions([Direction("d", torch.ones(1, 8), Provenance(kind="test"))], tmp_path / "d.safetensors")
    directions = [{"name": "d", "path": tmp_path / "d.safetensors"}]
    edit = Edit.model_validate(
        {"generator": networks["generator"], "directions": directions, "magnitudes": [0], "format": "png"}
    )
    records = inverted(pivotal(networks), sample(0), sample(1)) + inverted(stage_of(networks), sample(2))
    samples = [Sample(record.key, "shard", {}, {"invert": record}) for record in records]
    for record, edited in zip(records, edit.setup(CPU)(samples), strict=True):
        generator = tuned_generator(inverter.generator, record.arrays)
        codes = unpack_codes(record.row["w_plus"], record.arrays)
        expected = to_uint8(replace(inverter, generator=generator).picture(codes))[0]
        (png,) = edited.files.values()
        assert np.abs(np.asarray(Image.open(io.BytesIO(png))).astype(int) - expected).max() <= 1
