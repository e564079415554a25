"""`invertmill evaluate`: compare methods on the same images (thesis Table 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pipeline.evaluation.tables import Evaluation

app = typer.Typer()
INCOMPLETE = 1


@app.command(name="evaluate")
def evaluate(
    config: Annotated[Path, typer.Argument(help="the run's YAML file", metavar="CONFIG")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="override a setting: a.b=c", metavar="KEY=VALUE")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="compute nothing; render some images again and compare with the tables")
    ] = False,
) -> None:
    """Compare methods on held-out images; compute what is not committed yet, write tables, publish nothing."""
    (_verify if verify else _evaluate)(config, overrides or ())


def _evaluate(config: Path, overrides: Sequence[str]) -> None:
    from pipeline.cli import run as cli_run
    from pipeline.config import load_config
    from pipeline.evaluation.compute import computed
    from pipeline.evaluation.conclude import concluded, pictured, write
    from pipeline.execution.progress import Progress
    from pipeline.execution.run import Run

    console = Console()
    mill = Run(load_config(config, overrides), Progress(console))
    done = computed(mill)
    with mill.progress.doing("writing the tables"):
        evaluation = concluded(done.plan, done.methods)
        page = write(evaluation, pictured(evaluation, done.plan), mill.config.folder)
    if done.units == 0:
        console.print("nothing to compute: every bundle is committed")
    print_evaluation(console, evaluation)
    console.print(f"evaluation: {page}", soft_wrap=True)
    cli_run.print_failed(console, mill.failed)
    if not evaluation.complete:
        console.print("run again to complete it")
        raise typer.Exit(INCOMPLETE)


def _verify(config: Path, overrides: Sequence[str]) -> None:
    from pipeline.config import load_config
    from pipeline.data.stores import Stores
    from pipeline.evaluation.compute import committed
    from pipeline.evaluation.conclude import concluded
    from pipeline.evaluation.verify import verified
    from pipeline.execution.progress import Progress
    from pipeline.plan.plan import Plan
    from pipeline.report.conclude import viewer_of

    console, settings = Console(), load_config(config, overrides)
    with Progress(Console(stderr=True)).doing("rendering images again"):
        stores = Stores.from_config(settings)
        stores.check(write=False)
        plan = Plan(settings, stores)
        problems, facts = verified(concluded(plan, committed(plan)), viewer_of(plan), settings.folder)
    for fact in facts:
        console.print(Text(fact), soft_wrap=True)
    for problem in problems:
        console.print(Text.assemble(("problem ", "red"), problem), soft_wrap=True)
    if problems:
        raise typer.Exit(INCOMPLETE)
    console.print("verified: every figure of the tables is that of its bundles")


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print the tables and the claims."""
    from pipeline.evaluation.tables import HEADINGS, cells_of, claims_rows, verdicts_of

    for title, lines in (
        ("optimisation", evaluation.regime("optimisation")),
        ("encoder", evaluation.regime("encoder")),
        ("ablations of SAM", evaluation.ablations),
    ):
        if lines:
            table = Table(title, *HEADINGS[1:], box=None, header_style="bold")
            for line in lines:
                table.add_row(*cells_of(line))
            console.print(table, "")
    for sentence in evaluation.circumstances.sentences:
        console.print(sentence, soft_wrap=True, highlight=False)
    claims = Table("claim", "source", "verdict", "figure", box=None, header_style="bold")
    for row in claims_rows(evaluation.claims):
        claims.add_row(*row)
    console.print("", claims)
    console.print(f"claims: {verdicts_of(evaluation.claims)}")
