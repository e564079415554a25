"""One task of the driver, in a separate process, so that its time and memory are known.

    python -m benchmarks.harness.driver_work NAME FOLDER

prints CPU and wall seconds of the work alone, imports and the generator aside, and the process's peak memory.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.harness.synthetic_run import UNIT_SAMPLES, config_in, made_up_psnr_db
from pipeline.config import RunConfig
from pipeline.data.stores import Stores
from pipeline.execution.cluster import WORKER_ENVIRONMENT
from pipeline.execution.progress import Progress
from pipeline.execution.run import Run
from pipeline.operations.status import status_of
from pipeline.operations.verify import verify_run
from pipeline.plan.plan import Plan
from pipeline.publish.index import Index
from pipeline.publish.rows import IndexRows
from pipeline.report.conclude import _timings
from pipeline.report.described import described
from pipeline.report.gallery import PICTURES, WORST
from pipeline.report.shown import shown_rows
from pipeline.report.summary import Means, columns_of, evaluate

_KIB_PER_MB = 1024


def status(config: RunConfig) -> None:
    """Read what is committed; everything must be."""
    found = status_of(Plan(config, Stores.from_config(config)))
    assert found.complete, found


def resume(config: RunConfig) -> None:
    """Run a complete run again: nothing must be computed."""
    finished = Run(config, Progress(Console(file=io.StringIO()))).execute()
    assert (finished.computed, finished.moved, finished.gaps) == (0, True, {})


def publish(config: RunConfig) -> None:
    """Write the index, and move the pointer."""
    plan = Plan(config, Stores.from_config(config))
    segmenter = plan.ledger.receipt(plan.train_segmenter())
    assert segmenter is not None
    publication = Index.from_plan(plan, plan.inventories(), segmenter).publish()
    assert publication.moved


def verify(config: RunConfig) -> None:
    """Prove that everything is whole; it must be."""
    problems, _ = verify_run(Plan(config, Stores.from_config(config)))
    assert not problems, problems


def figures(config: RunConfig) -> None:
    """Compute the report's figures of what is published, without its pictures."""
    finished = described(config, asked=False)
    rows, spaces = IndexRows(finished.plan.ledger, finished.published), finished.plan.spaces
    timings = list(_timings(finished.plan, finished.shards, finished.index, finished.published))
    found = evaluate(Means(rows.tables(columns_of(spaces))), spaces)
    shown = shown_rows(rows)
    assert len(shown) == min(len(finished.index.units) * UNIT_SAMPLES, PICTURES + WORST), shown
    assert abs(found["psnr_db_sam"] - made_up_psnr_db(finished.plan.generator)) < 1e-3, found
    assert timings[-2].units == len(finished.index.units), timings


WORK: dict[str, Callable[[RunConfig], None]] = {
    work.__name__: work for work in (status, resume, publish, verify, figures)
}


def measured(name: str, folder: Path) -> dict[str, float]:
    """Return the cost of one task, measured in a separate process."""
    said = subprocess.run(
        [sys.executable, "-m", __name__, name, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **WORKER_ENVIRONMENT},
    )
    figures: dict[str, float] = json.loads(said.stdout.splitlines()[-1])
    return figures


def main(name: str, folder: Path) -> None:
    """Do one task and print its cost."""
    config = config_in(folder)
    _ = Plan(config, Stores.from_config(config)).generator  # the cost of loading does not grow with a run
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    WORK[name](config)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    peak_mb = _peak_kib() / _KIB_PER_MB
    print(json.dumps({"cpu_s": round(cpu_s, 3), "wall_s": round(wall_s, 3), "peak_mb": round(peak_mb, 1)}))


def _peak_kib() -> int:
    """Return this program's peak memory. `getrusage` also counts that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
