"""The command line: runs (`run`, `plan`, `status`, …), checkpoints (`inspect`, `convert`) and `directions`."""

from __future__ import annotations

from pipeline.execution.signals import held, leave, run_interruptible

with held():  # slow imports are left to the commands that need them
    import io
    import json
    import sys
    import time
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from importlib.metadata import version as version_of
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated

    import typer
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.cli import checkpoints as cli_checkpoints
    from pipeline.cli import config as cli_config
    from pipeline.cli import directions as cli_directions
    from pipeline.cli import edit as cli_edit
    from pipeline.cli import evaluate as cli_evaluate
    from pipeline.cli import export as cli_export
    from pipeline.cli import gc as cli_gc
    from pipeline.cli import render as cli_render
    from pipeline.cli import run as cli_run
    from pipeline.cli import study as cli_study
    from pipeline.cli import tune as cli_tune
    from pipeline.cli import view as cli_view

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.data.stores import Stores
    from pipeline.execution.run import Run, RunResult
    from pipeline.operations.status import Stage, Status
    from pipeline.report.conclude import Conclusion
    from pipeline.report.summary import Summary

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(cli_checkpoints.app)
app.add_typer(cli_config.app)
app.add_typer(cli_directions.app, name="directions")
app.add_typer(cli_edit.app)
app.add_typer(cli_evaluate.app)
app.add_typer(cli_export.app)
app.add_typer(cli_gc.app)
app.add_typer(cli_render.app)
app.add_typer(cli_study.app, name="study")
app.add_typer(cli_view.app)
console = Console()

