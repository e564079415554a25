"""A run in which everything fails: the reasons are printed with how many units they concern, and readers stay put."""

from tests.integration.mill import Mill


def published(mill: Mill) -> dict[str, bytes]:
    """Return the pointer and every report."""
    paths = [mill.folder / "store/published.json", *(mill.folder / "store/reports").iterdir()]
    paths += [path for path in (mill.folder / "out").glob("*.*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}


def test_a_run_whose_units_all_fail_says_why_and_publishes_nothing(finished_copy: Mill):
    before = published(finished_copy)
    too_slow = "invert.schedule.steps=100000"  # no unit ends before the supervising loop first looks at its deadline
    said = finished_copy.call("run", too_slow, "compute.unit_deadline_s=0.01", "compute.attempts=1")
    assert said.code == 1, said.text
    assert "failed 4 units: invert: given up after 1 attempts: nothing finished within 0 s" in said.text
    assert "nothing was published, because none of 8 samples is recorded" in said.text
    assert "Traceback" not in said.text
    assert published(finished_copy) == before
