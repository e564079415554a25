"""Edits in the report of a whole tiny run: read from commits, compared with the truth, and shown."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from generators.directions import Direction, Provenance, save_directions
from infra.shards.shards import write_shard
from pipeline.execution.run import RunResult
from pipeline.publish.index import published
from pipeline.report.conclude import Conclusion, conclude
from pipeline.report.edited import SAM_METHOD
from tests import tiny
from tests.pipeline.conftest import LIGHT, Committed, commit_all
from tests.pipeline.report.test_edit_truth import npz

FIELD = {"w_plus", "f2", "f4"}


@dataclass(frozen=True)
class Concluded:
    """A published run with edits, and what its report holds."""

    run: Committed
    conclusion: Conclusion

    def written(self) -> Path:
        """Write the report; return its folder."""
        return self.conclusion.write(self.run.plan()).parent


@pytest.fixture(scope="module")
def concluded(tmp_path_factory) -> Concluded:
    folder = tmp_path_factory.mktemp("edited")
    networks = tiny.write_networks(folder / "networks")
    tiny.write_shards(folder / "shards", {"train-a": 3})
    random = np.random.default_rng(0)
    true = npz(**{"age.1": random.integers(0, 256, (tiny.SIDE_PX, tiny.SIDE_PX, 3), np.uint8)})
    held_out = [sample | {"edits.npz": true} for sample in tiny.samples("held-b", 3)]
    write_shard(folder / "shards/held-b.tar", held_out)
    torch.manual_seed(0)
    save_directions([Direction("age", torch.randn(1, 8), Provenance(kind="test"))], folder / "age.safetensors")
    path = tiny.config(folder, networks, train_segmenter=LIGHT, true_edits="edits.npz")
    settings = yaml.safe_load(path.read_text())
    settings["error_maps"]["keep_codes"] = True
    settings["edit"] = {"directions": [{"name": "age", "path": "age.safetensors"}], "magnitudes": [-1, 1]}
    settings["edit"]["format"] = "png"
    path.write_text(yaml.safe_dump(settings))
    threads = torch.get_num_threads()
    try:
        run = Committed(folder)
        commit_all(run.plan())
        run.index().publish()
        plan = run.plan()
        return Concluded(run, conclude(_result(run, plan)))
    finally:
        torch.set_num_threads(threads)


def _result(run: Committed, plan) -> RunResult:
    return RunResult(plan, plan.inventories(), run.index(), published(plan.ledger), {}, 0)


def test_every_method_is_compared_with_the_truth_of_occluded_held_out_samples(concluded):
    truth = concluded.conclusion.summary.edits
    assert truth.samples == 1  # of three held-out samples, one has an occluder
    assert truth.magnitudes == (1.0,)
    assert truth.all.psnr_to_truth_db.keys() == {SAM_METHOD, *FIELD, "unedited"}
    assert truth.by_direction.keys() == {"age"}
    assert truth.all.change_occluder[SAM_METHOD] > 0


def test_pictures_hold_stored_edits_of_sam_and_edits_in_the_first_space_alone(concluded):
    pictures = concluded.conclusion.edited
    assert len(pictures) >= 3
    for picture in pictures:
        assert picture.unedited.keys() == {SAM_METHOD, "w_plus"}
        assert [edit.magnitude for edit in picture.along("age")] == [-1, 0, 1]
        for edit in picture.edits:
            assert edit.by_method.keys() == {SAM_METHOD, "w_plus"}
            for method, image_HW3 in edit.by_method.items():
                assert image_HW3.shape == picture.image_HW3.shape
                assert not np.array_equal(image_HW3, picture.unedited[method])


def test_summary_page_and_report_are_written_and_published(concluded):
    folder = concluded.written()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["edits"]["all"]["psnr_to_truth_db"].keys() == {SAM_METHOD, *FIELD, "unedited"}
    report = (folder / "report.html").read_text()
    assert 'href="edits.html"' in report
    assert "Edits against the truth" in report
    assert concluded.run.plan().ledger.store.read("reports/edits.html") == (folder / "edits.html").read_bytes()


def test_a_run_without_edits_has_none_in_its_report(committed):
    conclusion = conclude(_result(committed, committed.plan()))
    assert conclusion.edited == []
    assert conclusion.summary.edits is None
    assert not (conclusion.write(committed.plan()).parent / "edits.html").exists()
