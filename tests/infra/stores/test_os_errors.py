"""Files that are written next to their place and then moved to it."""

import os
import time

from infra.stores import os_errors
from infra.stores.os_errors import staged


def test_what_another_process_is_writing_to_the_same_place_is_its_own(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    with staged(path) as mine:
        mine.write_text("mine")
        monkeypatch.setattr(os_errors, "PROCESS", "another")
        with staged(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_goes_after_a_day(tmp_path):
    names = ("report.html.dead.partial", "report.html.alive.partial", "summary.json.dead.partial")
    for name in names:
        (tmp_path / name).write_text("half")
    for name in (names[0], names[2]):
        os.utime(tmp_path / name, (time.time() - 2 * 86400,) * 2)
    with staged(tmp_path / "report.html") as partial:
        partial.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", *names[1:]}
