"""Ray for a run: started on this machine or joined, and watched, so that a lost cluster ends the run."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
import torch

from pipeline.config import Compute
from pipeline.errors import ClusterLostError, RunError
from pipeline.execution.signals import shielded

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # compute.cpus_per_worker sets torch's own threads
    # glibc hands every large tensor back to the system and faults it in again, those above 32 MiB whatever threshold is
    # set; keeping all of them in one heap is 1.5 to 2 times faster
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "67108864",
}
PROBE_S = 5.0  # for a server to accept a connection
JOIN_S = 12.0  # for a cluster to let this process join; together with the probe less than 20 s
STARTS = 3  # attempts to start Ray here: it gives its parts 30 s, which is too short on a busy machine
CHECK_S = 2.0  # between two checks of the cluster
LOST_HERE_S = 4.0  # without an answer, until a cluster on this machine is lost: nothing restarts it
LOST_ELSEWHERE_S = 45.0  # the same for a joined cluster, whose head may restart; at 60 s Ray ends the process
AGAIN = "What is committed stays: run the same command again"


@dataclass
class Cluster:
    """The Ray cluster of a run; started when it is first needed."""

    compute: Compute
    say: Callable[[str], None]
    folder: Path | None = None  # keeps what its workers compile, if it is on this machine
    _checked_at: float = 0.0
    _silent_since: float | None = None

    def probe(self) -> None:
        """Return if something listens at `compute.address`, or if it is not set; otherwise raise `RunError`."""
        if self.compute.address is not None and (server := _server(self.compute.address)):
            try:
                socket.create_connection(server, PROBE_S).close()
            except OSError as error:
                raise RunError(
                    f"no Ray cluster answers at compute.address {self.compute.address}: {error}. Check the address and "
                    f"that the cluster's head runs; without compute.address the run starts Ray on this machine"
                ) from error

    def start(self) -> None:
        """Start Ray or join the cluster, unless this process has one.

        Raises:
            RunError: it does not start, or the cluster does not answer or refuses.
        """
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self.compute.address
        self.say("starting Ray" if address is None else f"joining the Ray cluster at {address}")
        try:
            if address is None:
                _use_own_token()
                with shielded():
                    _start_here(self.say, {} if self.folder is None else compiler_cache(self.folder))
            else:
                self.probe()
                _use_token_if_there()
                _join(address)
        except RunError:
            raise
        except Exception as error:  # Ray raises bare exceptions if it does not start in time
            what = "start on this machine" if address is None else f"join {address}"
            token = f". For a token, {_about_token()}" if "token" in str(error).lower() else ""
            raise RunError(f"Ray did not {what}: {error}{token or '; try again'}") from error

    def check(self) -> None:
        """Return if the cluster answers now, or did a moment ago.

        Raises:
            ClusterLostError: it has not answered for too long.
        """
        now = time.monotonic()
        if now - self._checked_at < CHECK_S:
            return
        self._checked_at = now
        silent = _silent_part()
        if silent is None:
            self._silent_since = None
            return
        self._silent_since = self._silent_since or now
        silent_s = now - self._silent_since
        if self.compute.address is None and silent_s > LOST_HERE_S:
            raise ClusterLostError(
                f"Ray was lost: {silent} on this machine has ended, as if killed, perhaps for memory. {AGAIN}"
            )
        if silent_s > LOST_ELSEWHERE_S:
            raise ClusterLostError(
                f"the Ray cluster at {self.compute.address} was lost: {silent} has not answered for "
                f"{LOST_ELSEWHERE_S:.0f} s. {AGAIN} when the cluster is back"
            )

    def wait_for(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401  # whatever the call returns
        """Return the result of a call that waits for the cluster, on a separate thread so that a loss is noticed."""
        outcome: list[Any] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                outcome.append(call())
            except BaseException as error:  # raised below, on the waiting thread
                failure.append(error)

        thread = threading.Thread(target=work, name="waiting for Ray", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(CHECK_S)
            self.check()
        if failure:
            raise failure[0]
        return outcome[0]


def compiler_cache(folder: Path) -> dict[str, str]:
    """Return the environment in which torch keeps compiled code in a folder: by version and by instructions of the CPU.

    Torch does not include the latter in its key: the folder may come from a different machine. A cache that the
    environment names already is kept.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return {}
    name = f"torch-{torch.__version__}-{torch.backends.cpu.get_cpu_capability()}"
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder.resolve() / "cache" / "compiled" / name)}


