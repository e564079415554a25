"""Verification: whatever is lost, altered or done twice is found, from storage alone."""

import json

import pytest

from infra.receipts import Address, damage_of
from infra.stores.folder import FolderStore
from pipeline.data.trained_networks import TrainedSegmenter
from pipeline.operations import codes, verify
from pipeline.operations.verify import Problem, repair, verify_run
from pipeline.tune.trade_off import ask
from stages.trade_off import TradeOff
from tests import tiny
from tests.pipeline.conftest import commit_all, contents, scan_input

STAGES = ("inventory", "error_maps", "train_segmenter", "predict_maps", "refine_maps", "invert", "publish")


def problems(run, *overrides):
    return [str(problem) for problem in verify_run(run.plan(*overrides))[0]]


def repaired(run):
    """Repair what is wrong, and return what was done."""
    return repair(run.plan(), verify_run(run.plan())[0])


def edit_outcomes(path, change):
    """Rewrite the outcomes of a receipt."""
    receipt = json.loads(path.read_text())
    change(receipt["outcomes"])
    path.write_text(json.dumps(receipt))


def test_a_whole_run_has_no_problems_and_its_samples_are_tallied(committed):
    reached: list[str] = []
    found, facts = verify_run(committed.plan(), reached=reached.append)
    assert found == []
    assert reached == ["0 of 2 shards", "1 of 2 shards"]
    assert facts.pop().startswith("invert: 3 images rendered again, at most 0.0")
    assert facts == [
        "inventory: 2 shards, 8 samples",
        *(f"{stage}: 8 samples = 8 recorded + 0 quarantined" for stage in STAGES if "maps" in stage),
        "invert: 8 samples = 8 recorded + 0 quarantined",
    ]


def test_verifying_changes_nothing(committed):
    before = contents(committed.folder)
    verify_run(committed.plan())
    assert contents(committed.folder) == before


def test_an_inventory_is_read_a_few_times_however_many_units_its_shard_has(committed, monkeypatch):
    read = []
    whole = FolderStore.read

    def counting(store, name, *part):
        read.append(name)
        return whole(store, name, *part)

    monkeypatch.setattr(FolderStore, "read", counting)
    verify_run(committed.plan("unit_samples=1"))
    inventory = committed.file("bundles/inventory/*/train-a*/*/samples.parquet").relative_to(committed.folder / "store")
    assert read.count(str(inventory)) < 7  # of 5 units in 4 stages


@pytest.fixture
def files_read(monkeypatch) -> list[str]:
    """The names of the files of bundles that are read from the store."""
    names = []
    for how in ("read", "open"):
        whole = getattr(FolderStore, how)

        def noted(store, name, *part, whole=whole):
            names.extend([name] if name.startswith("bundles/") else [])
            return whole(store, name, *part)

        monkeypatch.setattr(FolderStore, how, noted)
    return names


def test_every_file_of_the_stages_is_read_once(committed, files_read, monkeypatch):
    monkeypatch.setattr(codes, "RENDERED", 0)
    verify_run(committed.plan())
    every = [
        name for stage in STAGES if "maps" in stage or stage == "invert" for name in committed_files(committed, stage)
    ]
    assert sorted(name for name in files_read if name in every) == sorted(every)


def committed_files(run, stage: str) -> list[str]:
    store = run.folder / "store"
    return [str(path.relative_to(store)) for path in store.glob(f"bundles/{stage}/**/*") if path.is_file()]


