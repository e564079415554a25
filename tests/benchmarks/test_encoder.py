"""The benchmark of the encoder regime: all its figures, from few images and steps."""

import functools
import json

import pytest
import torch

from benchmarks import encoder


@pytest.fixture
def few(monkeypatch):
    """Two scenes and few steps."""
    whole = encoder._report
    monkeypatch.setattr(encoder, "DEMO_STEPS", 2)
    small = functools.partial(whole, 4, 2, turns=1, device=torch.device("cpu"), quick=True)
    monkeypatch.setattr(encoder, "_report", lambda *_, **__: small())


def test_every_figure_is_measured_and_the_encoder_is_far_better_than_two_steps(few, tmp_path):
    threads = torch.get_num_threads()
    try:
        assert encoder.main(["--quick", "--json", str(tmp_path / "figures.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads((tmp_path / "figures.json").read_text())
    assert (report["images"], report["scenes"], report["steps"]) == (4, 2, 2)
    assert 0 < report["share_of_bare_forward"] < 3
    assert 0 < report["share_of_bare_cpu"] < 1.5
    assert report["psnr_db"]["sam_encoder"] > report["psnr_db"]["w_plus"] > 10
    assert report["speed_up_1001"] == pytest.approx(report["speed_up"] * 1001 / 2, rel=0.06)


def test_scenes_are_occluded_and_a_perfect_map_gives_the_occluder_alone_to_f6():
    for scene in encoder.occluded_scenes(2):
        assignment_HW = scene.records["refine_maps"].arrays["assignment_HW"]
        assert set(assignment_HW.flat) == {0, encoder.F6}
        assert 0.005 < (assignment_HW == encoder.F6).mean() < 0.6
