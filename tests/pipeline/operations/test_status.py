"""Status: what is committed and what is left, stage by stage."""

import json

import pytest

from pipeline.operations.status import status_of
from tests import tiny
from tests.pipeline.conftest import commit_all, compute, contents, scan_input

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


def test_hours_and_bytes_are_estimated_after_the_first_committed_unit(fresh):
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


# --- a plan looks ahead ---------------------------------------------------------------------------------------------


def ahead(run, *overrides):
    status = status_of(run.plan(*overrides), ahead=True)
    return status, {stage.name: stage for stage in status.stages}


def test_a_plan_counts_what_new_shards_hold(committed):
    tiny.write_shards(committed.folder / "shards", {"train-late": 5, "late": 5})
    status, found = ahead(committed)
    units = {name: (stage.units - stage.done, stage.samples) for name, stage in found.items()}
    assert units == {
        "inventory": (2, 18),
        "error_maps": (2, 13),  # of one of the two shards
        "train_segmenter": (0, 5),
        "predict_maps": (4, 18),
        "refine_maps": (4, 18),
        "invert": (4, 18),
    }
    assert all(found[name].hours_left > 0 and found[name].bytes_left > 0 for name in units if name != "train_segmenter")
    assert "bytes each, as in the 2 shards that were read" in status.basis


def test_what_a_plan_counts_is_what_a_run_finds(committed):
    tiny.write_shards(committed.folder / "shards", {"train-late": 5, "late": 5})
    _, planned = ahead(committed)
    scan_input(committed.plan())
    found = stages(committed)
    assert {n: (planned[n].units, planned[n].samples) for n in STAGES} == {
        n: (found[n].units, found[n].samples) for n in STAGES
    }


def test_a_plan_of_a_new_run_looks_into_its_shards(fresh):
    before = contents(fresh.folder)
    _, found = ahead(fresh)
    assert {name: (stage.units, stage.samples) for name, stage in found.items()} == {
        "inventory": (2, 8),
        "error_maps": (3, 8),
        "train_segmenter": (1, 0),
        **dict.fromkeys(("predict_maps", "refine_maps", "invert"), (3, 8)),
    }
    assert found["invert"].hours_left is None
    assert contents(fresh.folder) == before


def test_a_plan_of_a_new_run_guesses_bytes_that_are_enough_and_not_by_far_too_many(fresh):
    _, guessed = ahead(fresh)
    assert guessed["invert"].planned()[-1] == f"at most {guessed['invert'].bytes_left:,}"
    commit_all(fresh.plan())
    for name in ("inventory", "error_maps", "predict_maps", "refine_maps", "invert"):
        found = [path.stat().st_size for path in (fresh.folder / "store/bundles" / name).rglob("*") if path.is_file()]
        assert guessed[name].bytes_guessed
        assert sum(found) <= guessed[name].bytes_left < 10 * sum(found), name


def test_what_was_measured_takes_the_place_of_a_guess(committed):
    tiny.write_shards(committed.folder / "shards", {"late": 2})
    assert not any(stage.bytes_guessed for stage in ahead(committed)[0].stages)


def test_a_plan_of_shards_that_cannot_be_read_says_that_it_guesses(fresh):
    for path in (fresh.folder / "shards").iterdir():
        path.write_bytes(b"no tar" * 50_000)
    status, found = ahead(fresh)
    assert found["invert"].samples == 6
    assert "100,000 bytes each, which is a guess" in status.basis


@pytest.mark.parametrize(("share", "units", "samples"), [(0.5, 2, 4), (0.0, 0, 0)])
def test_a_plan_counts_the_share_of_samples_that_get_error_maps(fresh, share, units, samples):
    _, found = ahead(fresh, f"supervision.share={share}")
    assert (found["error_maps"].units, found["error_maps"].samples) == (units, samples)


def test_a_plan_takes_rates_from_other_settings_where_it_has_none_yet(committed):
    _, found = ahead(committed, "invert.schedule.steps=5")
    receipts = [json.loads(p.read_text()) for p in (committed.folder / "store/receipts/invert").rglob("*.json")]
    assert found["invert"].hours_left == pytest.approx(sum(r["info"]["computed_s"] for r in receipts) / 3600)
    _, found = ahead(committed, "train_segmenter.edition=2")
    assert found["train_segmenter"].hours_left > 0


def test_a_plan_warns_where_other_units_would_be_done_again(committed):
    status, _ = ahead(committed, "unit_samples=2")
    assert status.warnings == (
        "unit_samples is 2, the store was made with 4: every unit of every stage is done again; set unit_samples to 4 "
        "to keep what is there",
    )
    plan = committed.plan("unit_samples=2")
    for step in (plan.error_maps(), *plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))):
        compute(plan, step)
    assert ahead(committed, "unit_samples=2")[0].warnings == ()  # the store has both now
    assert ahead(committed)[0].warnings == ()


def test_a_plan_warns_of_stages_that_are_done_again_and_names_the_settings(committed):
    status, _ = ahead(committed, "refine_maps.threshold=0.5")
    assert status.warnings == (
        "done again, though the store has results of other settings: refine_maps, invert (refine_maps.threshold is "
        "0.5, was 0.225)",
    )
    status, _ = ahead(committed, "error_maps.schedule.steps=5")
    (warning,) = status.warnings
    assert "error_maps, train_segmenter, predict_maps, refine_maps, invert (error_maps.schedule.steps is 5" in warning


def test_a_plan_of_the_same_settings_or_of_more_data_warns_of_nothing(committed):
    assert ahead(committed)[0].warnings == ()
    tiny.write_shards(committed.folder / "shards", {"late": 5})
    assert ahead(committed, "unit_samples=4")[0].warnings == ()
