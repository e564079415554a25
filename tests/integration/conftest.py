"""Whole runs of the demo through the command line: eight scenes, a few steps, each in a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.mill import SETTINGS, SHARDS, Mill, environment, write_scenes


@pytest.fixture(scope="session")
def new_mill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mill]]:
    """Return a function that makes a folder with a configuration and, if wanted, the eight scenes."""
    made: list[Mill] = []

    def make(*, scenes: bool = True, **changes: Any) -> Mill:
        folder = tmp_path_factory.mktemp("mill")
        (folder / "run.yaml").write_text(yaml.safe_dump(SETTINGS | changes))
        if scenes:
            write_scenes(folder / "shards", SHARDS)
        made.append(Mill(folder, environment()))
        return made[-1]

    yield make
    for mill in made:
        mill.close()


@pytest.fixture(scope="session")
def finished(new_mill: Callable[..., Mill]) -> Mill:
    """An undisturbed run that two workers shared; tests must leave it as it is."""
    mill = new_mill()
    said = mill.call("run", "compute.workers=2")
    assert said.code == 0, said.text
    return mill


@pytest.fixture
def finished_copy(finished: Mill, tmp_path: Path) -> Iterator[Mill]:
    """The undisturbed run in a folder that a test may change."""
    mill = finished.copy(tmp_path / "mill")
    yield mill
    mill.close()
