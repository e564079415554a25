"""A store that an earlier version made is recognised as complete: no stage is done again because code moved.

`stores/before_the_folders.tar.xz` is a whole run of the version before the packages got folders: eight pictures,
supervision, segmenter, maps, inversions, a measured trade-off, all published. `fingerprints.json` has the fingerprints
that this version gave to its stages, and those that changed under one setting or another.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.operations.status import status_of
from pipeline.operations.verify import verify_run
from pipeline.publish.index import POINTER
from pipeline.tune.trade_off import committed_curve, measured
from tests.pipeline.conftest import Committed, contents

STORES = Path(__file__).parent / "stores"
FINGERPRINTS: dict[str, dict[str, str]] = json.loads((STORES / "fingerprints.json").read_text())
AS_MADE = FINGERPRINTS[""]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Committed:
    """The run of an earlier version; tests leave its store as it is."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(STORES / "before_the_folders.tar.xz") as archive:
        archive.extractall(folder, filter="tar")  # keeps modification times, by which shards and receipts are told
    (folder / "out/report.html").write_text("left out of the archive")
    return Committed(folder)


def fingerprints(run: Committed, *overrides: str) -> dict[str, str]:
    """Return the fingerprint of every stage under changed settings, with the segmenter that is committed."""
    segmenter = run.plan().ledger.receipt(run.plan().train_segmenter())
    plan = run.plan(*overrides)
    steps = (plan.error_maps(), *plan.map_steps(segmenter))
    found = {step.stage.name: step.fingerprint for step in steps}
    return found | {"train_segmenter": plan.train_segmenter().fingerprint}


def test_every_stage_of_an_earlier_store_is_complete(earlier):
    status = status_of(earlier.plan(), ahead=True)
    assert status.complete
    assert not status.warnings
    assert {stage.name: stage.fingerprint for stage in status.stages if stage.name in AS_MADE} == {
        name: digest for name, digest in AS_MADE.items() if name != "trade_off"
    }
    assert {stage.name: (stage.done, stage.units) for stage in status.stages} == {
        "inventory": (2, 2),
        "train_segmenter": (1, 1),
        **dict.fromkeys(("error_maps", "predict_maps", "refine_maps", "invert"), (3, 3)),
    }


def test_an_earlier_store_is_verified(earlier):
    problems, _ = verify_run(earlier.plan())
    assert problems == []


def test_a_curve_measured_earlier_from_warm_starts_is_kept_and_not_shown_as_one_from_equal_starts(earlier):
    plan = earlier.plan()
    assert len(list(plan.ledger.receipts("trade_off", AS_MADE["trade_off"]))) == 1
    assert list(measured(plan)) == []
    assert committed_curve(plan) is None


def test_the_command_line_plans_nothing_for_an_earlier_store(earlier, invertmill):
    before = contents(earlier.folder)
    code, output, _ = invertmill("plan", earlier.folder / "run.yaml", "--json")
    planned = json.loads(output)
    assert code == 0
    assert planned["complete"]
    assert [stage["bytes_left"] for stage in planned["stages"]] == [0] * 6
    assert contents(earlier.folder) == before


def test_a_run_of_an_earlier_store_computes_and_publishes_nothing(earlier, invertmill):
    before = earlier.files()
    code, output, _ = invertmill("run", earlier.folder / "run.yaml")
    assert code == 0
    assert "nothing to do: all 3 units are committed" in output
    assert earlier.files() == before


@pytest.mark.parametrize("setting", FINGERPRINTS)
def test_fingerprints_are_those_of_an_earlier_version(earlier, setting: str):
    given = AS_MADE | FINGERPRINTS[setting]
    found = fingerprints(earlier, *([setting] if setting else []))
    assert found == {name: digest for name, digest in given.items() if name != "trade_off"}


def test_the_index_of_an_earlier_store_is_written_again_with_the_same_rows(earlier, tmp_path):
    run = Committed(tmp_path / "run")
    shutil.copytree(earlier.folder, run.folder, copy_function=shutil.copy2)
    before = pointed(run)
    shutil.rmtree(run.folder / "store/receipts/publish")
    assert run.index().publish().moved
    after = pointed(run)
    assert [table.to_pylist() for table in after] == [table.to_pylist() for table in before]
    for old, new in zip(before, after, strict=True):
        typed = [new.schema.field(field.name).type == field.type for field in old.schema]
        empty = [old.column(name).null_count == old.num_rows for name in old.column_names]
        assert all(map(max, typed, empty)), "only columns without values got another type"


def pointed(run: Committed) -> list[pa.Table]:
    """Return the parquet files that the pointer of a run leads to."""
    pointer = json.loads((run.folder / "store" / POINTER).read_text())
    names = [*pointer["index"], *pointer["supervision"]["index"]]
    return [pq.read_table(run.folder / "store" / name) for name in names]
