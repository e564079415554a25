"""What the tests of the generators share: the reference data beside the checkout, and one thread."""

from pathlib import Path

import pytest
import torch

REFERENCE_DATA = Path(__file__).parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden outputs; tests that need it are skipped without it."""
    if not REFERENCE_DATA.is_dir():
        pytest.skip(f"needs the reference data (golden/, weights/, data/) in a folder named {REFERENCE_DATA.name}")
    return REFERENCE_DATA


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
