"""A compiled loss: as the loss is, whichever spaces a batch holds, and there even without a compiler."""

import shutil

import pytest
import torch

from benchmarks.harness.descent import invert_all, separate
from generators.latents import Codes
from stages.engine.compiled_loss import CompiledLoss, repays_compiling
from stages.engine.schedule import Schedule
from tests.stages.small_work import Work

CPU = torch.device("cpu")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "stages.engine.compiled_loss"]


@pytest.fixture(scope="module")
def work() -> Work:
    return Work.make(torch.float32)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++, and there is none")
def test_compiled_inversions_are_those_of_the_loss_and_fewer_spaces_compile_nothing_again(work, caplog):
    torch.compiler.reset()
    schedule = Schedule(steps=4, learning_rate=0.05)
    items = [work.item(i, schedule) for i in (3, 0, 1, 2, 3)]
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found = invert_all(CompiledLoss(work.loss, CPU), items, 1)
    assert not warnings(caplog)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1
    for ours, theirs in zip(found, invert_all(work.loss, items, 1), strict=True):
        assert ours.codes.deltas.keys() == theirs.codes.deltas.keys()
        torch.testing.assert_close(ours.codes.w_plus, theirs.codes.w_plus, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours.trace.terms["total"], theirs.trace.terms["total"], rtol=1e-3, atol=0)


def test_without_a_compiler_it_says_so_once_and_continues_uncompiled(work, caplog, monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    torch.compiler.reset()
    compiled, target = CompiledLoss(work.loss, CPU), work.target
    terms = [compiled(work.start, target) for _ in range(2)]
    assert torch.equal(terms[0], terms[1])
    assert torch.equal(terms[0], work.loss(work.start, target))
    (said,) = warnings(caplog)
    assert "the loss cannot be compiled in mode default" in said
    assert "continuing uncompiled" in said


def test_a_backward_that_cannot_be_compiled_is_noticed_before_the_step_needs_it(work, caplog, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda loss, **_: lambda *given: _NoBackward.apply(loss(*given)))
    compiled = CompiledLoss(work.loss, CPU)
    (inversion,) = invert_all(compiled, [work.item(3, Schedule(steps=3))], 1)
    assert not inversion.diverged
    assert len(warnings(caplog)) == 1


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return x.clone()

    @staticmethod
    def backward(_ctx, _gradient):
        raise RuntimeError("backward: no compiler")


def test_spaces_that_come_later_and_batches_of_another_width_give_what_the_loss_gives(work, monkeypatch):
    """Compilation itself is left out: this is about what is compiled."""
    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda loss, **_: lambda codes, target: (seen.append(codes), loss(codes, target))[1]
    )
    compiled, parts = CompiledLoss(work.loss, CPU), separate(work.start)
    for image in (1, 2, 0, 3):  # F2, F4, none, both
        assert torch.equal(compiled(parts[image], work.target[image]), work.loss(parts[image], work.target[image]))
    assert [tuple(codes.deltas) for codes in seen] == [("F2",), ("F2", "F4"), ("F2", "F4"), ("F2", "F4")]
    assert torch.equal(compiled(work.start, work.target), work.loss(work.start, work.target))
    assert torch.equal(compiled(parts[0], work.target[0]), work.loss(parts[0], work.target[0]))
    assert tuple(seen[-1].deltas) == ()


def test_what_the_loss_itself_raises_is_raised_and_says_nothing_of_compilers(work, caplog, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda loss, **_: loss)
    (alone, *_) = separate(work.start)
    wrong = Codes(alone.w_plus[:, :1], alone.deltas, alone.masks)
    with pytest.raises(ValueError, match="w must be"):
        CompiledLoss(work.loss, CPU)(wrong, work.target[0])
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("steps_of_images", "side_px", "device", "wanted"),
    [
        (40 * 4 * 50, 64, "cpu", False),  # the demo's error maps
        (10_000 * 5 * 501, 256, "cpu", True),  # the thesis's supervision
        (64 * 1001, 256, "cpu", True),
        (64 * 1001, 256, "cuda", False),
        (10_000 * 1001, 256, "cuda", True),
    ],
)
def test_compiling_pays_where_much_is_left_to_do(steps_of_images, side_px, device, wanted):
    assert repays_compiling(steps_of_images, side_px, torch.device(device)) is wanted
