"""A run with nothing left to compute, which needs no Ray: what it shows while it reads its store."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from infra.folder import FolderStore
from pipeline.progress import Progress
from pipeline.run import Run


class Heard(Progress):
    """Notes what goes on at the moment."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.under_way: list[str] = []

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        with super().doing(what):
            self.under_way.append(what)
            try:
                yield
            finally:
                self.under_way.pop()


@pytest.fixture
def unsaid(monkeypatch) -> tuple[Heard, list[str]]:
    """Where progress is shown, and what a store was asked for while nothing was shown."""
    heard, unsaid = Heard(), []

    def noting(name):
        whole = getattr(FolderStore, name)

        def asked(store, *arguments):
            if not heard.under_way:
                unsaid.append(f"{name} {arguments}")
            return whole(store, *arguments)

        return asked

    for name in ("read", "list", "open", "exists"):
        monkeypatch.setattr(FolderStore, name, noting(name))
    return heard, unsaid


def test_whatever_a_run_asks_its_store_for_something_is_shown(committed, unsaid):
    """A store may hold millions of samples and answer slowly: no pass over it may be silent."""
    progress, silent = unsaid
    run = Run(committed.settings(), progress)
    run.computed = 1  # so that leftovers are looked for
    finished = run.execute()
    assert finished.moved
    assert silent == []
