"""`invertmill run` end to end on a folder: complete, repeatable, and indifferent to whatever is killed on the way."""

import json
import signal
from pathlib import Path

from tests.integration.mill import (
    MAPPED,
    SAMPLES_PER_SHARD,
    SHARDS,
    Mill,
    descendants,
    differences,
    kill,
    processes,
    wait_until,
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


def test_a_driver_and_then_a_worker_killed_on_the_way_cost_nothing_but_the_units_in_flight(new_mill, finished: Mill):
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

    driver = mill.start("run")
    mill.watch(driver, lambda: len(receipts_in(mill.folder, "refine_maps")) == UNITS, "all maps were refined")
    worker = mill.watch(driver, lambda: actors(driver.pid, "run"), "a worker was at a unit")[0]
    kill(worker)
    assert len(receipts_in(mill.folder, "invert")) < UNITS
    mill.watch(driver, lambda: set(actors(driver.pid, "run")) - {worker}, "another worker took over")
    said = mill.finish(driver)
    assert said.code == 0, said.text
    assert "failed" not in said.text
    assert {name: mill.receipts().get(name) for name in kept} == kept
    assert mill.problems() == []
    assert {stage: differences(mill.records(stage), finished.records(stage)) for stage in MAPPED} == {
        stage: [] for stage in MAPPED
    }
