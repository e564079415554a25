"""Edits of a run: committed after the inversions, indexed, published next to them, and rendered again from codes."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
import yaml
from PIL import Image
from rich.console import Console

from generators.directions import Direction, Provenance, save_directions
from generators.errors import DirectionError
from pipeline.data.records import read_records
from pipeline.errors import ConfigError, RunError
from pipeline.execution.progress import Progress
from pipeline.execution.run import Run
from pipeline.operations.status import status_of
from pipeline.operations.verify import repair, verify_run
from pipeline.publish.index import published, published_own, read_index
from pipeline.publish.pointer import POINTER
from stages.edit import Edit
from tests import tiny
from tests.pipeline.conftest import Committed, compute, contents

KEYS = {f"train-a-{i:03d}" for i in range(5)} | {f"held-b-{i:03d}" for i in range(3)}


def configure(run: Committed, **changes) -> None:
    """Add edits to the configuration of a run, along a direction that is in its folder."""
    generator = run.plan().generator
    write_directions(run.folder / "directions.safetensors", generator.w_dim)
    directions = [{"name": name, "path": "directions.safetensors"} for name in ("age", "size")]
    settings = yaml.safe_load((run.folder / "run.yaml").read_text())
    settings["edit"] = {"directions": directions, "magnitudes": [-1, 0, 1], "format": "png"} | changes
    (run.folder / "run.yaml").write_text(yaml.safe_dump(settings))


def write_directions(path: Path, w_dim: int, seed: int = 0) -> None:
    """Write a file of two directions."""
    torch.manual_seed(seed)
    save_directions([Direction(n, torch.randn(1, w_dim), Provenance(kind="test")) for n in ("age", "size")], path)


@pytest.fixture
def edited(committed) -> Committed:
    """A published run, with edits that are committed and published too."""
    configure(committed)
    commit(committed)
    return committed


def commit(run: Committed) -> None:
    plan = run.plan()
    compute(plan, plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))[Edit])
    run.index().publish()


def step_of(run: Committed, *overrides: str):
    plan = run.plan(*overrides)
    return plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))[Edit]


def test_edits_do_not_change_what_is_published_otherwise(committed):
    before = contents(committed.folder / "store")
    configure(committed)
    commit(committed)
    after = committed.files()
    assert {name for name in before if after[name] != before[name]} == {POINTER}
    pointer, earlier = json.loads(after[POINTER]), json.loads(before[POINTER])
    edits = pointer.pop("edits")
    assert pointer == earlier
    assert edits["fingerprint"] == step_of(committed).fingerprint


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_the_index_leads_to_every_edited_image_with_stock_tools(edited):
    store = edited.folder / "store"
    pointer = json.loads((store / POINTER).read_text())
    rows = [row for name in pointer["edits"]["index"] for row in pq.read_table(store / name).to_pylist()]
    assert {(row["key"], row["direction"], row["magnitude"]) for row in rows} == {
        (key, name, magnitude) for key in KEYS for name in ("age", "size") for magnitude in (-1.0, 0.0, 1.0)
    }
    assert len(rows) == len(KEYS) * 6
    images = {}
    for tar in {row["files"] for row in rows}:
        for sample in webdataset.WebDataset(str(store / tar), shardshuffle=False, empty_check=False):
            images |= {f"{sample['__key__']}.{name}": data for name, data in sample.items() if name[0] != "_"}
    assert {row["member"] for row in rows} == images.keys()
    for row in rows:
        assert Image.open(io.BytesIO(images[row["member"]])).size == (tiny.SIDE_PX, tiny.SIDE_PX)
        changes = [row[f"change_inside_{space}"] for space in ("w_plus", "f2", "f4")]
        present = [change for change in changes if change is not None]
        assert present
        assert all((change > 0) == (row["magnitude"] != 0) for change in present)


def test_edits_are_accounted_for(edited):
    plan = edited.plan()
    problems, facts = verify_run(plan)
    assert problems == []
    assert f"edit: {len(KEYS)} samples = {len(KEYS)} recorded + 0 quarantined" in facts
    status = status_of(plan)
    assert status.complete
    assert status.stages[-1].name == "edit"


def test_a_plan_knows_the_bytes_of_edits_at_most(committed):
    configure(committed)
    (stage,) = [stage for stage in status_of(committed.plan(), ahead=True).stages if stage.name == "edit"]
    assert stage.bytes_guessed
    commit(committed)
    written = sum(path.stat().st_size for path in (committed.folder / "store/bundles/edit").rglob("*files.tar"))
    assert stage.bytes_left > written / 2, "tars have headers, images here are tiny"


def test_other_edits_are_new_work_and_no_warning(edited):
    status = status_of(edited.plan("edit.magnitudes=[5]"), ahead=True)
    assert not status.warnings
    assert [(stage.name, stage.done) for stage in status.stages if stage.done < stage.units] == [("edit", 0)]


def test_the_report_has_the_time_of_edits(edited, invertmill):
    status, *_ = invertmill("report", edited.folder / "run.yaml")
    assert status == 0
    assert json.loads((edited.folder / "out/summary.json").read_text())["seconds"]["edit"] > 0


def test_a_damaged_image_is_found(edited):
    edited.file("bundles/edit/**/*files.tar").write_bytes(b"rot")
    problems, _ = verify_run(edited.plan())
    assert [problem.stage for problem in problems] == ["edit"]


def test_a_damaged_receipt_of_a_part_of_the_index_of_edits_is_found_and_repaired(edited):
    store = edited.folder / "store"
    part = json.loads((store / POINTER).read_text())["edits"]["index"][0]
    tiny.truncated(store / f"receipts/publish/{part.split('/')[2]}/part.json", 0.5)
    problems, _ = verify_run(edited.plan())
    assert ["part.json is not a whole receipt" in problem.what for problem in problems] == [True]
    assert len(repair(edited.plan(), problems)) == 1
    assert verify_run(edited.plan())[0] == []


def test_missing_edits_are_gaps(edited):
    edited.file("receipts/edit/*/*.json").unlink()
    index = edited.index()
    assert index.gaps() == {"units": {"edit": 1}}
    assert index.publish().moved


def test_without_edits_the_pointer_has_no_word_of_them(edited):
    settings = edited.folder / "run.yaml"
    settings.write_text(yaml.safe_dump(yaml.safe_load(settings.read_text()) | {"edit": None}))
    edited.index().publish()
    assert "edits" not in json.loads((edited.folder / "store" / POINTER).read_text())
    assert published_own(edited.plan().ledger, Edit) is None


def test_a_quarantined_image_has_a_row_with_its_reason(committed):
    configure(committed, magnitudes=[1e38, 1])
    commit(committed)
    ledger = committed.plan().ledger
    rows = read_index(ledger, published_own(ledger, Edit))
    assert {row["key"] for row in rows} == KEYS
    assert len(rows) == len(KEYS)
    for row in rows:
        assert (row["outcome"], row["member"], row["magnitude"]) == ("quarantined", None, None)
        assert row["reason"].startswith("edit: edit age.1e+38 is not finite; lower the magnitude")


def test_the_content_of_a_direction_decides_the_fingerprint_and_its_path_does_not(edited):
    before = step_of(edited).fingerprint
    (edited.folder / "directions.safetensors").rename(edited.folder / "moved.safetensors")
    settings = edited.folder / "run.yaml"
    settings.write_text(settings.read_text().replace("directions.safetensors", "moved.safetensors"))
    assert step_of(edited).fingerprint == before
    write_directions(edited.folder / "moved.safetensors", edited.plan().generator.w_dim, seed=1)
    assert step_of(edited).fingerprint != before
    assert step_of(edited, "edit.magnitudes=[3]").fingerprint != before
    assert step_of(edited, "edit.batch=1").fingerprint == step_of(edited).fingerprint


def test_a_plan_refuses_a_direction_of_another_generator_before_any_image_is_made(committed, invertmill):
    configure(committed)
    write_directions(committed.folder / "directions.safetensors", w_dim=3)
    config = committed.folder / "run.yaml"
    before = committed.files()
    for command in ("plan", "run", "edit"):
        status, output, errors = invertmill(command, config)
        assert status == 2
        assert "direction 'age' is [1, 3]" in " ".join((output + errors).split())
    assert committed.files() == before
    with pytest.raises(DirectionError):
        committed.plan().check_weights()


def test_a_missing_file_of_directions_is_told(committed, invertmill):
    configure(committed)
    (committed.folder / "directions.safetensors").unlink()
    status, _, errors = invertmill("plan", committed.folder / "run.yaml")
    assert status == 2
    assert "directions.safetensors" in errors
    assert "No such file" in errors


def test_nothing_is_edited_before_everything_is_inverted(committed, invertmill):
    with pytest.raises(ConfigError, match="edit: the configuration has no such section"):
        Run(committed.settings(), Progress(Console(quiet=True)))._only(Edit)
    configure(committed)
    committed.file("receipts/invert/*/*.json").unlink()
    status, _, errors = invertmill("edit", committed.folder / "run.yaml")
    assert status == 2
    assert "edit: invert has 2 of 3 units; `invertmill run` makes the rest, and does edit too" in errors


def test_edits_that_are_committed_are_not_made_again(edited, invertmill):
    before = edited.files()
    status, output, _ = invertmill("edit", edited.folder / "run.yaml")
    assert status == 0, output
    assert "nothing to do: all 3 units are edited" in output
    assert edited.files() == before


def test_a_rendered_image_is_an_edit_by_zero(edited, invertmill, tmp_path):
    status, output, _ = invertmill(
        "render", edited.folder / "run.yaml", "train-a-001", "held-b-002", "--out", tmp_path / "o"
    )
    assert status == 0
    assert "rendered 2 images" in output
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"train-a-001.png", "held-b-002.png"}
    plan = edited.plan()
    step = step_of(edited)
    for receipt in plan.ledger.receipts(step.stage.name, step.fingerprint):
        for key, record in read_records(plan.ledger.read_file, receipt, arrays=(), files=True).items():
            if (path := tmp_path / "o" / f"{key}.png").exists():
                zero = Image.open(io.BytesIO(record.files["age.0.png"]))
                change = np.abs(np.asarray(zero).astype(int) - np.asarray(Image.open(path))).max()
                assert change <= 1, "8-bit values differ by rounding at most"


def test_all_images_are_rendered_by_unit_if_no_key_is_given(committed, invertmill, tmp_path):
    status, *_ = invertmill("render", committed.folder / "run.yaml", "--out", tmp_path / "o")
    assert status == 0
    units = {unit.name for unit in committed.index().units}
    assert {path.parent.name for path in (tmp_path / "o").rglob("*.png")} == units
    assert {path.stem for path in (tmp_path / "o").rglob("*.png")} == KEYS


def test_an_unknown_key_is_refused_and_nothing_is_written(committed, invertmill, tmp_path):
    status, _, errors = invertmill("render", committed.folder / "run.yaml", "nobody", "--out", tmp_path / "o")
    assert status == 2
    assert "the published index has no key 'nobody'; its keys are like" in errors
    assert not (tmp_path / "o").exists()


def test_rendering_before_anything_is_published_is_refused(fresh, invertmill, tmp_path):
    status, _, errors = invertmill("render", fresh.folder / "run.yaml", "x", "--out", tmp_path / "o")
    assert status == 2
    assert "holds no published result: `invertmill run` comes first" in " ".join(errors.split())


def test_the_published_index_still_leads_to_the_inversions(edited):
    ledger = edited.plan().ledger
    rows = read_index(ledger, published(ledger))
    assert {row["key"] for row in rows} == KEYS
    assert all("/invert/" in row["arrays"] for row in rows)


def test_a_run_with_edits_whose_directions_are_gone_needs_them_for_status_too(edited):
    (edited.folder / "directions.safetensors").unlink()
    with pytest.raises(RunError, match=r"no weights at .*directions\.safetensors"):
        status_of(edited.plan())
