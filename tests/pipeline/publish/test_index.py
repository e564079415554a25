"""Publishing: one index that stock tools open, and a pointer that moves to it last."""

import json
import shutil

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from infra.bundles import read_rows
from infra.errors import DamagedBundleError, InfraError
from infra.shards.shards import write_shard
from pipeline.publish.index import POINTER, published, read_index
from tests import tiny
from tests.pipeline.conftest import commit_all, compute, contents


def pointer(run):
    return json.loads((run.folder / "store" / POINTER).read_text())


def index_files(run):
    return [str(run.folder / "store" / name) for name in pointer(run)["index"]]


def rows(run):
    return read_index(run.plan().ledger, published(run.plan().ledger))


def recompute(run, stage):
    """Commit what is missing of one stage."""
    plan = run.plan()
    segmenter = plan.ledger.receipt(plan.train_segmenter())
    compute(plan, next(step for step in plan.map_steps(segmenter) if step.stage.name == stage))


def test_the_index_has_one_row_for_every_sample(committed):
    keys = [row["key"] for row in rows(committed)]
    assert sorted(keys) == [f"held-b-{i:03d}" for i in range(3)] + [f"train-a-{i:03d}" for i in range(5)]


def test_a_row_says_what_the_sample_was_used_for_and_what_every_stage_measured(committed):
    found = {row["key"]: row for row in rows(committed)}
    assert {row["role"] for key, row in found.items() if key.startswith("held")} == {"held_out"}
    assert {row["role"] for key, row in found.items() if key.startswith("train")} == {"supervision"}
    for row in found.values():
        assert row["outcome"] == "recorded"
        assert row["reason"] is None
        assert row["invert.psnr_db"] > 0
        assert row["invert.steps"] == 4
        assert row["refine_maps.error"] > 0
        assert 0 <= row["refine_maps.share_w_plus"] <= 1
        assert row["predict_maps.error_f4"] >= 0
        assert row["error_maps.psnr_db_f4"] > 0
    assert [found[f"held-b-{i:03d}"]["error_maps.occluded"] for i in range(3)] == [False, True, False]


def test_a_row_leads_to_the_arrays_of_its_bundle(committed):
    for row in rows(committed):
        assert (committed.folder / "store" / row["arrays"]).is_file()
        assert row["unit"] in row["arrays"]


def test_the_index_opens_with_stock_pyarrow(committed):
    table = ds.dataset(index_files(committed)).to_table(filter=ds.field("role") == "held_out")
    assert table.column("key").to_pylist() == ["held-b-000", "held-b-001", "held-b-002"]
    assert pq.read_table(index_files(committed)[0]).num_rows == 8


def test_the_index_opens_with_stock_duckdb(committed):
    query = "select count(*), avg(\"invert.psnr_db\") from read_parquet(?) where outcome = 'recorded'"
    with duckdb.connect() as connection:
        count, psnr_db = connection.execute(query, [index_files(committed)]).fetchone()
    assert count == 8
    assert psnr_db == pytest.approx(sum(row["invert.psnr_db"] for row in rows(committed)) / 8)


def test_the_pointer_says_which_stages_it_stands_for(committed):
    plan = committed.plan()
    assert pointer(committed)["stages"]["error_maps"] == plan.error_maps().fingerprint
    assert pointer(committed)["samples"] == 8
    assert pointer(committed)["receipt"] == published(plan.ledger).address.receipt_name


def test_publishing_the_same_again_changes_nothing(committed):
    before = committed.files()
    modified = (committed.folder / "store" / POINTER).stat().st_mtime_ns
    committed.index().publish()
    assert committed.files() == before
    assert (committed.folder / "store" / POINTER).stat().st_mtime_ns == modified


def test_new_data_is_another_index_and_the_old_one_stays(committed):
    before = committed.files()
    tiny.write_shards(committed.folder / "shards", {"late": 2})
    commit_all(committed.plan())
    committed.index().publish()
    after = committed.files()
    assert len(rows(committed)) == 10
    assert {name for name in before if after.get(name) != before[name]} == {POINTER}


