"""`invertmill run` end to end on a folder: complete, repeatable, and indifferent to whatever is killed on the way."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.integration.mill import (
    MAPPED,
    SAMPLES_PER_SHARD,
    SEEN,
    SHARDS,
    Mill,
    descendants,
    differences,
    kill,
    processes,
    wait_until,
    write_scenes,
)

SCENES = SAMPLES_PER_SHARD * len(SHARDS)
UNITS = SCENES // 2


def receipts_in(folder: Path, stage: str) -> list[Path]:
    """Return the receipts of a stage in a store's folder, without opening any."""
    return sorted((folder / "store/receipts" / stage).glob("*/*.json"))


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def actors(pid: int, doing: str) -> list[int]:
    """Return the workers below a driver that are at it."""
    return [worker for worker, title in descendants(pid).items() if title.startswith(f"ray::Host.{doing}")]


def workers_and_servers(pid: int) -> set[int]:
    """Return the processes below a driver except Ray's agents, which take a minute to see that they are alone."""
    return {one for one, title in descendants(pid).items() if not title.endswith("Agent")}


def test_a_run_accounts_for_every_sample_and_writes_its_report(finished: Mill):
    summary = json.loads((finished.folder / "out/summary.json").read_text())
    assert summary["samples"] == {"inventory": SCENES, "recorded": SCENES, "quarantined": 0}
    assert summary["failed_units"] == {}
    assert {stage: len(finished.committed(stage)) for stage in MAPPED} == dict.fromkeys(MAPPED, UNITS)
    wanted = {f"{name}-{i:04d}" for name in SHARDS for i in range(SAMPLES_PER_SHARD)}
    assert set(finished.records("invert")) == wanted
    assert "<html" in (finished.folder / "out/report.html").read_text()[:500]
    pointer = json.loads((finished.folder / "store/published.json").read_text())
    assert pointer["samples"] == SCENES


def test_a_run_takes_a_published_segmenter_in_place_of_a_training(finished: Mill, new_mill: Callable[..., Mill]):
    mill = new_mill(segmenter={"kind": "published", "weights": "segmenter.pt"})
    shutil.copy2(
        next(finished.folder.glob("store/bundles/train_segmenter/*/*/*/*.safetensors")), mill.folder / "segmenter.pt"
    )
    said = mill.call("run")
    assert said.code == 0, said.text
    assert {stage: len(mill.committed(stage)) for stage in MAPPED} == dict.fromkeys(MAPPED, UNITS) | {"error_maps": 0}
    assert mill.problems() == []
    said = mill.call("run")
    assert "nothing to do" in said.text


def test_verify_passes_over_a_finished_run(finished: Mill):
    said = finished.call("verify")
    assert said.code == 0, said.text
    assert f"invert: {SCENES} samples = {SCENES} recorded + 0 quarantined" in said.text
    assert "verified:" in said.text


def test_a_second_call_finds_nothing_to_do_and_changes_nothing(finished_copy: Mill):
    before = state_of(finished_copy.folder)
    said = finished_copy.call("run")
    assert said.code == 0, said.text
    assert f"nothing to do: all {UNITS} units are committed" in said.text
    assert "starting Ray" not in said.text
    assert state_of(finished_copy.folder) == before


def test_another_threshold_reruns_refine_maps_and_invert_only(finished_copy: Mill):
    before = finished_copy.receipts()
    said = finished_copy.call("run", "refine_maps.threshold=0.9")
    assert said.code == 0, said.text
    after = finished_copy.receipts()
    assert {name: after.get(name) for name in before} == before
    made = [receipt.stage for name, receipt in after.items() if name not in before]
    assert sorted(made) == sorted(["refine_maps"] * UNITS + ["invert"] * UNITS + ["publish"])
    assert finished_copy.problems("refine_maps.threshold=0.9") == []
    said = finished_copy.call("tune --invert", "trade_off.samples=3", "trade_off.points=3")
    assert said.code == 0, said.text
    assert "means over 3 samples, 3 of them held out" in said.text
    measured = {name for name in finished_copy.receipts() if name not in after}
    assert [name.split("/")[1] for name in measured] == ["trade_off"]


