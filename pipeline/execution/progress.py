"""What a run shows while it works: it is never silent for more than half a minute.

On a terminal, each stage has a bar with images per second and the time left. Elsewhere, as in a log, there are lines
with the time of day: the start and end of each stage, and its progress every half minute.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from infra.stores.waiting import Waiting
from pipeline.jobs.job import UnitResult
from stages.base.progress import WorkProgress

NOTICE_S = 30.0
"""The longest silence without a bar."""


class Shown:
    """The progress of a stage, and its display."""

    def __init__(self, say: Callable[[str], None], name: str, units: int) -> None:
        self.say, self.name, self.units = say, name, units
        self.ended = self.samples = 0
        self.started = time.monotonic()
        self._at_work: dict[str, tuple[WorkProgress, ...]] = {}  # by worker
        self._warned: set[str] = set()

    def done(self, done: UnitResult) -> None:
        """Count one unit, and show its warnings, each text once."""
        for text in dict.fromkeys(done.warnings):
            if text not in self._warned:
                self.say(f"[yellow]warning:[/] {escape(text)}")
        self._warned.update(done.warnings)
        self.ended += 1
        self.samples += done.recorded + done.quarantined
        self.update()

    def reached(self, worker: str, reached: Sequence[WorkProgress]) -> None:
        """Record the progress of a worker's current tasks."""
        self._at_work[worker] = tuple(reached)
        for part in reached:
            if part.waiting and part.what not in self._warned:
                self.say(f"[yellow]warning:[/] {escape(part.note)}")
                self._warned.add(part.what)
        self.update()

    def update(self) -> None:
        """Show the present state."""

    @property
    def share(self) -> float:
        """The share of the stage that is done; the current tasks of a worker count as one unit at most."""
        at_work = tuple(self._at_work.values())  # another thread adds to it
        begun = sum(max((p.share for p in parts if not p.waiting), default=0) for parts in at_work)
        return min(1.0, (self.ended + min(begun, self.units - self.ended)) / self.units) if self.units else 1.0

    def details(self) -> str:
        """Return the progress of all workers together inside their units."""
        parts = [part for parts in tuple(self._at_work.values()) for part in parts]
        texts = []
        for what in dict.fromkeys(part.what for part in parts):
            same = [part for part in parts if part.what == what]
            texts.append(f"{what} {sum(p.done for p in same):.0f} of {sum(p.total for p in same):.0f}")
            texts += dict.fromkeys(part.note for part in same[:1] if part.note and not part.waiting)
        return ", ".join(texts)

    def line(self) -> str:
        """Return the state as one line."""
        elapsed_s, share = time.monotonic() - self.started, self.share
        parts = [f"{self.ended} of {self.units} units"]
        if self.samples and elapsed_s:
            parts.append(f"{self.samples / elapsed_s:.1f} images/s")
        if self.ended == self.units:
            parts.append(f"took {_clock(elapsed_s)}")
        elif share:
            parts.append(f"ETA {_clock(elapsed_s * (1 - share) / share)}")
        else:
            parts.append(f"{_clock(elapsed_s)} so far")
        details = self.details() if self.ended < self.units else ""
        return f"{self.name}: {', '.join(parts)}" + (f"; {details}" if details else "")


class _Bar(Shown):
    """The bar of one stage on a terminal."""

    def __init__(self, say: Callable[[str], None], name: str, units: int, bar: bars.Progress) -> None:
        super().__init__(say, name, units)
        self._bar, self._task = bar, bar.add_task(name, total=units, samples=0, units="", details="")
        self.update()

    def update(self) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            completed=self.units if self.ended == self.units else self.share * self.units,
            samples=self.samples,
            units=f"{self.ended}/{self.units}",
            details=self.details(),
        )


class _ImagesPerSecond(bars.ProgressColumn):
    """Images per second since the stage began."""

    def render(self, task: bars.Task) -> Text:
        """Return the rate as text."""
        samples, elapsed_s = task.fields["samples"], task.elapsed or 0.0
        return Text(f"{samples / elapsed_s:6.1f} images/s" if samples and elapsed_s else "")


class _Time(bars.TimeRemainingColumn):
    """The time left, then the time taken."""

    def render(self, task: bars.Task) -> Text:
        """Return the time as text that says which one."""
        return Text.assemble("took " if task.finished else "ETA ", super().render(task))


@dataclass
class Progress:
    """The output for progress."""

    console: Console
    notice_s: float = NOTICE_S
    _said_at: float = field(default_factory=time.monotonic)
    _waited_at: float = -math.inf

    def say(self, text: str) -> None:
        """Print one line, markup allowed; with the time of day if there is no terminal."""
        self._said_at = time.monotonic()
        stamp = "" if self.console.is_terminal else f"{time.strftime('%H:%M:%S')} "
        self.console.print(stamp + text, highlight=False, soft_wrap=True)

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show an activity, such as "writing the report"; lends a function that shows how far it has come."""
        if self.console.is_terminal:
            with self.console.status(what) as status:
                yield lambda reached: status.update(escape(f"{what}: {reached}"))
            return
        started, reached = time.monotonic(), list[str]()

        def line() -> str:
            return f"still {what}, {', '.join([*reached[-1:], _clock(time.monotonic() - started)])} so far"

        with self._unless_silent(line):
            yield reached.append

    def waits(self, waiting: Waiting) -> None:
        """Report the wait for a store, at intervals."""
        if waiting.over:
            self._waited_at = -math.inf
        elif time.monotonic() - self._waited_at > self.notice_s:
            self._waited_at = time.monotonic()
            self.warn(str(waiting))

    def warn(self, text: str) -> None:
        """Print one warning."""
        self.say(f"[yellow]warning:[/] {escape(text)}")

    @contextmanager
    def stage(self, name: str, units: int, samples: int) -> Iterator[Shown]:
        """Show a stage with this number of units (and samples, if known) while it runs."""
        if self.console.is_terminal:
            columns = (
                bars.TextColumn("{task.description:16}"),
                bars.BarColumn(),
                bars.TextColumn("{task.fields[units]}"),
                _ImagesPerSecond(),
                _Time(elapsed_when_finished=True),
                bars.TextColumn("{task.fields[details]}"),
            )
            with bars.Progress(*columns, console=self.console) as bar:
                yield _Bar(self.say, name, units, bar)
            return
        shown = Shown(self.say, name, units)
        self.say(f"{name}: {units} units" + (f", {samples} samples" if samples else ""))
        try:
            with self._unless_silent(shown.line):
                yield shown
        finally:
            self.say(escape(shown.line()))

    @contextmanager
    def _unless_silent(self, line: Callable[[], str]) -> Iterator[None]:
        """Print a line whenever nothing was printed for too long, on a separate thread: the block may wait."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(max(0.01, self._said_at + self.notice_s - time.monotonic())):
                if time.monotonic() >= self._said_at + self.notice_s:
                    self.say(escape(line()))

        thread = threading.Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
