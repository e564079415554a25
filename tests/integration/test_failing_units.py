"""Runs in which everything fails: the reasons are printed with how many units they concern, and readers stay put."""

from pathlib import Path

import pytest

from tests.integration.mill import Mill

UNREADABLE = Path("/proc/self/mem")  # opens, and gives an input/output error at its first byte


def published(mill: Mill) -> dict[str, bytes]:
    """Return the pointer and every report."""
    paths = [mill.folder / "store/published.json", *(mill.folder / "store/reports").iterdir()]
    paths += [path for path in (mill.folder / "out").glob("*.*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}


def test_a_run_whose_units_all_fail_says_why_and_publishes_nothing(finished_copy: Mill):
    before = published(finished_copy)
    finished_copy.forget("invert")
    said = finished_copy.call("run", "compute.unit_deadline_s=0.01", "compute.attempts=1")
    assert said.code == 1, said.text
    assert "failed 4 units: invert: given up after 1 attempts: nothing finished within 0 s" in said.text
    assert "nothing was published, because not one of 8 samples is recorded" in said.text
    assert "Traceback" not in said.text
    assert published(finished_copy) == before


@pytest.mark.skipif(not UNREADABLE.exists(), reason="needs /proc")
def test_a_run_that_can_read_no_shard_says_why(new_mill):
    mill = new_mill(scenes=False)
    (mill.folder / "shards").mkdir()
    for name in ("supervision-a", "supervision-b"):
        (mill.folder / f"shards/{name}.tar").symlink_to(UNREADABLE)
    said = mill.call("run", "compute.attempts=1")
    assert said.code == 1, said.text
    assert "failed 2 units: inventory: given up after 1 attempts:" in said.text
    assert "Input/output error" in said.text
    assert "error: not one of 2 shards could be read" in said.text
    assert "Traceback" not in said.text
