"""The held-out slice as it is read from storage: which samples, whose maps, and how many reads."""

from dataclasses import replace

import numpy as np

from infra.receipts import Ledger
from infra.shards.shards import write_shard
from pipeline.plan.steps import Steps
from pipeline.publish.index import published, read_index
from pipeline.report.held_out import HeldOutSamples
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from tests import tiny
from tests.pipeline.conftest import commit_all, compute


def rows_of(run):
    ledger = run.plan().ledger
    return read_index(ledger, published(ledger))


def read(run):
    plan = run.plan()
    return list(HeldOutSamples(run.index(), plan.sources, plan.inventories()).read(rows_of(run)))


def test_only_held_out_samples_are_read_each_once_with_its_own_maps(committed):
    index, samples = committed.index(), read(committed)
    (achieved,) = [
        committed.records(index.error_maps, unit) for unit in index.supervised if unit.shard.name == "held-b.tar"
    ]
    units = [unit for unit in index.units if unit.shard.name == "held-b.tar"]
    maps = (index.steps[PredictMaps], index.steps[RefineMaps])
    predicted, refined = ({k: v for u in units for k, v in committed.records(s, u).items()} for s in maps)
    assert len(samples) == 3
    for i, sample in enumerate(samples):
        key = f"held-b-{i:03d}"
        np.testing.assert_array_equal(sample.achieved_LHW, achieved[key].arrays["error_LHW"])
        np.testing.assert_array_equal(sample.predicted_LHW, predicted[key].arrays["error_LHW"])
        np.testing.assert_array_equal(sample.labels_HW, refined[key].arrays["labels_HW"])


def test_samples_of_one_name_in_two_inputs_are_told_apart(fresh):
    """Shards and keys are the same in both, pictures are not; so is what was measured of them."""
    other = [sample | {"png": tiny.picture(100 + i)} for i, sample in enumerate(tiny.samples("held-b", 3))]
    (fresh.folder / "more").mkdir()
    write_shard(fresh.folder / "more/held-b.tar", other)
    both = "input=[shards/*.tar,more/*.tar]"
    plan = fresh.plan(both)
    commit_all(plan)
    index = fresh.index(both)
    index.publish()
    found = [row for row in rows_of(fresh) if row["shard"] == "held-b.tar"]
    assert len(found) == len({row["error_maps.psnr_db_w_plus"] for row in found}) == 6
    samples = list(HeldOutSamples(index, plan.sources, plan.inventories()).read(rows_of(fresh)))
    assert len(samples) == len({sample.predicted_LHW.tobytes() for sample in samples}) == 6


def test_occluders_come_from_the_shards(committed):
    assert [bool(sample.occluded_HW.any()) for sample in read(committed)] == [False, True, False]


def test_units_of_supervision_may_be_cut_differently(committed):
    threes = committed.plan("unit_samples=3")  # the five samples lie in units of 4 and 1, their error maps in 3 and 2
    compute(threes, threes.error_maps())
    shards = threes.inventories()
    index = replace(committed.index(), supervised=threes.units(shards, threes.supervision))
    rows = [row | {"role": "held_out" if row["shard"] == "train-a.tar" else None} for row in rows_of(committed)]
    samples = list(HeldOutSamples(index, threes.sources, shards).read(rows))
    wanted = {
        key: record for unit in index.supervised for key, record in committed.records(index.error_maps, unit).items()
    }
    assert len(samples) == 5
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.achieved_LHW, wanted[f"train-a-{i:03d}"].arrays["error_LHW"])


def test_a_sample_whose_error_maps_are_missing_is_left_out(committed):
    committed.file("receipts/error_maps/*/held-b*.json").unlink()
    assert read(committed) == []


def test_a_sample_that_only_repeats_a_key_and_one_that_is_not_a_picture_are_left_out(fresh):
    first, second, third = tiny.broken_samples("held-b", 3)
    write_shard(fresh.folder / "shards/held-b.tar", [first, second, third, {**first}])
    commit_all(fresh.plan())
    fresh.index().publish()
    assert len(read(fresh)) == 2


def test_without_ground_truth_there_are_still_maps(committed):
    index, plan = committed.index(), committed.plan()
    plain = index.steps.stage(PredictMaps).model_copy(update={"truth": None})
    changed = (replace(step, stage=plain) if isinstance(step.stage, PredictMaps) else step for step in index.steps)
    index = replace(index, steps=Steps(changed))
    samples = list(HeldOutSamples(index, plan.sources, plan.inventories()).read(rows_of(committed)))
    assert [sample.occluded_HW for sample in samples] == [None] * 3


def test_every_bundle_is_read_once(committed, monkeypatch):
    opened = []
    whole = Ledger.read_file

    def counted(self, receipt, filename):
        opened.append((str(receipt.address), filename))
        return whole(self, receipt, filename)

    rows = rows_of(committed)
    index, plan = committed.index(), committed.plan()
    monkeypatch.setattr(Ledger, "read_file", counted)
    list(HeldOutSamples(index, plan.sources, plan.inventories()).read(rows))
    arrays = [address for address, filename in opened if filename == "arrays.tar"]
    assert len(arrays) == len(set(arrays)) == 3
    assert all("train" not in address for address in arrays)