def test_the_pointer_stays_where_it_was_if_the_new_index_cannot_be_committed(committed):
    before = (committed.folder / "store" / POINTER).read_bytes()
    committed.file("receipts/invert/*/held-b*.json").unlink()
    recompute(committed, "invert")
    receipts = committed.folder / "store/receipts/publish"
    shutil.rmtree(receipts)
    receipts.write_bytes(b"a file where a folder is wanted")
    with pytest.raises(InfraError):
        committed.index().publish()
    assert (committed.folder / "store" / POINTER).read_bytes() == before


def test_samples_of_a_unit_that_was_given_up_appear_once_it_succeeds(committed):
    lost = committed.file("receipts/invert/*/held-b*.json")
    lost.unlink()
    committed.index().publish()
    assert {row["key"].partition("-")[0] for row in rows(committed)} == {"train"}
    recompute(committed, "invert")
    committed.index().publish()
    assert {row["key"].partition("-")[0] for row in rows(committed)} == {"train", "held"}


def test_a_bundle_that_was_made_again_is_what_the_index_leads_to(committed):
    committed.file("receipts/invert/*/held-b*.json").unlink()
    shutil.rmtree(committed.file("bundles/invert/*/held-b*"))
    recompute(committed, "invert")
    committed.index().publish()
    assert all((committed.folder / "store" / row["arrays"]).is_file() for row in rows(committed))


def test_quarantined_samples_are_in_the_index_with_their_reason(fresh):
    write_shard(fresh.folder / "shards/train-a.tar", tiny.broken_samples("train-a", 4))
    commit_all(fresh.plan())
    fresh.index().publish()
    (bad,) = [row for row in rows(fresh) if row["outcome"] == "quarantined"]
    assert bad["key"] == "train-a-001"
    assert bad["reason"].startswith("predict_maps: train-a-001.png does not decode")
    assert bad["invert.psnr_db"] is None


def test_nothing_is_published_before_the_first_index(fresh):
    assert published(fresh.plan().ledger) is None
    assert "store" not in {name.partition("/")[0] for name in contents(fresh.folder)}


def test_a_complete_result_states_no_gaps(committed):
    assert pointer(committed)["gaps"] == {}


def test_what_a_result_lacks_is_stated_in_the_pointer(committed):
    committed.file("receipts/invert/*/held-b*.json").unlink()
    committed.file("receipts/error_maps/*/train-a*.json").unlink()
    assert committed.index().publish().moved
    assert pointer(committed)["gaps"] == {"units": {"invert": 1, "error_maps": 1}, "samples": 3}
    assert pointer(committed)["samples"] == 5


def test_shards_that_could_not_be_read_are_stated_in_the_pointer(committed):
    tiny.write_shards(committed.folder / "shards", {"late": 2})
    committed.index().publish()
    assert pointer(committed)["gaps"] == {"shards": 1}


def test_a_result_without_a_recorded_sample_leaves_readers_where_they_are(committed):
    before = (committed.folder / "store" / POINTER).read_bytes()
    for path in (committed.folder / "store/receipts/invert").rglob("*.json"):
        path.unlink()
    publication = committed.index().publish()
    assert not publication.moved
    assert publication.gaps == {"units": {"invert": 3}, "samples": 8}
    assert (committed.folder / "store" / POINTER).read_bytes() == before


def test_a_row_leads_to_the_record_with_its_code(committed):
    for row in rows(committed):
        (record,) = [one for one in read_rows((committed.folder / "store" / row["records"]).read_bytes())
                     if one["key"] == row["key"]]  # fmt: skip
        assert record["w_plus"].shape == (committed.plan().generator.num_ws, committed.plan().generator.w_dim)


def test_every_damaged_bundle_is_met_while_the_index_is_made(committed):
    for stage in ("error_maps", "predict_maps", "invert"):
        tiny.truncated(committed.file(f"bundles/{stage}/*/train-a*/*/records.parquet"), 0.5)
    committed.file("receipts/refine_maps/*/held-b*.json").write_text("{")
    with pytest.raises(DamagedBundleError) as caught:
        committed.index().publish()
    assert {damage.stage for damage in caught.value.damages} == {"error_maps", "predict_maps", "refine_maps", "invert"}


def test_settings_are_published_without_places_of_one_machine(committed):
    settings = pointer(committed)["settings"]
    assert settings["refine_maps"]["threshold"] == 0.225
    assert str(committed.folder.parent) not in json.dumps(settings)
    assert settings.keys().isdisjoint({"input", "output", "folder", "compute", "storage"})
