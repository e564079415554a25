"""The command line called in a folder of its own, and what it left there."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.receipts import Receipt
from infra.shards.shards import write_shard
from pipeline.cli.commands import main
from pipeline.config import load_config
from pipeline.data.records import read_records
from pipeline.data.stores import Stores
from pipeline.demo.occluders import SEEN, UNSEEN
from pipeline.demo.write_shards import demo_samples
from pipeline.operations.verify import verify_run
from pipeline.plan.plan import Plan
from stages.base.stage import Record

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "pipeline/demo/assets"
COMMAND = "from pipeline.cli.commands import main; main()"
PATIENCE_S = 420
MAPPED = ("error_maps", "predict_maps", "refine_maps", "invert")
SHARDS = {"supervision-000000": SEEN, "held-out-000000": UNSEEN}
SAMPLES_PER_SHARD = 4

_FAST = {
    "schedule": {"steps": 4, "learning_rate": 0.1},
    "objective": {"lambda_lpips": 0.1, "shrinkage": 1e-3},
}
SETTINGS: dict[str, Any] = {
    "input": "shards/*.tar",
    "output": "store",
    "folder": "out",
    "generator": {"checkpoint": str(ASSETS / "generator.safetensors")},
    "perceptual": {"backbone": "small", "weights": str(ASSETS / "perceptual.safetensors")},
    "truth": "occluder.png",
    "unit_samples": 2,
    "supervision": {"shards": "supervision-*", "held_out_shards": "held-out-*"},
    "error_maps": _FAST,
    "train_segmenter": {"epochs": 2, "batch": 4, "network": {"backbone": "light"}},
    "refine_maps": {"segmentation": {"kind": "labels", "member": "seg.png"}},
    "invert": _FAST,
    "compute": {"workers": 1},
}


def environment() -> dict[str, str]:
    """Return an environment for the command line: no cluster and no object storage but what a test names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


@dataclass(frozen=True)
class Said:
    """What one call of the command line came to."""

    code: int
    text: str  # standard output and error, every run of white space one space


@dataclass
class Mill:
    """A folder with shards and a configuration, and the command line called in it."""

    folder: Path
    environment: Mapping[str, str]
    overrides: Sequence[str] = ()
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def arguments(self, command: str, *overrides: str) -> list[str]:
        """Return what follows the name of the program."""
        settings = [word for override in (*self.overrides, *overrides) for word in ("--set", override)]
        return [*command.split(), "run.yaml", *settings]

    def start(self, command: str, *overrides: str) -> "subprocess.Popen[str]":
        """Start a command, which may come with options, in a process group of its own, as a terminal would."""
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *self.arguments(command, *overrides)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_as_from_a_terminal,  # noqa: PLW1509  # it calls nothing that takes a lock
        )
        self.children.append(process)
        return process

    def call(self, command: str, *overrides: str) -> Said:
        """Run a command to its end."""
        return self.finish(self.start(command, *overrides))

    def call_here(self, command: str, *overrides: str) -> Said:
        """Run a command to its end in this process and with its Ray: seconds less, where neither's start matters."""
        code, *texts = in_this_process(self.folder, *self.arguments(command, *overrides))
        return Said(code, " ".join(" ".join(texts).split()))

    def finish(self, process: "subprocess.Popen[str]") -> Said:
        """Return what a started command came to."""
        output, _ = process.communicate(timeout=PATIENCE_S)
        return Said(process.returncode, " ".join(output.split()))

    def watch(self, process: "subprocess.Popen[str]", condition: Callable[[], Any], what: str) -> Any:
        """Return the first true value of a condition while a command runs; fail with its output if it ends before."""

        def look() -> Any:
            if process.poll() is not None:
                raise AssertionError(f"the command ended before {what}: {self.finish(process).text}")
            return condition()

        return wait_until(look, what)

    def plan(self, *overrides: str) -> Plan:
        """Return the plan of this run, to look into its store."""
        config = load_config(self.folder / "run.yaml", (*self.overrides, *overrides))
        return Plan(config, Stores.from_config(config))

    def receipts(self) -> dict[str, Receipt]:
        """Return every receipt in the store by its name."""
        ledger = self.plan().ledger
        names = [entry.name for entry in ledger.store.list("receipts/") if entry.name.endswith(".json")]
        return {name: Receipt.model_validate_json(ledger.store.read(name)) for name in names}

    def committed(self, stage: str) -> dict[str, Receipt]:
        """Return the receipts of one stage by their names."""
        return {name: receipt for name, receipt in self.receipts().items() if receipt.stage == stage}

    def records(self, stage: str) -> dict[str, Record]:
        """Return the records of one stage by key, of all fingerprints that the store holds."""
        ledger, found = self.plan().ledger, {}
        for receipt in self.committed(stage).values():
            found |= read_records(ledger.read_file, receipt)
        return found

    def problems(self, *overrides: str) -> list[str]:
        """Return what `invertmill verify` would complain about."""
        return verify_run(self.plan(*overrides))[0]

    def forget(self, stage: str) -> None:
        """Delete the receipts of one stage from a store in a folder, so that its units have to be done again."""
        shutil.rmtree(self.folder / "store/receipts" / stage)

    def copy(self, folder: Path) -> "Mill":
        """Return the same run in another folder; all its local addresses are relative."""
        shutil.copytree(self.folder, folder, copy_function=shutil.copy2)
        return Mill(folder, self.environment, self.overrides)

    def close(self) -> None:
        """Kill what a failed test left running, with every process that it started."""
        for process in self.children:
            if process.poll() is None:
                for pid in [*descendants(process.pid), process.pid]:
                    kill(pid)
                process.communicate()


