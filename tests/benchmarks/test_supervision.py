"""The supervision benchmark in miniature: both sides do the same work, and the figures say what they are of."""

import json
from functools import partial

import pytest
import torch

from benchmarks import supervision


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_both_sides_do_the_same_work_and_the_figures_are_written(tmp_path, monkeypatch):
    small = partial(supervision._report, 1, 3, 4, 8, turns=1, device=torch.device("cpu"), quick=True)
    monkeypatch.setattr(supervision, "_report", lambda *_, **__: small())
    path = tmp_path / "results/supervision.json"
    assert supervision.main(["--quick", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["ratio_supervision"] > 0
    assert report["share_of_bare_forward"] > 0
    assert report["share_of_bare_forward_committed"] > 0
    assert report["largest_difference_db"] < 0.01
    assert report["error_maps"]["steps"] == 3
    assert {"versions", "device", "seed", "threads", "units"} <= report.keys()
    assert report["memory_growth_mb"] == 0, "one training, compared with itself"
    assert report["training_memory"]["peak_mb"]["8"] > 100