def test_a_new_shard_is_processed_and_nothing_else(finished_copy: Mill):
    before = finished_copy.receipts()
    write_scenes(finished_copy.folder / "shards", {"supervision-night": SEEN}, count=2)
    assert finished_copy.problems() != []
    said = finished_copy.call("run")
    assert said.code == 0, said.text
    after = finished_copy.receipts()
    assert {name: after.get(name) for name in before} == before
    made = [receipt for name, receipt in after.items() if name not in before]
    assert sorted(receipt.stage for receipt in made) == sorted(["inventory", "publish", "publish", *MAPPED])
    night = {"supervision-night-0000", "supervision-night-0001"}
    assert {receipt.stage for receipt in made if set(receipt.recorded) == night} == {"inventory", *MAPPED}
    summary = json.loads((finished_copy.folder / "out/summary.json").read_text())
    assert summary["samples"] == {"inventory": SCENES + 2, "recorded": SCENES + 2, "quarantined": 0}
    assert finished_copy.problems() == []


def test_a_driver_killed_on_the_way_costs_nothing_but_the_units_in_flight(new_mill, finished: Mill):
    mill = new_mill()
    driver = mill.start("run")
    mill.watch(driver, lambda: receipts_in(mill.folder, "error_maps"), "the first error maps were committed")
    below = workers_and_servers(driver.pid)
    kill(driver.pid)
    assert mill.finish(driver).code == -signal.SIGKILL
    wait_until(lambda: not below & processes().keys(), "every process of the killed run has ended", 60)
    kept = mill.receipts()
    assert mill.committed("error_maps")
    assert not mill.committed("invert")  # but perhaps all error maps: what a worker has begun it may commit
    said = mill.call("run")
    assert said.code == 0, said.text
    assert {name: mill.receipts().get(name) for name in kept} == kept
    assert mill.problems() == []
    assert {stage: differences(mill.records(stage), finished.records(stage)) for stage in MAPPED} == {
        stage: [] for stage in MAPPED
    }


def test_ctrl_c_leaves_a_state_that_the_same_command_resumes_from(finished: Mill, finished_copy: Mill):
    for stage in ("refine_maps", "invert"):
        finished_copy.forget(stage)
    driver = finished_copy.start("run")
    finished_copy.watch(driver, lambda: receipts_in(finished_copy.folder, "refine_maps"), "the first unit was refined")
    below = workers_and_servers(driver.pid)
    os.killpg(driver.pid, signal.SIGINT)
    said = finished_copy.finish(driver)
    assert said.code == 130, said.text
    assert "the same command continues from here" in said.text
    assert "Traceback" not in said.text
    wait_until(lambda: not below & processes().keys(), "every process of the interrupted run has ended", 60)
    kept = finished_copy.committed("refine_maps") | finished_copy.committed("invert")
    assert 0 < len(kept) < 2 * UNITS
    said = finished_copy.call("run")
    assert said.code == 0, said.text
    assert {name: finished_copy.receipts().get(name) for name in kept} == kept
    assert finished_copy.problems() == []
    assert differences(finished_copy.records("invert"), finished.records("invert")) == []


def test_a_worker_killed_in_the_middle_of_a_unit_costs_nothing(finished: Mill, finished_copy: Mill):
    finished_copy.forget("invert")
    driver = finished_copy.start("run")
    worker = finished_copy.watch(driver, lambda: actors(driver.pid, "run"), "a worker was at a unit")[0]
    kill(worker)
    assert len(receipts_in(finished_copy.folder, "invert")) < UNITS
    finished_copy.watch(driver, lambda: set(actors(driver.pid, "run")) - {worker}, "another worker took over")
    said = finished_copy.finish(driver)
    assert said.code == 0, said.text
    assert "failed" not in said.text
    assert finished_copy.problems() == []
    assert differences(finished_copy.records("invert"), finished.records("invert")) == []
