"""The benchmark of time to equal quality: its steps are the engine's, and its figures follow from what was reached."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import time_to_quality
from benchmarks.harness.descent import invert_all
from benchmarks.harness.descents import Stepwise, gauss_newton_on_w, lbfgs_on_w
from benchmarks.methods import assigned, held_out
from benchmarks.time_to_quality import Reached
from stages.engine.schedule import Schedule

CPU = torch.device("cpu")
FEW_DRAWS = {"kind": "learnt", "samples": 16}


@pytest.fixture(scope="module")
def samples():
    return assigned(held_out(2), CPU)


@pytest.fixture(scope="module")
def work(samples):
    made, _ = time_to_quality.work_of_samples(FEW_DRAWS, samples, CPU)
    return replace(made, inverter=replace(made.inverter, precision="fp32"))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.7, 0.9)])
def test_plain_steps_are_the_engines(work, betas):
    schedule = Schedule(steps=5, learning_rate=0.1, betas=betas)
    items = [replace(item, schedule=schedule) for item in work.items]
    expected = invert_all(work.inverter.loss(), items, len(items))
    batch, _ = work.descended(Stepwise(schedule=schedule), schedule.steps)
    for number, item in enumerate(items):
        codes, theirs = batch.codes_of(number, item), expected[number].codes
        torch.testing.assert_close(codes.w_plus, theirs.w_plus, rtol=0, atol=1e-3)
        assert codes.deltas.keys() == theirs.deltas.keys()
        for space, delta in codes.deltas.items():
            torch.testing.assert_close(delta, theirs.deltas[space], rtol=0, atol=1e-3)


@pytest.mark.parametrize("finish", [lbfgs_on_w, gauss_newton_on_w])
def test_a_second_optimiser_lowers_the_loss_of_every_image_and_leaves_deltas(work, finish):
    batch = work.batch()
    before_N, _ = work.judged(batch)
    deltas = {space: moving.now.clone() for space, moving in batch.deltas.items()}
    finish(work, batch, 6)
    assert (work.judged(batch)[0] < before_N).all()
    assert all(torch.equal(moving.now, deltas[space]) for space, moving in batch.deltas.items())


def test_ways_of_their_own_rates_and_losses_lower_the_loss(work):
    before_N, _ = work.judged(work.batch())
    for name in ("w alone first", "half size first", "LPIPS in every 2nd step, twice the weight", "NAdam"):
        batch, seconds = work.descended(time_to_quality.VARIANTS[name], 4)
        assert work.judged(batch)[0].mean() < before_N.mean(), name
        assert seconds > 0


def reached(loss: float, seconds: float) -> Reached:
    return Reached(np.array([loss, loss]), np.zeros(2), seconds)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (reached(0.2, 8.0), 8.0),  # above the first point
        (reached(0.05, 8.0), 4.0),  # between 1 s with 0.1 and 4 s with 0.025: half-way in logarithms
        (reached(0.025, 8.0), 2.0),
        (reached(0.01, 8.0), None),
    ],
)
def test_the_time_to_a_loss_is_interpolated_in_logarithms(wanted, expected):
    assert time_to_quality.speed_up({5: reached(0.1, 1.0), 20: reached(0.025, 4.0)}, wanted) == expected


def test_differences_from_the_reference_are_paired():
    reference = Reached(np.array([0.1, 0.3]), np.array([20.0, 10.0]), 1.0)
    other = Reached(np.array([0.1, 0.2]), np.array([21.0, 13.0]), 1.0)
    figures = other.figures(reference)
    assert figures["more_loss"] == pytest.approx([-0.25, 0.25])
    assert figures["more_psnr_db"] == pytest.approx([2, 1])


def test_every_way_has_its_figures_and_a_picture(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_quality, "held_out", lambda count: [])
    monkeypatch.setattr(time_to_quality, "assigned", lambda found, device: samples)
    monkeypatch.setattr(time_to_quality, "QUICK", (1, 3))
    monkeypatch.setitem(time_to_quality.STARTS, "learnt", FEW_DRAWS)
    threads, written, drawn = torch.get_num_threads(), tmp_path / "figures.json", tmp_path / "curves.png"
    try:
        assert time_to_quality.main(["--quick", "--json", str(written), "--plot", str(drawn)]) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(written.read_text())
    assert report["qualities"].keys() == {"learnt, today, 3", "encoder, today, 3"}
    for start in ("learnt", "encoder"):
        assert tuple(report["demo"][start]) == time_to_quality.PAYING
        today = report["demo"][start]["today"]
        assert today["speed_up"][f"{start}, today, 3"] >= 1  # few steps from an encoder may be worse than fewer
        assert today["reached"]["3"]["more_loss"] == [0, 0]
    assert drawn.stat().st_size > 10_000
