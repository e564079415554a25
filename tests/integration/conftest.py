"""Whole runs of the demo through the command line: eight scenes, a few steps, each in a folder of its own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

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
def finished(new_mill: Callable[..., Mill], tmp_path_factory: pytest.TempPathFactory) -> Mill:
    """An undisturbed run that two workers shared, made once for all processes of pytest; tests leave it as it is."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    folder = place / "finished"
    with FileLock(place / "finished.lock"):
        if not folder.exists():
            mill = new_mill()
            said = mill.call("run", "compute.workers=2")
            assert said.code == 0, said.text
            mill.folder.rename(folder)
    return Mill(folder, environment())


@pytest.fixture
def finished_copy(finished: Mill, tmp_path: Path) -> Iterator[Mill]:
    """The undisturbed run in a folder that a test may change."""
    mill = finished.copy(tmp_path / "mill")
    yield mill
    mill.close()
