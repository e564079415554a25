"""Supervision of which a part failed: nothing is trained silently, and what was trained on a part is told apart."""

import pytest

from infra.shards.shards import write_shard
from pipeline.data.trained_networks import SEGMENTER_UNIT, unit_in_use, unit_trained_on
from pipeline.errors import RunError
from pipeline.training.gaps import Gaps, check_examples, most_frequent
from pipeline.training.train_job import TrainJob
from tests.pipeline.conftest import Committed, compute, scan_input, train

UNITS = "unit_samples=2"  # of the 5 samples that are trained on: three units


@pytest.fixture
def gapped(fresh: Committed) -> Committed:
    """A run whose last unit to train on has no error maps."""
    plan = fresh.plan(UNITS)
    scan_input(plan)
    step = plan.error_maps()
    compute(plan, step)
    (last,) = fresh.folder.glob("store/receipts/error_maps/*/train-a-*-000004-000005.json")
    last.unlink()
    return fresh


def gaps(run: Committed, *overrides: str) -> Gaps:
    plan = run.plan(UNITS, *overrides)
    return Gaps.from_plan(plan, plan.inventories())


def test_a_unit_without_error_maps_stops_the_training_with_its_reason(gapped):
    found = gaps(gapped)
    (unit,) = found.missing
    assert found.share == 0.8
    with pytest.raises(RunError) as stopped:
        found.check(1.0, {unit.name: "error_maps: given up after 3 attempts: OSError: the disk is gone"})
    said = str(stopped.value)
    assert "1 of its units (1 samples) have no error maps" in said
    assert f"1 × error_maps: given up after 3 attempts: OSError: the disk is gone (first: {unit.name})" in said
    assert "set train_segmenter.minimum_share, now 1, to 0.8 or less" in said


def test_what_is_held_out_for_evaluation_is_not_waited_for(gapped):
    compute_all = gapped.plan(UNITS)
    compute(compute_all, compute_all.error_maps())
    for receipt in gapped.folder.glob("store/receipts/error_maps/*/held-b-*.json"):
        receipt.unlink()
    assert not gaps(gapped).any


def test_a_shard_that_could_not_be_read_is_missing_too(gapped):
    compute_all = gapped.plan(UNITS)
    compute(compute_all, compute_all.error_maps())
    (gapped.folder / "shards/train-c.tar").write_bytes(b"not a tar")
    found = gaps(gapped)
    assert (len(found.unread), found.shards, found.share) == (1, 2, 0.5)
    with pytest.raises(RunError, match=r"1 of 2 shards could not be read:\n  1 × inventory: no tar \(first: train-c"):
        found.check(0.6, {found.unread[0]: "inventory: no tar"})
    found.check(0.5, {})


def test_a_stated_share_is_trained_on_said_and_used_until_more_is_asked_for(gapped):
    part, whole = (UNITS, "train_segmenter.minimum_share=0.8"), (UNITS,)
    gaps(gapped).check(0.8, {})
    assert "80.00% of the supervision" in gaps(gapped).warning()
    train(gapped.plan(*part))
    used = gapped.plan(*part).train_segmenter()
    assert used.unit.startswith("segmenter-of-8000-")
    assert gapped.plan(*part).ledger.receipt(used) is not None
    assert gapped.plan(*whole).train_segmenter().unit == SEGMENTER_UNIT, "all was asked for, and that is not there"

    plan = gapped.plan(*whole)
    compute(plan, plan.error_maps())
    assert gapped.plan(*part).train_segmenter() == used, "what was made with it stays as it is"
    train(gapped.plan(*whole))
    for overrides in (part, whole):
        assert gapped.plan(*overrides).train_segmenter().unit == SEGMENTER_UNIT
    receipts = [gapped.plan(*whole).ledger.receipt(a) for a in (used, gapped.plan(*whole).train_segmenter())]
    assert len({receipt.file("segmenter.safetensors").sha256 for receipt in receipts}) == 2
    assert [len(receipt.recorded) for receipt in receipts] == [4, 5]


def test_the_share_is_named_so_that_it_meets_the_setting_that_it_met():
    for share in (0.5, 0.9523, 0.8, 0.9999, 0.0001):
        unit = unit_trained_on(share, ["a", "b"])
        assert unit_in_use([unit], share) == unit
        assert unit_in_use([unit], min(1.0, share + 0.0001)) == SEGMENTER_UNIT
    assert unit_trained_on(1.0, ["a"]) == SEGMENTER_UNIT
    assert unit_trained_on(0.5, ["a"]) != unit_trained_on(0.5, ["b"])


def test_of_several_parts_the_largest_is_used_and_the_whole_before_any():
    small, large = unit_trained_on(0.7, ["a"]), unit_trained_on(0.9, ["a", "b"])
    assert unit_in_use([small, large], 0.5) == large
    assert unit_in_use([small, large, SEGMENTER_UNIT], 0.5) == SEGMENTER_UNIT
    assert unit_in_use(["segmenter-of-1", "other"], 0.5) == SEGMENTER_UNIT


# ---- nothing to train on


def quarantined_by(run: Committed, *overrides: str) -> str:
    plan = run.plan(*overrides)
    scan_input(plan)
    compute(plan, plan.error_maps())
    with pytest.raises(RunError) as stopped:
        check_examples(plan, plan.units(plan.inventories(), plan.supervision))
    return str(stopped.value)


def test_where_every_sample_was_quarantined_the_most_frequent_reasons_are_said(fresh):
    damaged = [{"__key__": f"bad-{i}", "png": b"\x89PNG no more of it"} for i in range(8)]
    write_shard(fresh.folder / "shards/bad.tar", damaged)
    said = quarantined_by(fresh, "supervision={shards: bad*}")
    assert "all 8 samples of the supervision were quarantined:" in said
    assert "  8 × error_maps: bad-0.png does not decode" in said
    assert "enlarge" not in said


def test_where_nothing_is_chosen_or_all_is_held_out_the_settings_are_named(fresh):
    assert "no sample is chosen for supervision: change supervision.shards" in quarantined_by(
        fresh, "supervision={shards: nothing-*}"
    )
    assert "all 8 samples with error maps are held out for evaluation" in quarantined_by(
        fresh, "supervision={held_out_shards: '*'}"
    )


def test_reasons_that_differ_in_names_and_numbers_are_one_kind():
    reasons = {f"image{i}": f"image{i}.png does not decode ({i} bytes): truncated" for i in range(5)}
    reasons |= {"odd": "odd: no image", **{f"x{c}": f"cause {c}" for c in "abcdef"}}
    lines = most_frequent(reasons).splitlines()
    assert lines[0] == "  5 × image0.png does not decode (0 bytes): truncated (first: image0)"
    assert len(lines) == 5
    assert lines[-1] == "  4 others"


def test_a_training_of_everything_is_at_the_segmenter_s_own_address(committed):
    plan = committed.plan()
    assert TrainJob.from_plan(plan, plan.inventories()).address == plan.train_segmenter()
