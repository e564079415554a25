"""A run with edits on Ray: killed while it edits, resumed without doing anything twice, and rendered."""

from pathlib import Path

import pytest
import torch
import yaml

from generators.checkpoints import load_generator
from generators.directions import Direction, Provenance, save_directions
from tests.integration.mill import ASSETS, MAPPED, SAMPLES_PER_SHARD, SETTINGS, SHARDS, Mill, descendants, kill

SCENES = SAMPLES_PER_SHARD * len(SHARDS)
UNITS = SCENES // 2
EDIT = {
    "directions": [{"name": "first", "path": "directions.safetensors", "layers": [0, 4]}],
    "magnitudes": [-2, 0, 2],
    "sequences": [{"name": "far", "parts": [{"direction": "first", "magnitude": 3}]}],
}


@pytest.fixture(scope="module")
def mill(finished: Mill, tmp_path_factory: pytest.TempPathFactory):
    """A finished run to which edits were added."""
    made = finished.copy(tmp_path_factory.mktemp("edits") / "mill")
    (made.folder / "run.yaml").write_text(yaml.safe_dump(SETTINGS | {"edit": EDIT}))
    generator = load_generator(ASSETS / "generator.safetensors")
    torch.manual_seed(0)
    direction = Direction("first", torch.randn(1, generator.w_dim), Provenance(kind="test"))
    save_directions([direction], made.folder / "directions.safetensors")
    yield made
    made.close()


def edited(mill: Mill) -> list[Path]:
    return sorted((mill.folder / "store/receipts/edit").glob("*/*.json"))


def test_a_run_that_was_killed_while_it_edited_is_resumed_and_does_nothing_twice(mill: Mill):
    inverted = mill.receipts()
    process = mill.start("run")
    mill.watch(process, lambda: len(edited(mill)) >= 1, "one unit is edited")
    for pid in [process.pid, *descendants(process.pid)]:
        kill(pid)
    process.communicate()
    before = mill.receipts()
    assert {receipt.stage for name, receipt in before.items() if name not in inverted} == {"edit"}
    said = mill.call("run")
    assert said.code == 0, said.text
    after = mill.receipts()
    assert {name: after.get(name) for name in before} == before
    assert {stage: len(mill.committed(stage)) for stage in (*MAPPED, "edit")} == dict.fromkeys((*MAPPED, "edit"), UNITS)
    assert mill.problems() == []
    for receipt in mill.committed("edit").values():
        assert len(receipt.recorded) == 2
        assert {entry.filename for entry in receipt.files} == {"records.parquet", "files.tar"}
    said = mill.call("run")
    assert "nothing to do" in said.text
    assert mill.receipts() == after


def test_other_edits_are_made_without_inverting_again_and_both_stay(mill: Mill):
    before = mill.receipts()
    said = mill.call("edit", "edit.magnitudes=[4]", "edit.sequences=[]")
    assert said.code == 0, said.text
    after = mill.receipts()
    made = [receipt.stage for name, receipt in after.items() if name not in before]
    assert sorted(made) == sorted(["edit"] * UNITS + ["publish"] * 2), "and a part and an index"
    assert {name: after.get(name) for name in before} == before
    said = mill.call("render --out=images")
    assert f"rendered {SCENES} images" in said.text
    assert len(list((mill.folder / "images").rglob("*.png"))) == SCENES
