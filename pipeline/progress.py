"""Live progress of a run: one bar a stage with images a second and the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from pipeline.jobs import Done


class _ImagesPerSecond(bars.ProgressColumn):
    """Images a second since the stage began."""

    def render(self, task: bars.Task) -> Text:
        """Return the rate as text."""
        samples, elapsed_s = task.fields["samples"], task.elapsed or 0.0
        return Text(f"{samples / elapsed_s:6.1f} images/s" if samples and elapsed_s else "")


class _Time(bars.TimeRemainingColumn):
    """The time left, then the time taken."""

    def render(self, task: bars.Task) -> Text:
        """Return the time as text that says which it is."""
        return Text.assemble("took " if task.finished else "ETA ", super().render(task))


@dataclass
class Shown:
    """The bar of one stage."""

    bar: bars.Progress
    task: bars.TaskID
    warned: set[str] = field(default_factory=set)

    def done(self, done: Done) -> None:
        """Move the bar by one unit, and say what was warned of, each thing once."""
        for text in dict.fromkeys(done.warnings):
            if text not in self.warned:
                self.bar.console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False)
        self.warned.update(done.warnings)
        samples = self.bar.tasks[0].fields["samples"] + done.recorded + done.quarantined
        self.bar.update(self.task, advance=1, samples=samples)


@dataclass(frozen=True)
class Progress:
    """Where progress is shown; a console that is no terminal gets one line a stage."""

    console: Console

    def say(self, text: str) -> None:
        """Print one line, markup allowed."""
        self.console.print(text)

    @contextmanager
    def stage(self, name: str, units: int, samples: int) -> Iterator[Shown]:
        """Show the bar of a stage with so many units (and samples, if known) while it runs."""
        columns = (
            bars.TextColumn("{task.description:16}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            _ImagesPerSecond(),
            _Time(elapsed_when_finished=True),
        )
        with bars.Progress(*columns, console=self.console) as bar:
            yield Shown(bar, bar.add_task(name, total=units, samples=0, expected=samples))
