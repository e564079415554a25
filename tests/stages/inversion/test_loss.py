import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness.descent import descend, start_codes
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.latents import W_PLUS, Codes, zero_deltas
from generators.prior import Prior, estimate_prior
from stages.engine.result import Inversion
from stages.engine.schedule import Schedule
from stages.maps.region import Region, crop
from stages.objective.objective import TERMS, Objective, losses, prepare_target
from stages.perceptual.backbones import SmallBackbone
from stages.perceptual.distance import Perceptual
from stages.perceptual.weights import load_perceptual
from tests.recipe import golden_generator, vgg_trunk

REGION = Region(top=4, height=24, width=32)
OBJECTIVE = Objective(lambda_gaussian=1e-3)
FAST = Schedule(steps=12)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(1)
    config = StyleGAN2Config(z_dim=8, w_dim=8, img_resolution=32, channel_base=128, channel_max=8, mapping_layers=2)
    return StyleGAN2(config).double().freeze()


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    torch.manual_seed(2)
    heads = [torch.full((1, 4, 1, 1), 0.25)] * 2
    return Perceptual(SmallBackbone((4, 4)), heads, name="test", digest="test", min_side_px=2).double()


@pytest.fixture(scope="module")
def prior(generator) -> Prior:
    return estimate_prior(generator, samples=100, shrinkage=0.01)


def masks(count: int) -> dict[str, torch.Tensor]:
    """Image 0 uses F2 on the left, image 1 F4 everywhere, the others W+ only."""
    f2, f4 = torch.zeros(count, 1, 8, 8).double(), torch.zeros(count, 1, 16, 16).double()
    f2[0, :, :, :4], f2[0, :, :, 4] = 1, 0.5
    f4[1:2] = 1
    return {"F2": f2, "F4": f4}


def start(generator: StyleGAN2, prior: Prior, count: int) -> Codes:
    codes = start_codes(generator, prior, masks(count), count)
    return Codes(codes.w_plus.double(), {s: d.double() for s, d in codes.deltas.items()}, codes.masks)


def photographs(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 24, 32, generator=torch.Generator().manual_seed(3)).double() * 2 - 1


def invert(generator, perceptual, prior, codes: Codes, images: torch.Tensor, schedule: Schedule = FAST, **more):
    objective = more.pop("objective", OBJECTIVE)
    target = prepare_target(images, perceptual, objective)
    return descend(generator, perceptual, prior, target, codes, objective, schedule, REGION, **more)


@pytest.fixture(scope="module")
def inversion(generator, perceptual, prior) -> Inversion:
    return invert(generator, perceptual, prior, start(generator, prior, 3), photographs(3))


def only(codes: Codes, index: int) -> Codes:
    part = slice(index, index + 1)
    return Codes(
        codes.w_plus[part],
        {space: delta[part] for space, delta in codes.deltas.items()},
        {space: mask[part] for space, mask in codes.masks.items()},
    )


def test_rates_worked_by_hand():
    schedule = Schedule(steps=100, learning_rate=0.2, ramp_up=0.1, ramp_down=0.5)
    # linear to step 10, flat to step 50, half the cosine at step 75
    assert [schedule.rate(s) for s in (0, 5, 10, 50, 75)] == pytest.approx([0, 0.1, 0.2, 0.2, 0.1])


def test_without_ramps_the_rate_is_constant():
    schedule = Schedule(steps=3, learning_rate=0.1, ramp_up=0, ramp_down=0)
    assert [schedule.rate(s) for s in range(3)] == [0.1] * 3


@pytest.mark.parametrize("steps", [1001, 501, 60, 12])
def test_rates_reach_the_golden_ones(shared, steps):
    with np.load(shared / "golden/2_sam/lr_schedule.npz") as golden:
        wanted = golden[f"lr_{steps}"]
    schedule = Schedule(steps=steps)
    np.testing.assert_allclose([schedule.rate(s) for s in range(steps)], wanted, rtol=1e-12)


@pytest.mark.parametrize("field", [{"steps": 0}, {"learning_rate": 0}, {"ramp_up": 1.5}, {"warmup": 0.1}])
def test_a_schedule_that_is_none_is_refused(field):
    with pytest.raises(ValidationError):
        Schedule(**field)


def test_inversions_start_from_mean_w_and_zero_deltas(generator, prior):
    codes = start_codes(generator, prior, {"F4": torch.ones(2, 1, 16, 16)}, 2)
    assert codes.w_plus.shape == (2, generator.num_ws, 8)
    assert torch.equal(codes.w_plus, prior.mean_w.float().expand(2, generator.num_ws, 8))
    assert {space: list(delta.shape) for space, delta in codes.deltas.items()} == {"F4": [2, 8, 16, 16]}
    assert codes.deltas["F4"].abs().max() == 0
    with pytest.raises(ValueError, match="expected masks of 3 images, got 2 in F4"):
        start_codes(generator, prior, codes.masks, 3)