def _start_here(say: Callable[[str], None], environment: Mapping[str, str]) -> None:
    """Start Ray on this machine, again if its parts were not ready in time."""
    for left in range(STARTS - 1, -1, -1):
        try:
            _init("local", environment)  # None would join the cluster in RAY_ADDRESS
        except Exception as error:  # Ray raises bare exceptions
            if not left or "timed out" not in str(error):
                raise
            ray.shutdown()
            say("Ray was not ready in time, as on a busy machine: starting it again")
        else:
            return


def _init(address: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
    ray.init(
        address=address,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {**WORKER_ENVIRONMENT, **environment}},
    )


def _join(address: str) -> None:
    """Join a cluster within a time limit: Ray itself tries for minutes, and cannot be interrupted."""
    failure: list[Exception] = []
    refused = False

    def work() -> None:
        try:
            _init(address)
        except Exception as error:  # raised below
            failure.append(error)

    thread = threading.Thread(target=work, name="joining Ray", daemon=True)
    until = time.monotonic() + JOIN_S
    with _unheard() as noise:  # the exception says what failed
        thread.start()
        while thread.is_alive() and time.monotonic() < until and not (refused := b"AuthToken" in noise.read_bytes()):
            thread.join(0.2)
    if failure:
        raise failure[0]
    if refused:
        raise ClusterLostError(f"the Ray cluster at compute.address {address} needs a token, {_about_token()}")
    if thread.is_alive():
        raise ClusterLostError(
            f"nothing at compute.address {address} let this process join within {JOIN_S:.0f} s: it is not a "
            f"Ray cluster of version {ray.__version__}, is overloaded, or needs a token. For a token, {_about_token()}"
        )


@contextmanager
def _unheard() -> Iterator[Path]:
    """Redirect what this process writes to standard error, also from C++, to a file."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.NamedTemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield Path(noise.name)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _server(address: str) -> tuple[str, int] | None:
    """Return host and port of an address of Ray; None if it has none, as `auto`."""
    host, _, port = address.removeprefix("ray://").rstrip("/").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


# ---- tokens


def _use_own_token() -> None:
    """Give a cluster of this process a separate token: Ray would keep one in HOME, which may be read-only."""
    if os.environ.get("RAY_AUTH_MODE", "token") == "token" and not _names_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _use_token_if_there() -> None:
    """Make Ray send its token if there is one; by default it does so only for clusters it finds by itself."""
    if "RAY_AUTH_MODE" in os.environ or not (_names_token() or _token_file().is_file()):
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    ray._raylet.Config.initialize("")  # type: ignore[attr-defined]  # Ray has read the environment already


def _names_token() -> bool:
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"))


def _token_file() -> Path:
    return Path("~/.ray/auth_token").expanduser()


def _about_token() -> str:
    """Return what to do if a cluster needs a token."""
    return (
        "set RAY_AUTH_MODE=token and put the cluster's token into RAY_AUTH_TOKEN, a file that RAY_AUTH_TOKEN_PATH "
        f"names, or {_token_file()}"
    )


# ---- health


def _silent_part() -> str | None:
    """Return which part of the cluster does not answer this process; None if all do."""
    node = ray._private.worker._global_node
    if node is None:  # a client knows only the connection
        return None if ray.is_initialized() else "its server"
    if not _answers(node.raylet_socket_name):
        return "its raylet"
    host, _, port = node.gcs_address.rpartition(":")
    return None if _answers((host.strip("[]"), int(port))) else "its control service (GCS)"


def _answers(server: str | tuple[str, int]) -> bool:
    """Return whether something accepts connections; a path is a Unix socket."""
    family = socket.AF_UNIX if isinstance(server, str) else socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(server)
        except OSError:
            return False
    return True
