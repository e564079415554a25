"""Signals and kills at random moments of whole runs, with a table of the results.

    python -m tests.integration.chaos [--seed 7] [--signals 60] [--kills 20] [--json FILE]

Runs of the demo's scenes are disturbed one after the other in one store: by SIGINT or SIGTERM to the driver, or by
killing the driver, a worker or Ray's raylet. Each continues what the last one left, so every trial also tries the
resumption. A run that ends is compared bit by bit with an undisturbed one, and the store is emptied. The exit status
is 1 if anything did not go as it should.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from pipeline.execution.signals import MESSAGE
from tests.integration.mill import (
    MAPPED,
    SETTINGS,
    SHARDS,
    Mill,
    Said,
    descendants,
    differences,
    environment,
    kill,
    processes,
    write_scenes,
)

SIGNAL_S, LOSS_S, LEFT_S = 10.0, 60.0, 90.0
"""How long a run may take to end after a signal and after the loss of Ray, and the processes below it after that: two
agents of Ray try to reach its killed server for 60 s."""
BEGINS_S = 0.1
"""Time in which Python itself may not have begun; nothing can take a signal before it has."""
AS_IT_SHOULD = "as it should"
COMPLETE = "as it should: the run was complete, or started Ray again"
TOO_EARLY = "as it should: Python had not begun"


@dataclass(frozen=True)
class Trial:
    """One disturbance and its result."""

    disturbance: str
    at_s: float
    code: int
    took_s: float
    outcome: str


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to a run, and how the run has to end then."""

    name: str
    strike: Callable[[int], bool]  # on the driver; False if there is nothing to strike yet
    codes: tuple[int, ...]
    within_s: float
    says: tuple[str, ...] = ()  # one of these, once


def _signal(sent: signal.Signals) -> Callable[[int], bool]:
    def strike(pid: int) -> bool:
        os.kill(pid, sent)
        return True

    return strike


def _kill_below(title: str) -> Callable[[int], bool]:
    def strike(pid: int) -> bool:
        for child, said in descendants(pid).items():
            if title in said:
                kill(child)
                return True
        return False

    return strike


def _kill_driver(pid: int) -> bool:
    kill(pid)
    return True


SIGNALS = (
    Disturbance("SIGINT", _signal(signal.SIGINT), (130,), SIGNAL_S, (MESSAGE,)),
    Disturbance("SIGTERM", _signal(signal.SIGTERM), (143,), SIGNAL_S, (MESSAGE,)),
)
KILLS = (
    Disturbance("driver killed", _kill_driver, (-signal.SIGKILL,), SIGNAL_S),
    Disturbance("worker killed", _kill_below("ray::Host"), (0,), 600, ("report: ",)),
    Disturbance(
        "raylet killed",
        _kill_below("raylet/raylet"),
        (2, 1),  # 1: a process that registers at that moment is ended by Ray itself
        LOSS_S,
        ("Ray was lost", "Ray did not start", "Failed to register worker to Raylet"),
    ),
)


