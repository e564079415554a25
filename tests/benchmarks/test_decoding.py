"""The benchmark of decoding: its two sides decode the same, and its figures say what was measured."""

import json

import numpy as np
import pytest

from benchmarks import decoding


@pytest.mark.parametrize("form", decoding.FORMS)
def test_both_sides_decode_the_same_pixels(form):
    data = decoding.picture(form, 64)
    np.testing.assert_array_equal(decoding.ours(data), decoding.pillow_alone(data))


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # of torchvision, why it is not used
def test_the_figures_are_written_and_say_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "SIDES_PX", (16,))
    monkeypatch.setattr(decoding, "QUICK_ROUNDS", 1)
    status = decoding.main(["--quick", "--json", str(tmp_path / "figures.json")])
    report = json.loads((tmp_path / "figures.json").read_text())
    assert status == (0 if report["met"] else 1)
    assert [row["form"] for row in report["results"]] == list(decoding.FORMS)
    assert all(row["ours_differs"] == 0 and row["ours_ms"] > 0 and row["pillow_ms"] > 0 for row in report["results"])
