"""The one reader: which samples, with which members and records, and what it does about what is gone or damaged."""

import numpy as np
import pytest

from infra.errors import DamagedBundleError, NotFoundError
from infra.receipts import Ledger
from infra.shards.shards import write_shard
from infra.stores.folder import FolderStore
from pipeline.data.reading import Cut, Reader, Recorded, no_members
from pipeline.data.units import Selection
from stages.base.stage import Sample
from stages.predict_maps import PredictMaps
from tests import tiny
from tests.pipeline.conftest import compute, scan_input


def reader_of(plan, **options):
    return Reader(plan.ledger, plan.sources, {s: r.unit for s, r in plan.inventories().items()}, **options)


def steps_of(plan):
    return plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))


def recorded(*steps, **wanted):
    return [Recorded(step.stage.name, step.fingerprint, **wanted) for step in steps]


def units_of(plan, shard="train-a.tar"):
    return [unit for unit in plan.units(plan.inventories(), Selection()) if unit.shard.name == shard]


@pytest.fixture
def files_read(monkeypatch):
    """The names of the bundles' files that are read, in order."""
    names, whole = [], Ledger.read_file

    def counted(self, receipt, filename):
        names.append((receipt.address.stage, receipt.address.unit, filename))
        return whole(self, receipt, filename)

    monkeypatch.setattr(Ledger, "read_file", counted)
    return names


@pytest.fixture
def ranges_read(monkeypatch):
    """The byte ranges of shards that are read."""
    ranges, whole = [], FolderStore.read

    def counted(self, name, start=0, stop=None, version=None):
        if name.endswith(".tar") and not name.startswith("bundles/"):
            ranges.append((name, start, stop))
        return whole(self, name, start, stop, version)

    monkeypatch.setattr(FolderStore, "read", counted)
    return ranges


def test_samples_come_in_the_order_of_the_shard_with_their_own_records(committed):
    plan = committed.plan()
    predict, refine, _ = steps_of(plan)
    reader, units = reader_of(plan), units_of(plan)
    read = [sample for unit in units for _, sample in reader.read(unit, records=recorded(predict, refine))]
    assert [sample.key for sample in read] == [f"train-a-{i:03d}" for i in range(5)]
    wanted = {key: record for unit in units for key, record in committed.records(predict, unit).items()}
    for i, sample in enumerate(read):
        assert sample.members["png"] == tiny.picture(i)
        assert set(sample.records) == {"predict_maps", "refine_maps"}
        found, own = sample.records["predict_maps"], wanted[sample.key]
        assert found.row["key"] == sample.key
        np.testing.assert_array_equal(found.arrays["error_LHW"], own.arrays["error_LHW"])


def test_chosen_keys_come_in_the_order_that_they_are_asked_for(committed):
    plan = committed.plan()
    reader, (unit, _) = reader_of(plan), units_of(plan)
    keys = ["train-a-003", "train-a-001"]
    assert [sample.key for _, sample in reader.read(unit, reader.chosen(unit, keys))] == keys


def test_only_the_members_that_are_asked_for_are_read(committed, ranges_read):
    plan = committed.plan()
    reader, (unit, _) = reader_of(plan), units_of(plan)
    everything = [sample for _, sample in reader.read(unit)]
    assert {"png"} < set(everything[0].members)
    (whole,) = ranges_read
    ranges_read.clear()
    pictures = [sample for _, sample in reader.read(unit, members=plan.image.candidates)]
    assert [dict(sample.members) for sample in pictures] == [{"png": tiny.picture(i)} for i in range(4)]
    (narrow,) = ranges_read
    assert narrow[2] - narrow[1] < whole[2] - whole[1]
    ranges_read.clear()
    assert [dict(sample.members) for _, sample in reader.read(unit, members=no_members)] == [{}] * 4
    assert ranges_read == []


def test_only_the_files_and_arrays_that_are_asked_for_are_read(committed, files_read):
    plan = committed.plan()
    predict, _, invert = steps_of(plan)
    reader, (unit, _) = reader_of(plan), units_of(plan)
    records = [*recorded(predict, rows=False, arrays={"error_LHW"}), *recorded(invert, arrays=())]
    read = [sample for _, sample in reader.read(unit, None, records, no_members)]
    of_maps = [name for stage, _, name in files_read if stage == "predict_maps"]
    of_codes = [name for stage, _, name in files_read if stage == "invert"]
    assert (of_maps, of_codes) == (["arrays.tar"], ["records.parquet"])
    assert all(set(sample.records["predict_maps"].arrays) == {"error_LHW"} for sample in read)
    assert all(sample.records["predict_maps"].row == {} for sample in read)
    assert all(np.isfinite(sample.records["invert"].row["psnr_db"]) for sample in read)


