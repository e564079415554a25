"""Signals and losses at the moments that matter: during imports, Ray's start, a stage and the report."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.execution.signals import MESSAGE
from tests.integration.mill import (
    SAMPLES_PER_SHARD,
    SHARDS,
    Mill,
    Said,
    descendants,
    differences,
    kill,
    processes,
    wait_until,
)

WITHIN_S = 10
UNITS = SAMPLES_PER_SHARD * len(SHARDS) // 2


def is_loading(pid: int, library: str) -> bool:
    """Return whether a process has mapped a library."""
    try:
        return library in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def starts_ray(pid: int) -> bool:
    return any("gcs_server" in title for title in descendants(pid).values())


def works(pid: int) -> bool:
    return any(title.startswith("ray::Host.run") for title in descendants(pid).values())


def interrupted(
    mill: Mill,
    command: str,
    moment: Callable[[int], Any],
    sent: signal.Signals,
    send: Callable[[int, int], None] = os.kill,
) -> Said:
    """Start a command, send a signal when it is there, and return what it came to.

    `os.killpg` sends it as Ctrl-C in a terminal does: to the command and every process that it started.
    """
    driver = mill.start(command)
    mill.watch(driver, lambda: moment(driver.pid), "the moment to interrupt it")
    below = set(descendants(driver.pid))
    began = time.monotonic()
    send(driver.pid, sent)
    said = mill.finish(driver)
    assert time.monotonic() - began < WITHIN_S
    wait_until(lambda: not below & processes().keys(), "every process of the interrupted command has ended", 60)
    return said


@pytest.mark.parametrize(
    ("command", "moment", "sent"),
    [
        ("plan", lambda pid: is_loading(pid, "libtorch"), signal.SIGINT),
        ("verify", lambda pid: is_loading(pid, "libarrow"), signal.SIGTERM),
        ("report", lambda pid: is_loading(pid, "matplotlib"), signal.SIGTERM),
    ],
)
def test_any_command_ends_with_one_message_and_changes_nothing(finished_copy: Mill, command, moment, sent):
    before = finished_copy.receipts()
    said = interrupted(finished_copy, command, moment, sent)
    assert (said.code, said.text) == (128 + sent, MESSAGE)
    assert finished_copy.receipts() == before


def test_a_run_survives_signals_at_rays_start_and_in_stages_and_the_loss_of_ray(finished: Mill, finished_copy: Mill):
    """One store goes through all of them, so that each continues what the last one left."""
    for stage in ("refine_maps", "invert"):
        finished_copy.forget(stage)
    said = interrupted(finished_copy, "run", starts_ray, signal.SIGINT)
    assert said.code == 130, said.text
    assert said.text.endswith(MESSAGE)

    refined = finished_copy.folder / "store/receipts/refine_maps"
    said = interrupted(finished_copy, "run", lambda _: list(refined.glob("*/*.json")), signal.SIGINT, send=os.killpg)
    assert said.code == 130, said.text
    assert MESSAGE in said.text
    assert "Traceback" not in said.text
    kept = finished_copy.committed("refine_maps") | finished_copy.committed("invert")
    assert 0 < len(kept) < 2 * UNITS

    said = interrupted(finished_copy, "run", works, signal.SIGTERM)
    assert said.code == 143, said.text
    assert said.text.count(MESSAGE) == 1
    assert "Traceback" not in said.text
    assert "SIGTERM" not in said.text

    driver = finished_copy.start(
        "run", "invert.schedule.steps=100000"
    )  # workers outlive a raylet and would soon be done
    finished_copy.watch(driver, lambda: works(driver.pid), "a worker was at a unit")
    raylet = next(pid for pid, title in descendants(driver.pid).items() if "raylet/raylet" in title)
    began = time.monotonic()
    kill(raylet)
    said = finished_copy.finish(driver)
    assert time.monotonic() - began < 60
    assert said.code == 2, said.text
    assert "Ray was lost: its raylet on this machine has ended" in said.text
    assert "run the same command again" in said.text
    assert "Traceback" not in said.text

    said = finished_copy.call("run")
    assert said.code == 0, said.text
    assert {name: finished_copy.receipts().get(name) for name in kept} == kept
    assert finished_copy.problems() == []
    assert differences(finished_copy.records("invert"), finished.records("invert")) == []
