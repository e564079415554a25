"""Status: what is committed and what is left, stage by stage."""

import json

import pytest

from pipeline.status import status_of
from tests import tiny
from tests.pipeline.conftest import compute, contents, scan_input

STAGES = ["inventory", "error_maps", "train_segmenter", "predict_maps", "refine_maps", "invert"]


def stages(run, *overrides):
    return {stage.name: stage for stage in status_of(run.plan(*overrides)).stages}


def test_a_new_run_has_everything_to_do_and_knows_no_cost(fresh):
    status = status_of(fresh.plan())
    assert [stage.name for stage in status.stages] == STAGES
    assert (status.shards, status.new_shards, status.complete) == (2, 2, False)
    inventory = status.stages[0]
    assert (inventory.units, inventory.done, inventory.hours_left) == (2, 0, None)
    assert all(stage.fingerprint is None for stage in status.stages[3:])


def test_asking_changes_nothing(fresh):
    before = contents(fresh.folder)
    status_of(fresh.plan())
    assert contents(fresh.folder) == before


def test_a_run_that_has_read_its_shards_knows_its_units(fresh):
    scan_input(fresh.plan())
    found = stages(fresh)
    assert {name: (found[name].units, found[name].done) for name in STAGES} == {
        "inventory": (2, 2),
        "error_maps": (3, 0),
        "train_segmenter": (1, 0),
        "predict_maps": (3, 0),
        "refine_maps": (3, 0),
        "invert": (3, 0),
    }
    assert found["invert"].samples == 8


def test_hours_and_bytes_are_estimated_once_a_unit_is_committed(fresh):
    scan_input(fresh.plan())
    assert (stages(fresh)["error_maps"].hours_left, stages(fresh)["error_maps"].bytes_left) == (None, None)
    plan = fresh.plan()
    compute(plan, plan.error_maps())
    fresh.file("receipts/error_maps/*/train-a-*-000000-000004.json").unlink()
    left = stages(fresh)["error_maps"]
    assert (left.units, left.done, left.recorded) == (3, 2, 4)
    kept = [json.loads(p.read_text()) for p in (fresh.folder / "store/receipts/error_maps").rglob("*.json")]
    size = sum(entry["size"] for receipt in kept for entry in receipt["files"])
    assert left.bytes_left == pytest.approx(size, abs=1)  # four samples took this much, four are left
    assert left.hours_left == pytest.approx(sum(receipt["info"]["computed_s"] for receipt in kept) / 3600)


def test_a_committed_run_is_complete_and_nothing_is_left(committed):
    status = status_of(committed.plan())
    assert status.complete
    assert [(stage.done, stage.hours_left, stage.bytes_left) for stage in status.stages] == [
        (stage.units, 0.0, 0) for stage in status.stages
    ]


def test_counts_are_those_of_the_receipts(committed):
    found = stages(committed)
    assert [(found[name].recorded, found[name].quarantined) for name in STAGES] == [(8, 0)] * 2 + [(5, 0)] + [
        (8, 0)
    ] * 3


def test_a_new_shard_makes_a_run_incomplete(committed):
    tiny.write_shards(committed.folder / "shards", {"late": 2})
    status = status_of(committed.plan())
    assert (status.shards, status.new_shards, status.complete) == (3, 1, False)


def test_a_new_threshold_leaves_the_stages_before_it_done(committed):
    found = stages(committed, "refine_maps.threshold=0.5")
    assert {name for name in STAGES if found[name].done < found[name].units} == {"refine_maps", "invert"}


def test_bundles_of_units_that_are_gone_do_not_count(committed):
    (committed.folder / "shards/train-a.tar").unlink()
    found = stages(committed)
    assert [(found[name].units, found[name].recorded) for name in ("inventory", "error_maps", "invert")] == [(1, 3)] * 3


def test_it_is_the_same_as_plain_values(committed):
    plain = json.loads(json.dumps(status_of(committed.plan()).as_json()))
    assert plain["complete"] is True
    assert [stage["name"] for stage in plain["stages"]] == STAGES


def test_rows_say_unknown_where_nothing_is_known_yet(fresh):
    scan_input(fresh.plan())
    found = stages(fresh)["invert"]
    assert found.planned() == ("invert", "3", "3", "8", "unknown", "unknown")
    assert found.achieved() == ("invert", "0", "3", "0", "0", "not known yet")