class Campaign:
    """Disturbs runs in one folder, and compares those that end with an undisturbed one."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.whole = _new_mill(folder / "whole")
        began = time.monotonic()
        said = self.whole.call("run")
        self.duration_s = time.monotonic() - began
        assert said.code == 0, said.text
        self.mill = _new_mill(folder / "disturbed")
        self.trials: list[Trial] = []
        self.wrong: list[str] = []
        self.compared = 0

    def disturb(self, disturbance: Disturbance) -> None:
        """Strike one run; one that has ended before is compared, and the next one is struck."""
        while True:
            at_s = self.random.uniform(0, self.duration_s)
            driver = self.mill.start("run")
            until = time.monotonic() + at_s
            while driver.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            below = set(descendants(driver.pid))
            began = time.monotonic()
            struck = driver.poll() is None and disturbance.strike(driver.pid)
            said = self.mill.finish(driver)
            took_s = time.monotonic() - began
            if struck:
                outcome = _judged(disturbance, said, at_s, took_s, below)
                self.trials.append(Trial(disturbance.name, round(at_s, 2), said.code, round(took_s, 2), outcome))
                trial = f"{disturbance.name:14} at {at_s:6.2f} s: {said.code:4} after {took_s:5.1f} s, {outcome}"
                print(trial, flush=True)  # hours may follow
                if not outcome.startswith(AS_IT_SHOULD):
                    print(said.text[-2000:], file=sys.stderr)
            if said.code == 0:
                self.compare()
            if struck:
                return

    def finish(self) -> None:
        """Let the last run end undisturbed, and compare it."""
        said = self.mill.call("run")
        if said.code:
            self.wrong.append(f"the last run ended with {said.code}: {said.text}")
        self.compare()

    def compare(self) -> None:
        """Compare a run that has ended with the undisturbed one, and empty its store."""
        wrong = self.mill.problems()
        for stage in MAPPED:
            wrong += differences(self.mill.records(stage), self.whole.records(stage))
        if wrong:
            print(f"this run differs from the undisturbed one: {'; '.join(wrong)}"[:2000], file=sys.stderr)
        self.wrong += wrong
        self.compared += 1
        for name in ("store", "out"):
            shutil.rmtree(self.mill.folder / name)


def _judged(disturbance: Disturbance, said: Said, at_s: float, took_s: float, below: set[int]) -> str:
    """Return whether a run ended as it has to after a disturbance, or what was different."""
    until = time.monotonic() + LEFT_S
    while (left := sorted(below & processes().keys())) and time.monotonic() < until:
        time.sleep(0.1)
    if said.code == 0 and "report: " in said.text and not left and 0 not in disturbance.codes:
        return COMPLETE
    if said.code < 0 and not said.text and -said.code in (signal.SIGINT, signal.SIGTERM) and at_s < BEGINS_S:
        return TOO_EARLY
    found = {
        f"exit status {said.code}": said.code in disturbance.codes,
        "a traceback": "Traceback" not in said.text,
        f"not said: {' or '.join(disturbance.says)}": not disturbance.says
        or sum(said.text.count(text) for text in disturbance.says) == 1,
        f"more than {disturbance.within_s:.0f} s": took_s < disturbance.within_s,
        f"left: {', '.join(processes().get(pid, (0, 'ended since'))[1] for pid in left)}": not left,
    }
    return ", ".join(what for what, fine in found.items() if not fine) or AS_IT_SHOULD


def _new_mill(folder: Path) -> Mill:
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    write_scenes(folder / "shards", SHARDS)
    return Mill(folder, environment())


@contextmanager
def campaign(seed: int) -> Iterator[Campaign]:
    """Lend a campaign in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        made = Campaign(Path(folder), seed)
        try:
            yield made
        finally:
            made.mill.close()


def main() -> int:
    """Run a campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with campaign(arguments.seed) as made:
        planned = [SIGNALS[i % len(SIGNALS)] for i in range(arguments.signals)]
        planned += [KILLS[i % len(KILLS)] for i in range(arguments.kills)]
        made.random.shuffle(planned)
        for disturbance in planned:
            made.disturb(disturbance)
            if arguments.json:
                arguments.json.write_text(json.dumps([asdict(trial) for trial in made.trials], indent=2))
        made.finish()
    table = Counter((trial.disturbance, trial.outcome) for trial in made.trials)
    for (name, outcome), count in sorted(table.items()):
        print(f"{name:14} {count:3}  {outcome}")
    print(f"{made.compared} runs that ended compared with the undisturbed one: {len(made.wrong)} differences")
    for text in made.wrong[:20]:
        print(text)
    return 1 if made.wrong or any(not trial.outcome.startswith(AS_IT_SHOULD) for trial in made.trials) else 0


if __name__ == "__main__":
    sys.exit(main())