def test_every_image_comes_closer_to_its_target(generator, perceptual, prior, inversion):
    total_KN = inversion.trace.terms["total"]
    assert (total_KN[-1] < 0.9 * total_KN[0]).all()
    assert not inversion.diverged.any()


def test_the_trace_holds_the_terms_before_each_step(generator, perceptual, prior, inversion):
    assert inversion.trace.steps.tolist() == list(range(12))
    assert set(inversion.trace.terms) == {*TERMS, "total"}
    begun = start(generator, prior, 3)
    image = crop(generator.synthesize(begun.w_plus, begun.deltas, begun.masks), REGION)
    target = prepare_target(photographs(3), perceptual, OBJECTIVE)
    wanted = losses(image, begun, target, perceptual, prior, OBJECTIVE)
    for name, term_N in zip(TERMS, wanted, strict=True):
        torch.testing.assert_close(inversion.trace.terms[name][0], term_N)
    torch.testing.assert_close(inversion.trace.terms["total"][0], wanted.sum(dim=0))


@pytest.mark.parametrize(
    ("steps", "wanted"), [(1, [0]), (3, [0, 1, 2]), (120, [*range(0, 120, 2), 119]), (1001, list(range(0, 1001, 20)))]
)
def test_long_traces_are_thinned_and_keep_the_last_step(steps, wanted):
    schedule = Schedule(steps=steps)
    assert [step for step in range(steps) if schedule.traces(step)] == wanted


def test_an_image_alone_takes_the_path_it_takes_in_a_batch(generator, perceptual, prior, inversion):
    for index in range(3):
        codes = only(start(generator, prior, 3), index)
        alone = invert(generator, perceptual, prior, codes, photographs(3)[index : index + 1])
        together = only(inversion.codes, index)
        torch.testing.assert_close(alone.codes.w_plus, together.w_plus, rtol=0, atol=1e-8)
        for space in ("F2", "F4"):
            torch.testing.assert_close(alone.codes.deltas[space], together.deltas[space], rtol=0, atol=1e-8)
        torch.testing.assert_close(
            alone.trace.terms["total"][:, 0], inversion.trace.terms["total"][:, index], rtol=1e-9, atol=0
        )


def test_a_space_that_an_image_does_not_use_stays_zero(inversion):
    deltas = inversion.codes.deltas
    assert deltas["F2"][0, :, :, :5].abs().min() > 0
    assert deltas["F2"][0, :, :, 5:].abs().max() == 0
    assert deltas["F2"][1:].abs().max() == 0
    assert deltas["F4"][[0, 2]].abs().max() == 0


def test_the_start_and_the_generator_are_left_as_they_are(generator, perceptual, prior):
    trainable = StyleGAN2(generator.config).double()
    trainable.load_state_dict(generator.state_dict())
    codes = start(generator, prior, 1)
    before = codes.w_plus.clone()
    found = invert(trainable, perceptual, prior, codes, photographs(1), Schedule(steps=2, ramp_up=0))
    assert torch.equal(codes.w_plus, before)
    assert codes.deltas["F2"].abs().max() == 0
    assert all(parameter.grad is None for parameter in trainable.parameters())
    assert not found.codes.w_plus.requires_grad


@pytest.mark.parametrize("free", [{W_PLUS}, {"F2"}, {"F2", "F4"}])
def test_only_what_is_free_moves(generator, perceptual, prior, free):
    begun = start(generator, prior, 2)
    found = invert(generator, perceptual, prior, begun, photographs(2), Schedule(steps=3), free=free).codes
    moved = {W_PLUS} if not torch.equal(found.w_plus, begun.w_plus) else set()
    moved |= {space for space, delta in found.deltas.items() if delta.abs().max() > 0}
    assert moved == free


@pytest.mark.parametrize("free", [{"F6"}, set()])
def test_a_free_space_that_is_not_in_the_codes_is_refused(generator, perceptual, prior, free):
    with pytest.raises(ValueError, match=r"some of W\+, F2, F4"):
        invert(generator, perceptual, prior, start(generator, prior, 1), photographs(1), free=free)


def test_codes_without_deltas_are_w_plus_inversions(generator, perceptual, prior):
    begun = replace(start(generator, prior, 2), deltas={}, masks={})
    found = invert(generator, perceptual, prior, begun, photographs(2), Schedule(steps=3))
    assert found.codes.deltas == {}
    assert found.trace.terms["delta"].abs().max() == 0


