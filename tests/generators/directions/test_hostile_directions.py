"""Every hostile file of the generators' tests, given as a direction: one DirectionError, and nothing is executed."""

from pathlib import Path

import pytest
import torch

from generators import DirectionError, load_direction
from tests.generators.archives import archive_of
from tests.generators.converted import torch_file
from tests.generators.hostile import HOSTILE, rooted, stream, text
from tests.generators.unpickling.test_hostile_files import CONTAINERS, FILES, PICKLE, seen
from tests.generators.unpickling.test_torch_file import ARCHIVES, LEGACY

HIDDEN = {
    **CONTAINERS,
    "a plain pickle": rooted,
    "the direction of a zip": lambda attack: archive_of({PICKLE: b"\x80\x02" + attack + b"."}),
    "the direction of a legacy file": lambda attack: stream(b"\x80\x02" + attack + b".", keys=()),
    "GANSpace's components": lambda attack: archive_of(
        {PICKLE: b"\x80\x02}(" + text("comp") + attack + text("std") + b"Nu."}
    ),
    "a named direction": lambda attack: archive_of({PICKLE: b"\x80\x02}" + text("smile") + attack + b"s."}),
}


def refuse(folder: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    inside = folder / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    (inside / "hostile.npy").write_bytes(data)
    before = seen(folder)
    with pytest.raises(DirectionError) as caught:
        load_direction(inside / "hostile.npy", "0")
    assert seen(folder) == before
    assert not Path("/tmp/evil").exists()
    return str(caught.value)


@pytest.mark.parametrize("container", HIDDEN)
@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_is_executed_wherever_a_pickle_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, attack: str
):
    sentinel = tmp_path / "sentinel"
    refuse(tmp_path, HIDDEN[container](HOSTILE[attack](str(sentinel))), monkeypatch)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", FILES)
def test_no_file_does_more_than_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    assert "hostile.npy" in refuse(tmp_path, FILES[name](), monkeypatch)


@pytest.mark.parametrize("name", [*ARCHIVES, *LEGACY])
def test_no_archive_that_torch_would_not_write_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    data = ARCHIVES[name][0]() if name in ARCHIVES else LEGACY[name][0]
    assert "hostile.npy" in refuse(tmp_path, data, monkeypatch)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, legacy: bool):
    data = torch_file({"comp": torch.ones(3, 1, 5), "std": torch.ones(3)}, legacy=legacy)
    (tmp_path / "whole").write_bytes(data)
    assert load_direction(tmp_path / "whole", "0").shape == (1, 5)
    for length in (*range(40), *range(40, len(data), len(data) // 60), len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(DirectionError):
            load_direction(tmp_path / "cut", "0")
