"""The plan: what is left to do, from the configuration and from what is committed; it changes nothing."""

import hashlib

import pytest
import torch

from infra.shards.shards import write_shard
from pipeline.data.trained_networks import SEGMENTER_FILE, TrainedSegmenter
from stages.perceptual.backbones import SmallBackbone
from stages.perceptual.weights import save_small
from tests import tiny
from tests.pipeline.conftest import COUNTS, contents, scan_input

STAGES = ("error_maps", "train_segmenter", "predict_maps", "refine_maps", "invert")


def prints(run, *overrides):
    """Return the fingerprint of every stage under a changed configuration, with the segmenter that is committed."""
    segmenter = run.plan().ledger.receipt(run.plan().train_segmenter())
    plan = run.plan(*overrides)
    steps = (plan.error_maps(), *plan.map_steps(segmenter))
    return {step.stage.name: step.fingerprint for step in steps} | {
        "train_segmenter": plan.train_segmenter().fingerprint
    }


def changed(run, *overrides):
    before, after = prints(run), prints(run, *overrides)
    return {name for name in STAGES if before[name] != after[name]}


def left(run, *overrides):
    """Return how many units each map stage still has to do."""
    plan = run.plan(*overrides)
    shards = plan.inventories()
    segmenter = plan.ledger.receipt(run.plan().train_segmenter())
    steps = (plan.error_maps(), *plan.map_steps(segmenter))
    return {step.stage.name: len(plan.remaining(step, plan.units(shards, step.selection))) for step in steps}


def test_a_new_run_has_every_shard_to_read_and_no_units_yet(fresh):
    plan = fresh.plan()
    assert {one.entry.name for one in plan.missing_inventories()} == {f"{name}.tar" for name in COUNTS}
    assert plan.inventories() == {}


def test_planning_a_new_run_makes_nothing(fresh):
    before = contents(fresh.folder)
    plan = fresh.plan()
    plan.missing_inventories(), plan.units(plan.inventories(), plan.everything), plan.train_segmenter()
    assert contents(fresh.folder) == before


def test_planning_a_committed_run_leaves_its_store_alone(committed):
    before = committed.files()
    left(committed, "refine_maps.threshold=0.4", "unit_samples=2")
    assert committed.files() == before


def test_units_follow_the_samples_of_each_shard_and_the_size_of_a_unit(committed):
    plan = committed.plan()
    cuts = [(u.shard.name, u.first, u.stop) for u in plan.units(plan.inventories(), plan.everything)]
    assert cuts == [("held-b.tar", 0, 3), ("train-a.tar", 0, 4), ("train-a.tar", 4, 5)]
    plan = committed.plan("unit_samples=64")
    assert [u.stop for u in plan.units(plan.inventories(), plan.everything)] == [3, 5]


def test_a_selected_stage_has_units_of_the_selected_samples_only(committed):
    plan = committed.plan("supervision.shards=none", "supervision.held_out_shards=held*")
    units = plan.units(plan.inventories(), plan.supervision)
    assert [(u.shard.name, u.first, u.stop) for u in units] == [("held-b.tar", 0, 3)]


def test_a_complete_run_has_nothing_left(committed):
    assert committed.plan().missing_inventories() == []
    assert set(left(committed).values()) == {0}


def test_a_new_shard_alone_is_left(committed):
    tiny.write_shards(committed.folder / "shards", {"late": 2})
    plan = committed.plan()
    assert [one.entry.name for one in plan.missing_inventories()] == ["late.tar"]
    scan_input(plan)
    assert left(committed) == {"error_maps": 0, "predict_maps": 1, "refine_maps": 1, "invert": 1}


def test_a_changed_shard_is_left_as_a_whole(committed):
    write_shard(committed.folder / "shards/train-a.tar", tiny.samples("train-a", 5, first=50))
    scan_input(committed.plan())
    assert left(committed) == {"error_maps": 2, "predict_maps": 2, "refine_maps": 2, "invert": 2}


