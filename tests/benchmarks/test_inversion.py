"""The inversion benchmark in miniature: both sides do the same work, and the shares are shares."""

import pytest
import torch

from benchmarks.inversion import Case, _measure, demo_networks


def test_both_sides_reach_the_same_loss_and_the_figures_are_of_one_step():
    figures = _measure(Case("demo", demo_networks, images=3, steps=4, width=2), device=torch.device("cpu"))
    assert figures["loss_engine"] == pytest.approx(figures["loss_plain"], rel=1e-3)
    assert figures["ratio"] > 0
    assert 0 < figures["overhead_share"] < 1
    assert figures["roofline_share"] > 0
    assert 2 * 0.2 < figures["gflop_a_step"] < 2 * 0.5  # two images, forward and backward
