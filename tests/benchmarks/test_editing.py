"""The benchmark of editing: its figures say what was measured, and both of its targets can be missed."""

import json

from benchmarks import editing
from benchmarks.harness.edited_scenes import HASTY
from pipeline.demo.edits import EDITS


def test_the_figures_are_written_and_say_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(editing, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(editing, "IMAGES", 2)
    monkeypatch.setattr(editing, "QUICK_SCENES", 2)
    monkeypatch.setattr(editing, "SETTINGS", HASTY)
    status = editing.main(["--quick", "--json", str(tmp_path / "figures.json")])
    report = json.loads((tmp_path / "figures.json").read_text())
    assert status == (0 if report["met"] else 1)
    (row,) = report["results"]
    assert row["zero_edit_max_abs"] <= editing.MAX_ZERO_EDIT
    assert 0 < row["share_with_files"] < 1.5
    assert all(row[f"{side}_ms"] > 0 for side in ("bare", "editor", "stage"))
    truth = report["truth"]
    assert truth["psnr_to_truth_db"].keys() == {"sam", "w_plus", "f2", "f4", "f6", "unedited"}
    assert truth["inside_outside_ratio"].keys() == {"sam", "w_plus", "f2", "f4", "f6"}
    assert truth["by_direction"].keys() == EDITS.keys()