def test_a_lost_receipt_is_left_to_do_again(committed):
    committed.file("receipts/predict_maps/*/train-a-*-000004-000005.json").unlink()
    assert left(committed) == {"error_maps": 0, "predict_maps": 1, "refine_maps": 0, "invert": 0}


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("refine_maps.threshold=0.4", {"refine_maps", "invert"}),
        ("refine_maps.segmentation={kind: superpixels}", {"refine_maps", "invert"}),
        ("refine_maps.connected_components=true", {"refine_maps", "invert"}),
        ("invert.objective.lambda_lpips=2.0", {"invert"}),
        ("invert.schedule.steps=5", {"invert"}),
        ("invert.start={kind: learnt, samples: 8}", {"invert"}),
        ("error_maps.objective.shrinkage=0.5", {"error_maps", "train_segmenter"}),
        ("error_maps.schedule.steps=5", {"error_maps", "train_segmenter"}),
        ("supervision.share=0.5", {"error_maps", "train_segmenter"}),
        ("spaces=[W+, F4]", {"error_maps", "train_segmenter", "refine_maps", "invert"}),
        ("maps.side_px=16", {"error_maps", "train_segmenter", "predict_maps", "refine_maps", "invert"}),
        ("train_segmenter.epochs=3", {"train_segmenter"}),
        ("train_segmenter.edition=2", {"train_segmenter"}),
        ("generator.noise=none", {"error_maps", "train_segmenter", "invert"}),
        ("image=png", set(STAGES)),
        ("refine_maps.segmentation={kind: labels, member: other.png}", set(STAGES)),
        ("refine_maps.segmentation={kind: labels, member: seg.npy}", {"refine_maps", "invert"}),
    ],
)
def test_a_setting_changes_the_stages_that_depend_on_it(committed, override, stages):
    assert changed(committed, override) == stages


@pytest.mark.parametrize(
    "override",
    [
        "error_maps.batch=1",
        "predict_maps.batch=1",
        "refine_maps.batch=1",
        "invert.batch=1",
        "invert.batch=auto",
        "error_maps.compile=true",
        "invert.compile=true",
        "unit_samples=2",
        "compute.workers=7",
        "compute.unit_deadline_s=5",
        "storage.output.attempts=9",
        "folder=elsewhere",
    ],
)
def test_how_the_work_is_done_changes_no_stage(committed, override):
    assert changed(committed, override) == set()


def test_weights_that_moved_change_nothing(committed):
    before = committed.plan().error_maps().fingerprint
    (committed.folder / "networks").rename(committed.folder / "moved")
    moved = [
        f"{key}=moved/{key.partition('.')[0]}.safetensors" for key in ("generator.checkpoint", "perceptual.weights")
    ]
    assert committed.plan(*moved).error_maps().fingerprint == before


def test_other_weights_change_what_they_are_loaded_for(committed):
    before = committed.plan().error_maps().fingerprint
    path = committed.folder / "networks/perceptual.safetensors"
    torch.manual_seed(1)
    save_small(path, SmallBackbone((4, 8)))
    assert committed.plan().error_maps().fingerprint != before


def test_another_segmenter_changes_all_that_follows_it(committed):
    plan = committed.plan()
    trained = plan.ledger.receipt(plan.train_segmenter())
    entry = trained.file(SEGMENTER_FILE)
    other = trained.model_copy(update={"files": (entry.model_copy(update={"sha256": "0" * 64}),)})
    before, after = plan.map_steps(trained), plan.map_steps(other)
    assert all(a.fingerprint != b.fingerprint for a, b in zip(before, after, strict=True))


def test_a_committed_run_is_planned_without_fetching_its_segmenter(committed, private_cache):
    before = contents(committed.folder)
    assert left(committed) == {"error_maps": 0, "predict_maps": 0, "refine_maps": 0, "invert": 0}
    assert contents(committed.folder) == before
    assert not private_cache.exists()


def test_a_worker_fetches_the_segmenter_once(committed, private_cache):
    plan = committed.plan()
    trained = TrainedSegmenter(plan.ledger.receipt(plan.train_segmenter()))
    trained.fetch(plan.ledger)
    assert hashlib.sha256(trained.path.read_bytes()).hexdigest() == trained.sha256
    assert [path.name for path in trained.path.parent.iterdir()] == [trained.path.name]
    written = trained.path.stat().st_mtime_ns
    trained.fetch(plan.ledger)
    assert trained.path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b""]
)
def test_a_worker_fetches_the_segmenter_again_where_its_copy_is_damaged(committed, private_cache, harm):
    plan = committed.plan()
    trained = TrainedSegmenter(plan.ledger.receipt(plan.train_segmenter()))
    trained.fetch(plan.ledger)
    trained.path.write_bytes(harm(trained.path.read_bytes()))
    trained.fetch(plan.ledger)
    assert hashlib.sha256(trained.path.read_bytes()).hexdigest() == trained.sha256