def test_a_unit_at_a_time_is_read(committed, files_read):
    plan = committed.plan()
    reader, units = reader_of(plan), units_of(plan)
    reading = (sample for unit in units for sample in reader.read(unit, records=recorded(steps_of(plan)[PredictMaps])))
    next(reading)
    assert {unit for stage, unit, _ in files_read if stage == "predict_maps"} == {units[0].name}


def test_records_of_units_that_are_cut_otherwise_are_found_and_read_once(committed, files_read):
    threes = committed.plan("unit_samples=3")
    step = threes.error_maps()
    compute(threes, step)
    cut = Cut(step.selection, threes.units(threes.inventories(), step.selection))
    plan = committed.plan()
    reader, (unit, _) = reader_of(plan), units_of(plan)
    files_read.clear()
    read = [sample for _, sample in reader.read(unit, records=recorded(step, cut=cut))]
    assert [sample.records["error_maps"].row["key"] for sample in read] == [f"train-a-{i:03d}" for i in range(4)]
    of_maps = [(at, name) for stage, at, name in files_read if stage == "error_maps"]
    assert len(of_maps) == len(set(of_maps)) == 4  # rows and arrays, of two units


def test_a_faulty_and_a_quarantined_sample_come_with_their_reason(fresh):
    samples = tiny.broken_samples("train-a", 3)
    write_shard(fresh.folder / "shards/train-a.tar", [*samples, {**samples[0]}])
    plan = fresh.plan()
    scan_input(plan)
    step = plan.error_maps()
    compute(plan, step)
    (unit,) = units_of(plan)
    read = [sample for _, sample in reader_of(plan).read(unit, records=recorded(step))]
    reasons = [sample for sample in read if isinstance(sample, str)]
    assert [reason.partition(":")[0] for reason in reasons] == ["error_maps", "inventory"]
    assert sum(isinstance(sample, Sample) for sample in read) == 2


def test_a_bundle_that_is_gone_is_damage_or_a_reason_to_a_tolerant_reader(committed):
    plan = committed.plan()
    predict, *_ = steps_of(plan)
    (unit, _) = units_of(plan)
    committed.file(f"receipts/predict_maps/*/{unit.name}.json").unlink()
    with pytest.raises(DamagedBundleError, match="its bundle is gone"):
        list(reader_of(plan).read(unit, records=recorded(predict)))
    read = list(reader_of(plan, tolerant=True).read(unit, records=recorded(predict)))
    assert {reason for _, reason in read} == {"predict_maps: its bundle is gone"}
    optional = list(reader_of(plan, tolerant=True).read(unit, records=recorded(predict, optional=True)))
    assert [dict(sample.records) for _, sample in optional] == [{}] * 4


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("filename", ["records.parquet", "arrays.tar"])
def test_a_damaged_file_is_damage_to_every_reader(committed, filename, tolerant):
    plan = committed.plan()
    predict, *_ = steps_of(plan)
    (unit, _) = units_of(plan)
    path = committed.file(f"bundles/predict_maps/*/{unit.name}/*/{filename}")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedBundleError, match="its receipt says"):
        list(reader_of(plan, tolerant=tolerant).read(unit, records=recorded(predict)))


def test_a_bundle_without_an_outcome_for_a_sample_is_damaged(committed):
    plan = committed.plan()
    predict, *_ = steps_of(plan)
    (unit, _) = units_of(plan)
    path = committed.file(f"receipts/predict_maps/*/{unit.name}.json")
    path.write_text(path.read_text().replace('"train-a-002":', '"train-a-2":'))
    with pytest.raises(DamagedBundleError, match="no outcome for train-a-002"):
        list(reader_of(plan).read(unit, records=recorded(predict)))


def test_a_shard_that_left_the_input_is_an_error_or_leaves_a_tolerant_reader_without_members(committed):
    plan = committed.plan()
    units, predict = units_of(plan), steps_of(plan)[PredictMaps]
    tolerant, strict = reader_of(plan, tolerant=True), reader_of(plan)
    (committed.folder / "shards/train-a.tar").unlink()
    with pytest.raises(NotFoundError):
        list(strict.read(units[0]))
    read = [sample for _, sample in tolerant.read(units[0], records=recorded(predict))]
    assert [(dict(sample.members), set(sample.records)) for sample in read] == [({}, {"predict_maps"})] * 4
