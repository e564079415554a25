"""Inversion with networks in half precision: the loss that is reached is that of full precision."""

import pytest
import torch

from benchmarks.harness.descent import invert_all
from stages.engine.schedule import Schedule
from stages.objective import precision as half
from stages.objective.precision import GRADIENT_SCALE, computed_in, in_precision, lowered, scaled_gradient
from tests.stages.small_work import COUNT, Work

SCHEDULE = Schedule(steps=40, learning_rate=0.05)


@pytest.fixture(scope="module")
def work() -> Work:
    return Work.make(torch.float32)


def mean_final_loss(work: Work, precision) -> float:
    items = [work.item(i, SCHEDULE, precision) for i in range(COUNT)]
    found = invert_all(work.loss_in(precision), items, COUNT)
    assert not any(bool(one.diverged) for one in found)
    losses = []
    for i, one in enumerate(found):  # judged in full precision, whatever they were found in
        losses.append(float(work.loss_in("fp32")(one.codes, work.target[i]).sum()))
    return sum(losses) / COUNT


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_final_loss_is_that_of_full_precision_within_a_hundredth(work, precision):
    wanted = mean_final_loss(work, "fp32")
    before = sum(float(work.loss(work.item(i, SCHEDULE).start, work.target[i]).sum()) for i in range(COUNT)) / COUNT
    assert wanted < 0.7 * before, "something must have been gained that half precision could lose"
    assert mean_final_loss(work, precision) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_networks_are_lowered_and_the_rest_is_not(work, precision):
    seen = {}
    for name, module in work.generator.named_modules():
        if name.endswith("conv1"):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.dtype}))
    terms = work.loss_in(precision)(work.start, work.target_in(precision))
    assert set(seen.values()) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert terms.dtype == torch.float64
    full = work.loss(work.start, work.target)
    assert torch.equal(terms[2:], full[2:]), "the prior's terms and the deltas' see no network"
    torch.testing.assert_close(terms[:2], full[:2], rtol=0.02, atol=1e-4)


def test_gradients_too_small_for_fp16_survive(work):
    """Nothing of the gradient is lost: it is that of full precision in direction and length."""
    gradients = {}
    for precision in ("fp32", "fp16"):
        w_plus = work.start.w_plus.clone().requires_grad_()
        codes = type(work.start)(w_plus, work.start.deltas, work.start.masks)
        terms = 1e-4 * work.loss_in(precision)(codes, work.target_in(precision))  # as a mean over more pixels is
        (gradients[precision],) = torch.autograd.grad(terms.sum(), [w_plus])
    torch.testing.assert_close(
        gradients["fp16"], gradients["fp32"], rtol=0.05, atol=float(gradients["fp32"].abs().max()) / 50
    )


def test_a_scaled_gradient_leaves_the_value_as_it_is():
    x = torch.tensor([2.0, -3.0], requires_grad=True)
    y = scaled_gradient(x, GRADIENT_SCALE)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y.square().sum(), [x])
    assert torch.equal(gradient, 2 * x * GRADIENT_SCALE)


def test_full_precision_lowers_nothing():
    with lowered("fp32", torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
    with lowered("bf16", torch.device("cpu")):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


def test_auto_is_half_precision_only_where_the_device_computes_faster_in_it(monkeypatch):
    cpu = torch.device("cpu")
    assert computed_in("fp16", cpu) == "fp16", "a stated precision is taken as it is"
    measured = {torch.float32: 3.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(half, "_convolution_s", lambda dtype, _layout: measured[dtype])
    for seconds, wanted in ((1.0, "bf16"), (2.9, "fp32")):
        measured[torch.bfloat16] = seconds
        half._half_pays.cache_clear()
        assert computed_in("auto", cpu) == wanted
    half._half_pays.cache_clear()


def test_this_processor_is_measured_in_both_precisions():
    for dtype in (torch.float32, torch.bfloat16):
        assert 0 < half._convolution_s(dtype, torch.channels_last) < 10


def test_a_network_cast_once_computes_what_autocast_computes(work):
    cast = in_precision(work.generator, "bf16")
    weights = [p.dtype for p in cast.parameters() if p.ndim == 4]
    assert set(weights) == {torch.bfloat16}, "some weights are of convolutions, and all of those are cast"
    assert {p.dtype for p in work.generator.parameters()} == {torch.float32}, "images are made in full precision"
    assert in_precision(work.generator, "fp32") is work.generator
    with torch.no_grad(), lowered("bf16", torch.device("cpu")):
        images = [network.synthesize(work.start.w_plus) for network in (cast, work.generator)]
    torch.testing.assert_close(*images, rtol=0.02, atol=0.02)


def test_only_the_named_part_is_cast(work):
    cast = in_precision(work.perceptual, "bf16", "backbone.")
    dtypes = {name.startswith("backbone."): p.dtype for name, p in cast.named_parameters() if p.ndim == 4}
    assert dtypes == {True: torch.bfloat16, False: torch.float32}
