"""A run with nothing left to compute, which needs no Ray: what it shows while it reads its store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from infra.errors import StoreError
from infra.stores.folder import FolderStore
from pipeline.cli.commands import main
from pipeline.errors import ClusterLostError, RunError
from pipeline.execution.progress import Progress
from pipeline.execution.run import Run


class Heard(Progress):
    """Notes the current activity."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.under_way: list[str] = []

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[str], None]]:
        with super().doing(what) as reached:
            self.under_way.append(what)
            try:
                yield reached
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


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RunError("train_segmenter waits for all supervision"), 1),
        (StoreError("no space left on device"), 2),
        (ClusterLostError("Ray was lost"), 2),
    ],
)
def test_failed_units_are_told_whatever_ends_the_run_and_only_they_make_it_one(error, status, committed, monkeypatch):
    def scan(run, _plan):
        run.failed["train-a"] = "inventory: given up after 3 attempts: it hangs"
        raise error

    left: list[int] = []
    monkeypatch.setattr(Run, "scan", scan)
    monkeypatch.setattr("pipeline.cli.commands.leave", left.append)  # which would end this process
    monkeypatch.setattr("sys.argv", ["invertmill", "run", str(committed.folder / "run.yaml")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == status
    assert left == ([status] if isinstance(error, ClusterLostError) else [])


def test_shards_of_which_none_could_be_read_are_told_with_their_reasons(fresh, monkeypatch, capsys):
    reason = "inventory: given up after 3 attempts: TransientError: the server went away"
    monkeypatch.setattr(Run, "scan", lambda run, plan: run.failed.update({one.name: reason for one in plan.listed}))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["invertmill", "run", str(fresh.folder / "run.yaml")])
    with pytest.raises(SystemExit) as caught:
        main()
    output = capsys.readouterr().out
    assert caught.value.code == 1
    assert f"failed 2 units: {reason} (" in output
    assert "error: not one of 2 shards could be read; run again to try once more" in output
