"""Fixtures that all tests share: real S3 servers, started once a session and only if a test wants them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    with servers.ministack(Path(tmp_path_factory.mktemp("ministack"))) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    with servers.rclone(Path(tmp_path_factory.mktemp("rclone"))) as server:
        yield server


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
