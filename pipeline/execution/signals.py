"""SIGINT and SIGTERM end a command with one message and exit status 130 or 143, whatever the command is doing.

Both are blocked in every thread, and one thread waits for them. So no handler of a library is ever called: Ray's
dumps a trace and aborts, and Python's raises where the exception is lost, as while a process is forked. The thread
raises `Interrupted` in the main thread until it arrives there. At a second signal, or when the main thread takes too
long, the thread ends the process. Commits are atomic, so either way leaves a state to continue from.

A signal that was ignored when the process started, such as SIGINT under `nohup` or `&`, stays ignored.
This module imports the standard library only: it has to work before anything else is imported.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

MESSAGE = "interrupted; what is committed stays: the same command continues from here"
GRACE_S = 6.0  # for the main thread to end by itself
POKE_S = 0.5  # between two attempts to interrupt it
DOUBLE_S = 0.3  # two signals within this time, as from a terminal and a wrapper, count as one
POKE = signal.SIGURG  # ignored by default
SHOW_CURSOR = "\x1b[?25h"


class Interrupted(BaseException):
    """A signal requests the end of the command. It is not an error, so that no error handler delays it."""


class _State:
    """The state of signal handling in this process."""

    def __init__(self) -> None:
        self.active = False
        self.received: signal.Signals | None = None
        self.shields = 0
        self.ending = False
        self.ender: int | None = None  # the thread that ends the process
        self.lock = threading.Lock()
        self.prepared = False  # the waiting thread runs, and forks unblock signals


_state = _State()


def run_interruptible(command: Callable[[], None]) -> None:
    """Run a command on the main thread so that signals end the process as described above.

    Returns or raises like the command; after a signal it does neither.
    """
    if _state.active or threading.current_thread() is not threading.main_thread():
        command()
        return
    caught = _caught()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    handler = signal.signal(POKE, _raise)
    _state.active = True
    if caught and not _state.prepared:
        os.register_at_fork(
            after_in_child=_let_through
        )  # also before a `preexec_fn`, which all of Ray's processes have
        threading.Thread(target=_wait, args=(caught, threading.get_ident()), name="signals", daemon=True).start()
        _state.prepared = True
    try:
        try:
            command()
        finally:
            _end_if_received()
    except Interrupted:  # a second one came while the first was handled
        _end_if_received()
        raise
    finally:
        _state.active = False
        signal.signal(POKE, handler or signal.SIG_DFL)
        atexit.register(signal.pthread_sigmask, signal.SIG_BLOCK, caught)  # an ending process is not interrupted
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def shielded() -> Iterator[None]:
    """Protect the block from signals, such as the start of processes; one that came meanwhile is raised at the end."""
    _state.shields += 1
    try:
        yield
    finally:
        _state.shields -= 1
    check_interrupted()


def check_interrupted() -> None:
    """Raise `Interrupted` if a signal has come that was not handled.

    Does not return while another thread ends the process.
    """
    while _state.ending and _state.ender != threading.get_ident():
        time.sleep(POKE_S)  # nothing must be said or done after the message
    if _state.received is not None and not _state.ending and not _state.shields:
        raise Interrupted


@contextmanager
def held() -> Iterator[None]:
    """Delay signals, as while modules are imported; if one came, the process ends afterwards."""
    caught = _caught()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    try:
        yield
    finally:
        if came := (signal.sigpending() & caught) - before:
            _state.received = signal.Signals(min(came))
            _end()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave(status: int) -> NoReturn:
    """End this process at once with every process below it; no cleanup runs, so nothing can fail or wait."""
    _flush()
    _kill_below(os.getpid())
    os._exit(status)


def _caught() -> set[signal.Signals]:
    """Return the signals that are not ignored."""
    return {one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN}


def _let_through() -> None:
    """Unblock signals in a process forked from this one."""
    if _state.active:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _raise(_signal: int, _frame: object) -> None:
    check_interrupted()


def _wait(caught: set[signal.Signals], main: int) -> None:
    """Handle every signal that comes while a command runs."""
    first_at = 0.0
    while True:
        received = signal.Signals(signal.sigwait(caught))
        if not _state.active:  # the command has ended: the signal is for its caller
            os.kill(os.getpid(), received)
        elif _state.received is None:
            _state.received, first_at = received, time.monotonic()
            threading.Thread(target=_insist, args=(main,), name="interrupt", daemon=True).start()
        elif time.monotonic() - first_at > DOUBLE_S:
            _end()


def _insist(main: int) -> None:
    """Interrupt the main thread until it ends, and end the process if it does not."""
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until:
        if not _state.ending:
            signal.pthread_kill(main, POKE)
        time.sleep(POKE_S)
    _end()


def _end_if_received() -> None:
    if _state.received is not None:
        _end()


def _end() -> NoReturn:
    """Print the message and end the process; only the first thread does so."""
    if not _state.ending:
        _state.ender = threading.get_ident()
        _state.ending = True
    assert _state.received is not None
    if _state.lock.acquire(timeout=2):  # otherwise another thread holds it and is stuck
        if threading.current_thread() is threading.main_thread():
            _flush()
        _say(MESSAGE)
    _kill_below(os.getpid())
    os._exit(128 + _state.received)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _say(text: str) -> None:
    """Write to standard error past Python's buffers, which another thread may hold; never wait for a full pipe."""
    shown = f"{SHOW_CURSOR}\n{text}\n" if os.isatty(2) else f"{text}\n"
    with suppress(OSError):
        _, writable, _ = select.select([], [2], [], 1)
        if writable:
            os.write(2, shown.encode())


def _kill_below(pid: int) -> None:
    """Kill every process below one, parents first, so that they start no others."""
    for child in _below(pid):
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """Return the ids of all processes below one, nearest first; none without /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    below = list(children.get(pid, ()))
    for child in below:  # the list grows meanwhile
        below += children.get(child, ())
    return below