Config = Annotated[Path, typer.Argument(help="the run's YAML file", metavar="CONFIG")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override a setting: a.b=c", metavar="KEY=VALUE")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

INCOMPLETE, REFUSED = 1, 2


def _print_version(value: bool) -> None:  # typer calls it so
    if value:
        console.print(f"invertmill {version_of('invertmill')}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version and exit", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Invert whole image datasets into the latent and feature spaces of a pretrained GAN, on Ray."""


@app.command()
def run(config: Config, overrides: Set = None) -> None:
    """Start or resume a run: do everything that has no committed result yet."""
    from pipeline.errors import USER_ERRORS, ClusterLostError, RunError

    started = time.monotonic()
    mill = _run(_settings(config, overrides), console)
    try:
        finished, summary = mill.repairs.until_whole(lambda: _run_and_report(mill))
    except USER_ERRORS as error:
        cli_run.print_failed(console, mill.failed)
        if not mill.failed or not isinstance(error, RunError) or isinstance(error, ClusterLostError):
            raise
        console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        raise typer.Exit(INCOMPLETE) from None
    if summary is not None:
        _print_summary(summary)
    elif finished.moved:
        console.print(
            f"nothing to do: all {len(finished.index.units)} units are committed ({time.monotonic() - started:.1f} s)"
        )
    if summary is not None or finished.moved:
        console.print(f"report: {mill.config.folder / 'report.html'}", soft_wrap=True)
    if not cli_run.print_end(console, finished):
        raise typer.Exit(INCOMPLETE)


@app.command()
def plan(config: Config, overrides: Set = None, as_json: AsJson = False) -> None:
    """Print what a run would do, in units, worker hours and bytes; write nothing to the store."""
    status = _status(config, overrides, ahead=True)
    if as_json:
        console.print_json(json.dumps(status.as_json()))
        return
    console.print(
        _table(status, ("stage", "to do", "units", "samples", "hours", "bytes"), lambda stage: stage.planned())
    )
    cli_run.print_basis(console, status)


@app.command()
def status(config: Config, overrides: Set = None, as_json: AsJson = False) -> None:
    """Print what is committed, stage by stage."""
    status = _status(config, overrides)
    if as_json:
        console.print_json(json.dumps(status.as_json()))
        return
    console.print(
        _table(
            status, ("stage", "done", "units", "recorded", "quarantined", "fingerprint"), lambda stage: stage.achieved()
        )
    )


@app.command()
def verify(
    config: Config,
    overrides: Set = None,
    repairs: Annotated[
        bool, typer.Option("--repair", help="set the receipts of damaged bundles aside, so that a run makes them again")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue an interrupted verification without reading files again")
    ] = False,
) -> None:
    """Prove from storage that every sample is accounted for and every file matches its receipt."""
    from pipeline.operations.verify import repair, verify_run
    from pipeline.plan.plan import Plan

    settings = _settings(config, overrides)
    with _doing("verifying every file") as reached:
        plan = Plan(settings, _reachable(settings))
        problems, facts = verify_run(plan, resume=resume, reached=reached)
    for fact in facts:
        console.print(Text(fact), soft_wrap=True)
    for problem in problems:
        console.print(Text.assemble(("problem ", "red"), str(problem)), soft_wrap=True)
    for repaired in repair(plan, problems) if repairs else ():
        console.print(Text.assemble(("repaired ", "green"), repaired), soft_wrap=True)
    if problems:
        raise typer.Exit(INCOMPLETE)
    console.print("verified: inventory = recorded + quarantined in every stage, and every file has its checksum")


@app.command()
def report(config: Config, overrides: Set = None) -> None:
    """Write summary.json and report.html of what is published, or of what --set selects; publish nothing."""
    from pipeline.execution.progress import Progress
    from pipeline.report.described import described

    settings = _settings(config, overrides)
    with Progress(console).doing("writing the report"):
        finished = described(settings, asked=bool(overrides))
        conclusion = _conclude(finished)
        path = conclusion.write(finished.plan, published=finished.moved)
    _print_summary(conclusion.summary)
    cli_run.print_gaps(console, finished)
    cli_run.print_unread(console, finished)
    console.print(f"report: {path}", soft_wrap=True)


@app.command()
def tune(
    config: Config,
    overrides: Set = None,
    as_json: AsJson = False,
    samples: Annotated[
        int | None, typer.Option(min=1, help="maximum number of samples", metavar="N", show_default="10000")
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="also invert trade_off.samples of them and measure the cost of editability")
    ] = False,
) -> None:
    """Print the share of pixels that each space would get at other thresholds; read committed maps only."""
    from pipeline.plan.plan import Plan
    from pipeline.tune.shares import SAMPLES
    from pipeline.tune.shares import tune as tune_threshold

    settings = _settings(config, overrides)
    with _doing("reading maps"):
        found = tune_threshold(Plan(settings, _reachable(settings)), samples or SAMPLES)
    curve = _run(settings, Console(stderr=True)).trade_off() if invert else None
    if as_json:
        console.print_json(json.dumps(found.as_json() | ({"trade_off": curve.as_json()} if curve else {})))
        return
    console.print(cli_tune.shares(found))
    console.print(cli_tune.about_shares(found), soft_wrap=True)
    if curve is not None:
        console.print()
        console.print(cli_tune.curve(curve))
        console.print(cli_tune.about_curve(curve), soft_wrap=True)


def main() -> None:
    """Run the command line; print an error of ours, or a signal, as one message that says what to do."""
    run_interruptible(_main)


def _main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the locale lacks must not end a run
    try:
        app()
    except Exception as error:
        from pipeline.errors import USER_ERRORS, ClusterLostError  # nothing is imported after a failure

        if not isinstance(error, USER_ERRORS):
            raise
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        if isinstance(error, ClusterLostError):  # a cluster that does not answer cannot be shut down
            leave(REFUSED)
        sys.exit(REFUSED)


def _settings(config: Path, overrides: list[str] | None) -> RunConfig:
    from pipeline.config import load_config

    return load_config(config, overrides or ())


def _run(settings: RunConfig, shown_on: Console) -> Run:
    from pipeline.execution.progress import Progress
    from pipeline.execution.run import Run

    return Run(settings, Progress(shown_on))


def _status(config: Path, overrides: list[str] | None, *, ahead: bool = False) -> Status:
    from pipeline.execution.progress import Progress
    from pipeline.operations.status import status_of
    from pipeline.plan.plan import Plan

    settings = _settings(config, overrides)
    with _doing("listing the input and the store"):
        plan = Plan(settings, _reachable(settings))
        if ahead:
            if remark := plan.generator.remark:
                Progress(Console(stderr=True)).warn(f"{settings.generator.name}: {remark}")
            plan.check_weights()
            plan.check_input()
        return status_of(plan, ahead=ahead)


def _doing(what: str) -> AbstractContextManager[Callable[[str], None]]:
    from pipeline.execution.progress import Progress

    return Progress(Console(stderr=True)).doing(what)


def _reachable(settings: RunConfig) -> Stores:
    from pipeline.data.stores import Stores
    from pipeline.execution.progress import Progress

    stores = Stores.from_config(settings)
    stores.check(write=False)
    for warning in stores.warnings:
        Progress(Console(stderr=True)).warn(warning)
    return stores


def _conclude(finished: RunResult) -> Conclusion:
    from pipeline.report.conclude import conclude  # its drawing libraries take seconds to import

    return conclude(finished)


def _run_and_report(mill: Run) -> tuple[RunResult, Summary | None]:
    """Return what a run left, with its figures unless there are none or their report exists already."""
    from pipeline.data.receipt_info import IndexInfo
    from pipeline.report.described import is_reported

    finished = mill.execute()
    if not IndexInfo.from_receipt(finished.published).samples:
        return finished, None  # every unit failed: the report of what is published stays
    if finished.computed == 0 and not finished.failed and finished.moved and is_reported(finished):
        return finished, None
    with mill.progress.doing("writing the report"):
        conclusion = _conclude(finished)
        conclusion.write(finished.plan, published=finished.moved)
    return finished, conclusion.summary


def _table(status: Status, columns: tuple[str, ...], cells: Callable[[Stage], tuple[str, ...]]) -> Table:
    table = Table(*columns, box=None, header_style="bold")
    for stage in status.stages:
        table.add_row(*cells(stage))
    return table


def _print_summary(summary: Summary) -> None:
    from pipeline.report.summary import SAM

    table = Table("", "", box=None, show_header=False)
    for name, value in summary.headlines():
        table.add_row(name, value)
    console.print(f"SAM: {SAM}", soft_wrap=True)
    console.print(table)
