"""`invertmill evaluate` on Ray: killed on the way, resumed without doing anything twice, and verified."""

import json
from pathlib import Path

import yaml

from tests.integration.mill import ASSETS, SAMPLES_PER_SHARD, SETTINGS, Mill, descendants, kill

HELD_OUT_UNITS = SAMPLES_PER_SHARD // 2
EVALUATE = {
    "resamples": 100,
    "methods": [
        {"name": "SAM"},
        {"name": "W+", "invert": {"method": {"kind": "optimise", "spaces": "W+"}}},
        {"name": "without refinement", "ablates": "refinement", "refine_maps": {"segmentation": {"kind": "pixels"}}},
        {
            "name": "SAM encoder",
            "samples": 3,
            "invert": {"method": {"kind": "sam_encoder", "checkpoint": str(ASSETS / "encoder.safetensors")}},
        },
    ],
}
EDIT = {"directions": [{"name": "car-size", "path": str(ASSETS / "directions.safetensors")}], "magnitudes": [1]}


def test_an_evaluation_that_was_killed_is_resumed_and_does_nothing_twice(finished: Mill, tmp_path: Path):
    mill = finished.copy(tmp_path / "mill")
    (mill.folder / "run.yaml").write_text(yaml.safe_dump(SETTINGS | {"evaluate": EVALUATE, "edit": EDIT}))
    run, published = mill.receipts(), (mill.folder / "store/published.json").read_bytes()
    process = mill.start("evaluate")
    mill.watch(process, lambda: len(mill.committed("invert")) > 2 * HELD_OUT_UNITS, "a method inverts")
    for pid in [process.pid, *descendants(process.pid)]:
        kill(pid)
    process.communicate()
    before = mill.receipts()
    assert before.keys() > run.keys()

    said = mill.call("evaluate")
    assert said.code == 0, said.text
    after = mill.receipts()
    assert {name: after.get(name) for name in before} == before
    made = [receipt.stage for name, receipt in after.items() if name not in run]
    assert made.count("invert") == 3 * HELD_OUT_UNITS, "the run's own inversions are SAM's"
    assert made.count("refine_maps") == HELD_OUT_UNITS
    assert made.count("editability") == 4 * HELD_OUT_UNITS
    assert set(made) == {"invert", "refine_maps", "editability"}
    assert (mill.folder / "store/published.json").read_bytes() == published

    summary = json.loads((mill.folder / "out/summary.json").read_text())
    assert {name: line["images"] for name, line in summary["methods"].items()} == {
        "SAM": 4,
        "W+": 4,
        "without refinement": 4,
        "SAM encoder": 3,
    }
    assert summary["claims"]["sam_psnr_over_w_plus"]["images"] == 4
    assert summary["samples"]["recorded"] == 8, "what a run wrote stays"
    assert (mill.folder / "out/evaluation/evaluation.html").is_file()

    said = mill.call("evaluate --verify")
    assert said.code == 0, said.text
    assert "verified: every figure of the tables is that of its bundles" in said.text