def test_an_interrupted_verification_continues_without_reading_whole_bundles_again(committed, files_read, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    tiny.truncated(committed.file("bundles/predict_maps/**/arrays.tar"), 0.5)
    with monkeypatch.context() as patched:
        patched.setattr(verify, "unlike_their_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            verify_run(committed.plan())
    monkeypatch.setattr(codes, "RENDERED", 0)
    files_read.clear()
    found, facts = verify_run(committed.plan(), resume=True)
    assert [problem.stage for problem in found] == ["predict_maps"], "what was damaged is read again"
    assert "resumed: 11 bundles were read before the interruption" in facts
    assert "invert: 8 samples = 8 recorded + 0 quarantined" in facts
    assert {name.split("/")[1] for name in files_read} == {"inventory", "train_segmenter", "predict_maps", "publish"}
    files_read.clear()
    assert len(verify_run(committed.plan(), resume=True)[0]) == 1, "nothing is left to continue, so all is read"
    assert {"error_maps", "refine_maps", "invert"} <= {name.split("/")[1] for name in files_read}


def a_file_of(stage: str) -> str:
    """Return the pattern of a stage's files; of the published index its own, not those of its parts."""
    return "bundles/publish/*/index/*/*.*" if stage == "publish" else f"bundles/{stage}/**/*.*"


def a_receipt_of(stage: str) -> str:
    return "receipts/publish/*/index.json" if stage == "publish" else f"receipts/{stage}/*/*.json"


@pytest.mark.parametrize("stage", STAGES)
def test_a_deleted_file_is_found_in_every_stage(committed, stage):
    path = committed.file(a_file_of(stage))
    path.unlink()
    name = path.relative_to(committed.folder / "store")
    assert problems(committed) == [f"{stage}: {name} is missing; `invertmill verify --repair`, then run again"]


@pytest.mark.parametrize("stage", STAGES)
def test_an_altered_byte_is_found_in_every_stage(committed, stage):
    path = committed.file(a_file_of(stage))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    (problem,) = problems(committed)
    assert problem.startswith(f"{stage}: {path.relative_to(committed.folder / 'store')} has SHA-256")


def test_a_cut_part_of_the_index_is_found_and_made_again(committed):
    path = committed.file("bundles/publish/*/part/*/*.parquet")
    tiny.truncated(path, 0.5)
    of_part, of_index = problems(committed)
    assert f"{path.name} has {path.stat().st_size} bytes" in of_part
    assert f"its {path.name} is damaged" in of_index
    repaired(committed)
    commit_all(committed.plan())
    committed.index().publish()
    assert problems(committed) == []


def test_a_damaged_receipt_of_a_part_of_the_index_is_found_and_repaired(committed):
    tiny.truncated(committed.file("receipts/publish/*/part.json"), 0.5)
    (problem,) = problems(committed)
    assert "part.json is not a whole receipt" in problem
    assert len(repaired(committed)) == 1
    assert problems(committed) == []


def test_a_file_that_was_cut_off_is_found(committed):
    path = committed.file("bundles/invert/**/arrays.tar")
    size = path.stat().st_size
    tiny.truncated(path, 0.5)
    (problem,) = problems(committed)
    assert f"has {path.stat().st_size} bytes, its receipt says {size}; `invertmill verify --repair`" in problem


def test_a_sample_without_an_outcome_is_found(committed):
    edit_outcomes(committed.file("receipts/refine_maps/*/train-a*.json"), lambda held: held.pop("train-a-002"))
    (problem,) = problems(committed)
    assert problem.startswith("refine_maps: train-a-002 of unit train-a-")
    assert problem.endswith("has no outcome; `invertmill verify --repair`, then run again")


def test_a_sample_that_is_not_in_the_inventory_is_found(committed):
    edit_outcomes(committed.file("receipts/invert/*/held-b*.json"), lambda held: held.update(stranger=None))
    problem, codes = problems(committed)
    assert "arrays.tar lacks the codes of stranger" in codes
    assert problem.startswith("invert: stranger of unit held-b-")
    assert "is not in the inventory; `invertmill verify --repair`" in problem


def test_a_sample_that_two_units_recorded_is_found(committed):
    last = committed.file("receipts/predict_maps/*/train-a-*-000004-000005.json")
    edit_outcomes(last, lambda held: held.update({"train-a-001": None}))
    found = problems(committed)
    assert any(p.startswith("predict_maps: train-a-001 of train-a-") and "recorded 2 times" in p for p in found)


@pytest.mark.parametrize("stage", ["error_maps", "predict_maps", "refine_maps", "invert"])
def test_a_unit_without_a_bundle_is_found(committed, stage):
    path = committed.file(f"receipts/{stage}/*/train-a*.json")
    path.unlink()
    assert problems(committed) == [f"{stage}: unit {path.stem} has no bundle; run again"]


def test_a_run_without_a_segmenter_is_not_complete(committed):
    committed.file("receipts/train_segmenter/*/*.json").unlink()
    assert problems(committed) == ["train_segmenter: no segmenter is trained yet; run again"]


def test_a_shard_that_nobody_read_is_found(committed):
    tiny.write_shards(committed.folder / "shards", {"late": 2})
    assert problems(committed) == ["inventory: shard late.tar was not read yet; run again"]


def test_samples_that_are_not_in_the_index_are_found(committed):
    tiny.write_shards(committed.folder / "shards", {"late": 2})
    scan_input(committed.plan())
    assert "publish: the index has 8 rows for 10 samples; run again" in problems(committed)


def test_a_run_without_an_index_is_not_complete(committed):
    (committed.folder / "store/published.json").unlink()
    assert problems(committed) == ["publish: there is no index; run again"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"receipt": 3}', '{"receipt": "receipts/publish/x"}'])
def test_a_damaged_pointer_is_found(committed, damage):
    (committed.folder / "store/published.json").write_text(damage)
    (problem,) = problems(committed)
    assert problem.endswith("published.json is damaged; run again")


@pytest.mark.parametrize("stage", STAGES)
def test_a_damaged_receipt_is_found_in_every_stage_next_to_all_else(committed, stage):
    path = committed.file(a_receipt_of(stage))
    tiny.truncated(path, 0.5)
    lost = committed.file("receipts/predict_maps/*/train-a-*-000004-000005.json")
    lost.unlink()
    found = problems(committed)
    assert any(
        problem.startswith(f"{stage}: receipts/{stage}/") and path.name in problem and "not a whole receipt" in problem
        for problem in found
    )
    assert not any("Address(" in problem for problem in found)
    if stage != "train_segmenter":  # whose steps are not known then
        assert f"predict_maps: unit {lost.stem} has no bundle; run again" in found


def test_a_new_threshold_is_a_run_that_is_not_done_yet(committed):
    found = problems(committed, "refine_maps.threshold=0.5")
    assert {problem.partition(":")[0] for problem in found} == {"refine_maps", "invert"}
    assert len(found) == 6


# --- repair ---------------------------------------------------------------------------------------------------------


def test_there_is_nothing_to_repair_in_a_whole_run(committed):
    before = contents(committed.folder)
    assert repaired(committed) == []
    assert contents(committed.folder) == before


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("part", ["bundles", "receipts"])
def test_a_repaired_run_is_whole_after_the_next_run(committed, stage, part):
    path = committed.file(a_receipt_of(stage) if part == "receipts" else a_file_of(stage))
    tiny.truncated(path, 0.5)
    (told,) = repaired(committed)
    assert told.startswith(f"{stage}: unit ")
    assert f"its receipt is kept as damaged/{stage}/" in told
    assert len(list((committed.folder / "store/damaged" / stage).rglob("*.json"))) == 1
    commit_all(committed.plan())
    committed.index().publish()
    assert problems(committed) == []


def test_a_damaged_receipt_of_a_measured_trade_off_is_found_and_repaired(committed):
    plan = committed.plan()
    path = committed.folder / "store" / Address(TradeOff.name, ask(plan).job.fingerprint, "curve").receipt_name
    path.parent.mkdir(parents=True)
    path.write_text("{")
    (problem,) = problems(committed)
    assert problem.startswith("trade_off: ")
    assert "not a whole receipt" in problem
    (told,) = repaired(committed)
    assert told.startswith("trade_off: unit curve runs again")
    assert problems(committed) == []


def test_outcomes_that_are_not_those_of_the_samples_are_repaired(committed):
    edit_outcomes(committed.file("receipts/invert/*/held-b*.json"), lambda held: held.pop("held-b-000"))
    edit_outcomes(committed.file("receipts/refine_maps/*/held-b*.json"), lambda held: held.update(stranger=None))
    assert len(repaired(committed)) == 2
    commit_all(committed.plan())
    committed.index().publish()
    assert problems(committed) == []


def test_a_checkpoint_that_this_machine_has_is_put_back_instead_of_trained_again(committed, private_cache):
    plan = committed.plan()
    TrainedSegmenter(plan.ledger.receipt(plan.train_segmenter())).fetch(plan.ledger)
    before = committed.files()
    committed.file("bundles/train_segmenter/**/segmenter.safetensors").unlink()
    (told,) = repaired(committed)
    assert told.startswith("train_segmenter: the checkpoint was restored")
    assert committed.files() == before


def test_bundles_of_other_stages_are_set_aside_without_looking_for_the_segmenter(committed):
    plan = committed.plan()
    receipt = next(plan.ledger.receipts("invert", committed.index().steps.last.fingerprint))
    (committed.folder / "networks/generator.safetensors").unlink()  # without which there is no address
    damage = damage_of(receipt, "altered")
    (told,) = repair(committed.plan(), [Problem("invert", "altered", damage=damage)])
    assert told.startswith("invert: unit ")


def test_what_is_wrong_with_a_shard_is_told_with_what_to_do_and_is_not_a_problem_of_the_run(fresh):
    tiny.truncated(fresh.folder / "shards/train-a.tar", 0.5)
    commit_all(fresh.plan())
    fresh.index().publish()
    found, facts = verify_run(fresh.plan())
    assert found == []
    assert any(fact.startswith("  train-a.tar: ") and "write or upload the shard again" in fact for fact in facts)