def in_this_process(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Return exit status, output and errors of the command line, called in a folder with environment variables."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {"COLUMNS": "200", "AWS_EC2_METADATA_DISABLED": "true", **variables}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["invertmill", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), output.getvalue(), errors.getvalue()
    return 0, output.getvalue(), errors.getvalue()


def write_scenes(folder: Path, shards: Mapping[str, Mapping[str, Any]], count: int = SAMPLES_PER_SHARD) -> None:
    """Write one shard of demo scenes for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kinds in shards.items():
        write_shard(folder / f"{name}.tar", demo_samples(name, count, kinds))


def differences(found: Mapping[str, Record], wanted: Mapping[str, Record]) -> list[str]:
    """Return where two sets of records are not equal bit by bit."""
    wrong = [f"{key} is in one only" for key in sorted(found.keys() ^ wanted.keys())]
    for key in sorted(found.keys() & wanted.keys()):
        mine, theirs = ({**of[key].row, **of[key].arrays, **of[key].files} for of in (found, wanted))
        wrong += [f"{key}: {name} is in one only" for name in sorted(mine.keys() ^ theirs.keys())]
        wrong += [
            f"{key}: {name} differs"
            for name in sorted(mine.keys() & theirs.keys())
            if not _equal(mine[name], theirs[name])
        ]
    return wrong


def _equal(a: object, b: object) -> bool:
    left, right = np.asarray(a), np.asarray(b)
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def _as_from_a_terminal() -> None:
    """Take what a shell may have set otherwise: under `nohup` or `&`, SIGINT is ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    os.umask(0o022)


# ---- processes


def processes() -> dict[int, tuple[int, str]]:
    """Return parent and title of every process by its id, from /proc; Ray titles its workers by what they do."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended meanwhile
        if state != "Z":
            found[int(folder.name)] = (int(parent), title)
    return found


def descendants(pid: int) -> dict[int, str]:
    """Return the titles of all processes below one, by their ids."""
    running, below, found = processes(), {pid}, {}
    while grown := {one for one, (parent, _) in running.items() if parent in below and one not in found}:
        found |= {one: running[one][1] for one in grown}
        below = grown
    return found


def kill(pid: int) -> None:
    """Kill a process without giving it a chance to say anything."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until(condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {within_s} s in vain until {what}")
