"""The benchmark of methods: every method has its figures, and a start's steps are those that reach the equal loss."""

import json

import pytest
import torch

from benchmarks import methods
from benchmarks.harness.encoder_share import encoder_shares
from stages.engine.schedule import Schedule

CPU = torch.device("cpu")


@pytest.fixture
def few(monkeypatch):
    """Two scenes and few steps."""
    whole = methods.held_out
    monkeypatch.setattr(methods, "held_out", lambda count: whole(2))
    monkeypatch.setattr(methods, "STEPS", 4)
    monkeypatch.setattr(methods, "BATCH", 2)
    monkeypatch.setattr(methods, "DRAWS", {"kind": "learnt", "samples": 16})
    tuning = {"steps": 2, "locality": {"alpha": 5.0}}
    monkeypatch.setattr(methods, "PIVOTAL", {"kind": "pivotal", "pivot": {"steps": 3}, "tuning": tuning})
    monkeypatch.setattr(methods, "HYBRID", Schedule(steps=3, learning_rate=0.1))
    monkeypatch.setattr(methods, "encoder_shares", lambda *_: {"share_of_bare_forward": 1.0})


def test_every_method_has_its_figures_and_starts_are_compared_at_one_loss(few, tmp_path):
    threads = torch.get_num_threads()
    try:
        assert methods.main(["--quick", "--json", str(tmp_path / "figures.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads((tmp_path / "figures.json").read_text())
    steps = {"SAM": 4, "W": 4, "W+": 4, "F4": 4, "Gaussian prior": 4, "pivotal": 5}
    steps |= {"SAM encoder": 1, "hybrid W+": 3, "hybrid SAM": 3}
    assert {name: figures["steps"] for name, figures in report["methods"].items()} == steps
    for figures in report["methods"].values():
        assert figures["psnr_db"] > 0
        assert figures["seconds_per_image"] > 0
    for reaching, loss in (("steps_to_equal_loss", "equal_loss"), ("steps_to_loss_of_learnt", "loss_of_learnt")):
        assert list(report[reaching]) == ["mean", "learnt", "bundle", "encoder"]
        for name, steps in report[reaching].items():
            reached = {int(n) for n, tried in report["schedules"][name].items() if tried["loss"] <= report[loss]}
            assert steps == min(reached, default=None)
    assert report["steps_to_equal_loss"]["mean"] == 4
    first = {name: tried["1"]["loss"] for name, tried in report["schedules"].items()}
    assert first["encoder"] < first["learnt"] < first["mean"]


def test_the_share_of_the_encoder_regime_is_that_of_the_same_images():
    shares = encoder_shares(2, 1, CPU)
    assert 0 < shares["share_of_bare_forward"] < 1.5
    assert 0 < shares["share_of_bare_forward_committed"] < 1.5
    assert shares["encode"]["images"] == 2
