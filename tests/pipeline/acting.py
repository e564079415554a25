"""A job for tests of the supervising loop: its tasks die, hang, raise or succeed as they are told.

Workers import this module, so it imports little: a process starts in a second instead of four.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.errors import Damage, DamagedBundleError, ShardError, StoreError, TransientError
from infra.stores import waiting
from pipeline.jobs.job import UnitResult
from stages.base.progress import report_progress


@dataclass(frozen=True)
class Task:
    """What to do, and how many times it is done before the task behaves."""

    name: str
    act: str = "succeed"
    times: int = 1000


@dataclass(frozen=True)
class Job:
    """Writes down every call in a folder, so that calls are counted across processes."""

    folder: Path
    name: str = "acting"
    broken: bool = False
    opens: str = "succeed"  # what it does instead of being opened,
    opens_times: int = 1000  # as many times

    def open(self) -> Callable[[Task], UnitResult]:
        """Return the function that acts out a task."""
        if self.broken:
            raise StoreError("no such weights")
        openers = self.openers()
        (self.folder / f"opened.{len(openers)}.{os.getpid()}").touch()
        if len(openers) < self.opens_times:
            _ACTS[self.opens](self.folder)
        return self._run

    def _run(self, task: Task) -> UnitResult:
        calls = self.calls(task.name)
        (self.folder / f"{task.name}.{len(calls)}.{os.getpid()}").touch()
        if len(calls) < task.times:
            _ACTS[task.act](self.folder)
        return UnitResult(task.name, recorded=len(calls) + 1, quarantined=0)

    def openers(self) -> list[int]:
        """Return the ids of the processes that opened the job, in order."""
        return self.calls("opened")

    def calls(self, task: str) -> list[int]:
        """Return the ids of the processes that a task ran in, in order."""
        names = sorted(path.name for path in self.folder.glob(f"{task}.*"))
        return [int(name.rpartition(".")[2]) for name in names]


def _die(_folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(_folder: Path) -> None:
    time.sleep(3600)


def _raise(_folder: Path) -> None:
    raise ValueError("seven is not a picture")


def _falter(_folder: Path) -> None:
    raise TransientError("the server went away")


def _warn(_folder: Path) -> None:
    logging.getLogger("stages.acting").warning("it is getting tight")
    logging.getLogger("somebody.else").warning("not ours")


def _refuse(_folder: Path) -> None:
    raise StoreError("access denied to bucket mill")


def _change(_folder: Path) -> None:
    raise ShardError("a.tar changed since it was scanned; run again")


def _advance(folder: Path) -> None:
    """Say how far it is, and end once somebody has taken note of it."""
    report_progress(3, 10, "steps", "epoch 1 of 4")
    while not (folder / "continue").exists():
        time.sleep(0.02)
    report_progress(10, 10, "steps")


def go_on(folder: Path) -> None:
    """Let a task end that waits until its progress is known."""
    (folder / "continue").touch()


def _wait(_folder: Path) -> None:
    """Wait for a store, for longer than a unit may take."""
    for second in range(7):
        waiting.tell(waiting.Waiting("http://store", "nobody answers", float(second), 3600))
        time.sleep(1)
    waiting.tell(waiting.Waiting("http://store", "", 7.0, 3600, over=True))


def _read_damaged(_folder: Path) -> None:
    raise DamagedBundleError([Damage("receipts/earlier/f00d/unit-7.json", "1", "rows.parquet is missing")])


_ACTS: dict[str, Callable[[Path], None]] = {
    "succeed": lambda _folder: None,
    "die": _die,
    "hang": _hang,
    "raise": _raise,
    "falter": _falter,
    "refuse": _refuse,
    "change": _change,
    "warn": _warn,
    "advance": _advance,
    "wait": _wait,
    "read damaged": _read_damaged,
}
