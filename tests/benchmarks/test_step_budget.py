"""The step budget benchmark in miniature: what a setting saves and loses against whole schedules and equal steps."""

import math

import numpy as np
import torch

from benchmarks.step_budget import DEMO, IMPROVEMENTS, LEASTS, SHARES, Point, _compared, _report
from pipeline.config import load_config

FAST = ("error_maps.schedule.steps=2", "error_maps.start_samples=0", "invert.start_samples=0")


def point(mean_steps: float, *psnr_db: float) -> Point:
    each = np.array(psnr_db)
    return Point(np.full(len(each), mean_steps), each, each, each, 1.0)


def test_points_are_compared_with_whole_schedules_and_with_as_many_steps_for_all():
    points = [point(100, 29, 31), point(50, 25, 27), point(25, 20, 20), point(75, 27, 30)]
    whole, half, _, early = _compared(["whole", "half", "quarter", "early"], points, fixed=3)
    assert (whole["saved"], whole["lost_db"], whole["lost_db_per_saved"], whole["over_fixed_db"]) == (0, 0, 0, 0)
    assert (half["saved"], half["lost_db"], half["lost_db_per_saved"], half["over_fixed_db"]) == (0.5, 4, 8, 0)
    assert early["setting"] == "early"
    assert (early["saved"], early["lost_db"], early["lost_db_per_saved"]) == (0.25, 1.5, 6)
    assert early["lost_db_error"] == 0.5  # 2 and 1 dB of two images
    assert early["over_fixed_db"] == 0.5  # 28 dB lie half-way between 50 and 100 steps


def test_every_setting_is_measured_on_the_same_scenes():
    report = _report(load_config(DEMO, FAST), images=3, steps=8, device=torch.device("cpu"))
    points = report["points"]
    assert len(points) == 1 + len(SHARES) + len(IMPROVEMENTS) + len(LEASTS)
    assert [one["mean_steps"] for one in points[: 1 + len(SHARES)]] == [8, 6, 4, 3, 2]
    assert all(2 <= one["mean_steps"] <= 8 for one in points)
    assert points[-1]["mean_steps"] < points[-2]["mean_steps"] < 8
    assert all(math.isfinite(value) for one in points for name, value in one.items() if name != "setting")
    assert points[0]["loss"] < points[3]["loss"]
    assert report["easy"] < report["hard"]
