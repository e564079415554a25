"""Fixtures that all tests share: real S3 servers, started if a test needs them, and the data next to the checkout."""

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import servers

REFERENCE_DATA = Path(__file__).parents[2] / "shared"


LONGEST = ("integration", "test_on_ray.py", "test_supervisor.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core is idle while the last of them ends."""
    items.sort(key=lambda item: not any(part in LONGEST for part in item.path.parts))


SURROUNDINGS = (
    "FORCE_COLOR",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "PYTHONIOENCODING",
    "PYTHONWARNINGS",
    "TZ",
)


@pytest.fixture(scope="session", autouse=True)
def plain_surroundings() -> Iterator[None]:
    """Take away what a shell or a CI service may have set, so that results do not depend on who starts the tests."""
    umask = os.umask(0o022)
    with pytest.MonkeyPatch.context() as patch:
        for name in SURROUNDINGS:
            patch.delenv(name, raising=False)
        yield
    os.umask(umask)


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Let every process keep its bytecode, whatever the environment says: recompiling torch costs each 20 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute with one thread: as many processes of pytest run as there are cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests cache out of the user's cache, and theirs out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVERTMILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of weights, photographs and golden outputs; tests that need it are skipped without it."""
    if not REFERENCE_DATA.is_dir():
        pytest.skip(f"needs the reference data (golden/, weights/, data/) in a folder named {REFERENCE_DATA.name}")
    return REFERENCE_DATA


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    with servers.ministack(Path(tmp_path_factory.mktemp("ministack"))) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    with servers.rclone(Path(tmp_path_factory.mktemp("rclone"))) as server:
        yield server


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Ray as a run starts it, with two CPUs; every run in this process uses it instead of starting its own."""
    import ray

    from pipeline.execution.cluster import WORKER_ENVIRONMENT

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )
        yield
        ray.shutdown()
    with warnings.catch_warnings():  # Ray leaves its processes to the garbage collector, which finds them running
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def use_server(monkeypatch: pytest.MonkeyPatch):
    """Return a function that points boto3's environment at a server."""

    def use(server: servers.S3Server) -> servers.S3Server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        return server

    return use
