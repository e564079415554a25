"""Signals end a command with one message and their exit status, whatever it is at; each in a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.execution.signals import GRACE_S, MESSAGE

ROOT = Path(__file__).parents[3]
BOTH = pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
SETUP = """
import ctypes, hashlib, os, signal, subprocess, sys, threading, time
from pipeline.execution import signals
from pipeline.execution.signals import Interrupted, held, leave, run_interruptible, shielded
def ready():
    print("ready", flush=True)
"""


def start(body: str, *, ignoring: bool = False) -> "subprocess.Popen[str]":
    """Run a program that says when it is ready, and return it then."""

    def before() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", SETUP + body],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,  # noqa: PLW1509
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def end(process: "subprocess.Popen[str]", *sent: signal.Signals, apart_s: float = 0.5) -> tuple[int, str, float]:
    """Send signals and return exit status, what was said, and how long it took."""
    began = time.monotonic()
    for number, one in enumerate(sent):
        if number:
            time.sleep(apart_s)
        process.send_signal(one)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output + errors, time.monotonic() - began


def is_as_it_should_be(outcome: tuple[int, str, float], sent: signal.Signals, within_s: float = 5) -> bool:
    code, text, took_s = outcome
    return (code, text, took_s < within_s) == (128 + sent, f"{MESSAGE}\n", True)


@BOTH
@pytest.mark.parametrize(
    "blocked",
    [
        "time.sleep(100)",
        "threading.Event().wait()",
        "subprocess.run(['sleep', '100'])",
        "sum(i for i in range(10**12))",
        "[subprocess.run(['true'], preexec_fn=lambda: None) for _ in range(10**6)]",
    ],
)
def test_whatever_blocks_is_interrupted(blocked, sent):
    process = start(f"run_interruptible(lambda: (ready(), {blocked}))")
    assert is_as_it_should_be(end(process, sent), sent)


SWALLOWS = """
def work():
    ready()
    for _ in range(2):
        try:
            time.sleep(100)
        except BaseException:
            pass
    time.sleep(100)
run_interruptible(work)
"""


def test_an_interruption_that_somebody_swallows_comes_again():
    assert is_as_it_should_be(end(start(SWALLOWS), signal.SIGINT), signal.SIGINT)


UNINTERRUPTIBLE = """
def work():
    ready()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)
run_interruptible(work)
"""


def test_what_cannot_be_interrupted_is_ended_in_time():
    assert is_as_it_should_be(end(start(UNINTERRUPTIBLE), signal.SIGTERM), signal.SIGTERM, within_s=GRACE_S + 3)
    assert GRACE_S + 3 < 10


def test_a_second_signal_ends_it_at_once():
    outcome = end(start(UNINTERRUPTIBLE), signal.SIGTERM, signal.SIGTERM)
    assert is_as_it_should_be(outcome, signal.SIGTERM, within_s=GRACE_S - 2)


HANDLER_OF_A_LIBRARY = """
def work():
    signal.signal(signal.SIGTERM, lambda *_: os.abort())
    signal.signal(signal.SIGINT, lambda *_: os.abort())
    ready()
    time.sleep(100)
run_interruptible(work)
"""


@BOTH
def test_a_handler_that_a_library_installs_is_not_called(sent):
    assert is_as_it_should_be(end(start(HANDLER_OF_A_LIBRARY), sent), sent)


SHIELDED = """
def work():
    with shielded():
        ready()
        time.sleep(1.2)
        print("whole", flush=True)
    print("never said", flush=True)
run_interruptible(work)
"""


def test_what_is_shielded_is_done_to_its_end_and_nothing_after_it():
    code, text, took_s = end(start(SHIELDED), signal.SIGINT)
    assert (code, text) == (130, f"whole\n{MESSAGE}\n")
    assert took_s > 1


def test_processes_below_end_with_it_and_do_not_inherit_blocked_signals():
    shows_mask = "open('/proc/self/status').read().split('SigBlk:')[1].split()[0]"
    body = f"""
def work():
    child = [sys.executable, "-c", "print({shows_mask}, flush=True); import time; time.sleep(100)"]
    process = subprocess.Popen(child, preexec_fn=lambda: None, stdout=subprocess.PIPE, text=True)
    mask = process.stdout.readline().strip()
    ready()
    print(process.pid, mask, flush=True)
    time.sleep(100)
run_interruptible(work)
"""
    process = start(body)
    assert process.stdout is not None
    pid, mask = process.stdout.readline().split()
    assert int(mask, 16) & (1 << signal.SIGTERM - 1 | 1 << signal.SIGINT - 1) == 0
    assert is_as_it_should_be(end(process, signal.SIGTERM), signal.SIGTERM)
    deadline = time.monotonic() + 10
    while _runs(int(pid)) and time.monotonic() < deadline:  # a killed process takes a moment to go
        time.sleep(0.02)
    assert not _runs(int(pid))


def test_a_signal_that_was_ignored_from_the_start_stays_ignored():
    process = start("run_interruptible(lambda: (ready(), time.sleep(1.5), print('done')))", ignoring=True)
    assert end(process, signal.SIGINT)[:2] == (0, "done\n")
    process = start("run_interruptible(lambda: (ready(), time.sleep(100)))", ignoring=True)
    assert is_as_it_should_be(end(process, signal.SIGTERM), signal.SIGTERM)


@BOTH
def test_a_signal_during_imports_ends_the_program_after_them(sent):
    process = start("with held():\n    ready()\n    time.sleep(1)\nprint('never said')")
    assert is_as_it_should_be(end(process, sent), sent)


def test_a_command_that_ends_by_itself_leaves_signals_as_they_were():
    process = start(
        "before = signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "run_interruptible(lambda: None)\n"
        "assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before\n"
        "try:\n    ready()\n    time.sleep(100)\nexcept KeyboardInterrupt:\n    print('as ever')"
    )
    assert end(process, signal.SIGINT)[:2] == (0, "as ever\n")


def test_a_signal_while_the_program_shuts_down_changes_nothing():
    body = "import atexit\natexit.register(lambda: (ready(), time.sleep(1)))\nrun_interruptible(lambda: None)"
    assert end(start(body), signal.SIGTERM)[:2] == (0, "")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@BOTH
def test_nothing_is_done_after_the_message_while_another_thread_ends_the_process(sent):
    """As when Ray's start outlasts the time that it is given, and returns while its processes are being killed."""
    process = start(
        """
signals.GRACE_S, kill = 0.1, signals._kill_below
signals._kill_below = lambda pid: (time.sleep(2), kill(pid))
def command():
    ready()
    with shielded():
        time.sleep(1)
    print("continued", flush=True)
run_interruptible(command)
"""
    )
    assert is_as_it_should_be(end(process, sent), sent)
