"""One published run that the tests of the reader leave as it is, and the store of an earlier version."""

import tarfile
from pathlib import Path

import pytest

from tests.pipeline.conftest import Committed

STORES = Path(__file__).parents[1] / "plan/stores"


@pytest.fixture(scope="session")
def store(first_run) -> Path:
    """The store of a complete run; not to be changed."""
    return first_run / "store"


@pytest.fixture(scope="session")
def earlier_store(tmp_path_factory) -> Path:
    """A store whose codes have version 1; not to be changed."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(STORES / "before_the_folders.tar.xz") as archive:
        archive.extractall(folder, filter="tar")
    return folder / "store"


@pytest.fixture
def changeable(committed) -> Committed:
    """A run whose store a test may change."""
    return committed
