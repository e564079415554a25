"""Distributions over samples: what is drawn, and when there is nothing to draw."""

import numpy as np
import pytest

from pipeline.report.distributions import draw_convergence, draw_histogram


def test_a_histogram_marks_the_median_and_names_its_axes():
    svg = draw_histogram([20.0, 21.0, 29.0, 30.0, 34.0], "PSNR (dB)")
    assert svg is not None
    assert "median 29.00" in svg
    assert "PSNR (dB)" in svg
    assert "samples" in svg


def test_an_infinite_figure_does_not_hide_the_others():
    svg = draw_histogram([20.0, float("inf"), 22.0], "PSNR (dB)")
    assert svg is not None
    assert "median 21.00" in svg


@pytest.mark.parametrize("values", [[], [20.0], [float("nan"), float("inf"), 3.0]])
def test_fewer_than_two_figures_have_no_distribution(values):
    assert draw_histogram(values, "PSNR (dB)") is None


def test_equal_figures_are_drawn_too():
    assert draw_histogram([20.0] * 9, "PSNR (dB)") is not None


def test_curves_of_different_lengths_share_one_median():
    long, short = np.arange(0, 50, 10), np.arange(0, 30, 10)
    svg = draw_convergence([(long, np.full(5, 0.5)), (short, np.full(3, 0.1))])
    assert svg is not None
    assert "median" in svg
    assert "optimisation step" in svg


def test_curves_that_cannot_be_drawn_on_a_logarithmic_axis_are_left_out():
    steps = np.arange(3)
    assert draw_convergence([]) is None
    assert (
        draw_convergence([(steps, np.array([1.0, np.inf, 0.5])), (steps, np.zeros(3)), (steps[:1], np.ones(1))]) is None
    )
