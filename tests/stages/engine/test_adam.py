"""One step: Adam by hand and against torch's, each image with its own rate and its own count of steps."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from generators.latents import Codes
from stages.engine.adam import adam, pace, step
from stages.engine.batch import Batch, Item, Moving
from stages.engine.schedule import Schedule
from stages.objective.objective import Target
from stages.perceptual.distance import Features


def moving(rows: list[list[float]], **changes) -> Moving:
    now = torch.tensor(rows, dtype=torch.float64)
    return Moving.begin(torch.arange(len(now)), changes.get("free", torch.ones(len(now), dtype=torch.bool)), now)


BETAS = (0.9, 0.999)


def paces(*each: tuple[float, int], betas: Sequence[tuple[float, float]] = (), dtype=torch.float64) -> torch.Tensor:
    of_each = zip(each, betas or [BETAS] * len(each), strict=True)
    return torch.tensor([pace(*one, its_betas) for one, its_betas in of_each], dtype=dtype).T


def everyone(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.bool)


def test_the_first_adam_steps_worked_by_hand():
    # f(x) = Σ x²/2: gradient x; the first step moves every element by the rate, whatever its gradient
    x = moving([[1.0], [-4.0]])
    adam(x, x.now.clone(), paces((0.1, 0), (0.1, 0)), everyone(2))
    assert x.now.flatten().tolist() == pytest.approx([0.9, -3.9], abs=1e-7)
    adam(x, x.now.clone(), paces((0.1, 1), (0.1, 1)), everyone(2))
    first, second = 0.9 * 0.1 * 1 + 0.1 * 0.9, 0.999 * 0.001 * 1 + 0.001 * 0.81
    move = 0.1 * (first / (1 - 0.9**2)) / math.sqrt(second / (1 - 0.999**2))
    assert x.now[0].item() == pytest.approx(0.9 - move, abs=1e-7)


def test_every_row_is_moved_as_torch_moves_it_alone_at_its_own_rate_step_and_betas():
    begun = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rates = ((0.0, 0.1, 0.1, 0.02, 0.3, 0.3), (0.2, 0.2, 0.1, 0.1), (0.05,) * 5)
    enters = (0, 1, 3)  # the step at which a row begins
    betas = (BETAS, (0.7, 0.9), (0.0, 0.99))
    x = moving(begun.tolist())
    counts = [0, 0, 0]
    for now in range(8):
        runs = torch.tensor([0 <= now - e < len(r) for e, r in zip(enters, rates, strict=True)])
        each = [(r[min(c, len(r) - 1)], c) for r, c in zip(rates, counts, strict=True)]
        gradient = 4 * x.now**3 + x.now.cos()
        adam(x, torch.where(runs[:, None], gradient, 0), paces(*each, betas=betas), runs)
        counts = [c + bool(run) for c, run in zip(counts, runs, strict=True)]
    for row, of_row in zip(x.now, range(3), strict=True):
        theirs = torch.nn.Parameter(begun[of_row].clone())
        optimiser = torch.optim.Adam([theirs], betas=betas[of_row])
        for rate in rates[of_row]:
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            (theirs**4 + theirs.sin()).sum().backward()
            optimiser.step()
        torch.testing.assert_close(row, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_rows_that_are_not_free_or_not_alive_stay_whatever_their_gradient():
    x = moving([[1.0], [2.0], [3.0]], free=torch.tensor([True, False, True]))
    gradient = torch.tensor([[1.0], [math.nan], [math.inf]], dtype=torch.float64)
    adam(x, gradient, paces(*[(0.1, 0)] * 3), torch.tensor([True, True, False]))
    assert x.now.flatten().tolist() == pytest.approx([0.9, 2.0, 3.0], abs=1e-7)


def item(w: float, delta: float | None = None, *, tied: bool = False) -> Item:
    image = torch.zeros(1, 3, 2, 2)
    deltas = {} if delta is None else {"F4": torch.full((1, 1, 2, 2), delta)}
    masks = {space: torch.ones(1, 1, 2, 2) for space in deltas}
    codes = Codes(torch.full((1, 3, 1), w), deltas, masks)
    return Item(Target(image, Features((image,), (1, 3, 2, 2), "")), codes, Schedule(), frozenset(deltas), tied=tied)


def quadratic(codes: Codes, target: Target) -> torch.Tensor:
    """Rows of w_plus weigh 1, 2, 3; a delta is counted where its mask lets it act."""
    weights = torch.tensor([1.0, 2.0, 3.0])[:, None]
    acting = [(codes.masks[space] * delta).square().flatten(1).sum(dim=1) for space, delta in codes.deltas.items()]
    return torch.stack(
        [(weights * codes.w_plus.square()).flatten(1).sum(dim=1), sum(acting, torch.zeros(len(codes.w_plus)))]
    )


def batch_of(*items: Item) -> Batch:
    batch = Batch.idle(items[0], len(items))
    batch.put(dict(enumerate(items)))
    return batch


def test_a_delta_is_carried_for_the_images_in_which_it_acts_and_goes_with_them():
    batch = batch_of(item(1.0), item(2.0, 0.5), item(3.0), item(4.0, 0.25))
    assert batch.deltas["F4"].image.tolist() == [1, 3]
    terms = step(quadratic, batch, paces(*[(0.1, 0)] * 4, dtype=torch.float32))
    assert terms[1].tolist() == [0, 4 * 0.5**2, 0, 4 * 0.25**2]
    assert batch.deltas["F4"].now[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.15])
    batch.remove([1])
    assert batch.deltas["F4"].image.tolist() == [3]
    batch.put({1: item(1.0, 0.75)})
    assert batch.deltas["F4"].image.tolist() == [1, 3]
    assert batch.deltas["F4"].now[:, 0, 0, 0].tolist() == pytest.approx([0.75, 0.15])
    assert batch.deltas["F4"].first[:, 0, 0, 0].tolist() == pytest.approx([0, 0.1 * 0.5])
    batch.remove([1, 3])
    assert (batch.deltas, batch.masks) == ({}, {})


def test_tied_rows_move_together_along_the_sum_of_their_gradients():
    batch = batch_of(item(1.0), item(1.0, tied=True))
    for taken in range(3):
        step(quadratic, batch, paces(*[(0.1, taken)] * 2, dtype=torch.float32))
    alone = moving([[1.0]])
    for taken in range(3):
        adam(alone, 2 * (1 + 2 + 3) * alone.now, paces((0.1, taken)), everyone(1))
    assert batch.w_plus.now[1].flatten().tolist() == pytest.approx([alone.now.item()] * 3, abs=1e-6)
    assert len(set(batch.w_plus.now[0].flatten().tolist())) > 1


def test_an_image_whose_loss_is_not_finite_stays_and_is_not_fine():
    batch = batch_of(item(1.0), item(math.inf), item(2.0, math.nan))
    step(quadratic, batch, paces(*[(0.1, 0)] * 3, dtype=torch.float32))
    assert batch.alive.tolist() == batch.fine().tolist() == [True, False, False]
    assert batch.w_plus.now[:, 0, 0].tolist() == pytest.approx([0.9, math.inf, 2.0])


def test_a_last_step_into_nowhere_is_not_fine():
    # the loss √x² is finite at 0, its gradient there is not
    batch = batch_of(item(0.0), item(1.0))
    step(lambda codes, _: codes.w_plus.square().sqrt().sum(dim=1).T, batch, paces(*[(0.1, 0)] * 2, dtype=torch.float32))
    assert (batch.alive.tolist(), batch.fine().tolist()) == ([True, True], [False, True])


class CountReads(TorchDispatchMode):
    """Counts how often a value is read back from the device, and shapes that depend on values."""

    reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        self.reads += function in {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default}
        return function(*args, **(kwargs or {}))


def test_no_step_reads_a_value_back_from_the_device():
    batch = batch_of(item(1.0), item(2.0, 0.5))
    with CountReads() as count:
        torch.ones(1).item()
        step(quadratic, batch, paces(*[(0.1, 0)] * 2, dtype=torch.float32))
    assert count.reads == 1  # the one above