def test_a_region_outside_the_canvas_is_refused(generator, perceptual, prior):
    target = prepare_target(photographs(1), perceptual, OBJECTIVE)
    with pytest.raises(ValueError, match="leave the canvas of 32 x 32"):
        descend(
            generator,
            perceptual,
            prior,
            target,
            start(generator, prior, 1),
            OBJECTIVE,
            FAST,
            Region(height=24, width=33),
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_target_that_is_not_finite_diverges_alone(generator, perceptual, prior, inversion, bad):
    images = photographs(3)
    images[1, 0, 0, 0] = bad
    begun = start(generator, prior, 3)
    found = invert(generator, perceptual, prior, begun, images)
    assert found.diverged.tolist() == [False, True, False]
    assert torch.equal(found.codes.w_plus[1], begun.w_plus[1])
    for index in (0, 2):
        assert torch.equal(found.codes.w_plus[index], inversion.codes.w_plus[index])
        assert torch.equal(found.codes.deltas["F2"][index], inversion.codes.deltas["F2"][index])


class CountReads(TorchDispatchMode):
    """Counts how often a value is read back from the device."""

    reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_step_reads_a_value_back_from_the_device(generator, perceptual, prior):
    codes, target = start(generator, prior, 2), prepare_target(photographs(2), perceptual, OBJECTIVE)
    with CountReads() as count:
        torch.ones(1).item()
        descend(generator, perceptual, prior, target, codes, OBJECTIVE, Schedule(steps=3), REGION)
    assert count.reads == 1  # the one above


class Opening(Schedule):
    """The first steps of a longer schedule."""

    of: int

    def rate(self, step: int) -> float:
        return Schedule(steps=self.of).rate(step)


GOLDEN_TERMS = {
    "mse": "mse", "lpips": "lpips", "gaussian": "mvg", "variation": "delta", "delta": "frec", "total": "total"
}  # fmt: skip
TOLERANCE = {"total": 5e-3, "delta": 5e-2}


@pytest.fixture(scope="module")
def vgg(shared, tmp_path_factory) -> Perceptual:
    path = tmp_path_factory.mktemp("vgg") / "trunk.safetensors"
    save_file(vgg_trunk(), path)
    return load_perceptual("vgg", weights=path)


@pytest.fixture(scope="module", params=["square", "cars"])
def published(shared, vgg, request):
    """What an inversion by the authors' code began with, and what it came to."""
    folder = shared / "golden/2_sam"
    square = request.param == "square"
    with np.load(folder / f"inversion_{request.param}_const_noise.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}
    if square:
        with np.load(folder / "mvg_stats_w512.npz") as file:
            golden |= {key: torch.from_numpy(file[key]) for key in ("mean_v", "inv_cov_v")}
    generator = golden_generator(shared, "G256_w512" if square else "G512_cars")
    objective = Objective() if square else Objective(lambda_gaussian=1e-5)
    region = Region.whole(256) if square else Region(top=64, height=384, width=512)
    chosen = {space: golden[f"mask_{space}"] for space in ("F4", "F6", "F8", "F10")}
    codes = Codes(golden["wp_init"], zero_deltas(chosen, generator.feature_shapes), chosen)
    mean = golden["mean_v"].double()
    some_prior = Prior(mean, golden["inv_cov_v"], torch.zeros_like(mean))
    target = prepare_target(golden["target_u8"] / 127.5 - 1, vgg, objective)
    return golden, (generator, vgg, some_prior, target, codes, objective), region


def test_gradients_reach_the_golden_ones_before_step_0(published):
    golden, (generator, vgg, some_prior, target, codes, objective), region = published
    leaves = {W_PLUS: codes.w_plus, **codes.deltas}
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items() if f"grad0_{name}" in golden}
    now = Codes(leaves[W_PLUS], {**codes.deltas, **{s: d for s, d in leaves.items() if s != W_PLUS}}, codes.masks)
    image = crop(generator.synthesize(now.w_plus, now.deltas, now.masks), region)
    loss = losses(image, now, target, vgg, some_prior, objective).sum()
    for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        wanted = golden[f"grad0_{name}"]
        if wanted.ndim == 0:  # of the largest deltas, only the norm was kept
            assert gradient.norm().item() == pytest.approx(wanted.item(), rel=1e-3)
        else:
            assert (gradient - wanted).abs().max() < 1e-3 * wanted.abs().max()


def test_the_first_5_steps_reach_the_golden_trace_and_codes(published):
    golden, parts, region = published
    found = descend(*parts, Opening(steps=5, of=len(golden["trace_lr"])), region)
    for ours, theirs in GOLDEN_TERMS.items():
        wanted = golden[f"trace_{theirs}"][:5]
        torch.testing.assert_close(found.trace.terms[ours][:, 0], wanted, rtol=TOLERANCE.get(ours, 2e-2), atol=0)
    # single elements with hardly any gradient may take Adam's sign either way
    difference = (found.codes.w_plus - golden["W+_after_step4"]).abs()
    assert difference.max() < 2e-3
    assert (difference < 2e-4).float().mean() > 0.995


def test_an_image_that_fails_in_a_carried_delta_fails_alone(generator, perceptual, prior):
    codes = start(generator, prior, 3)
    codes.deltas["F4"][1] = math.inf
    found = invert(generator, perceptual, prior, codes, photographs(3))
    assert found.diverged.tolist() == [False, True, False]
