"""Ray as a run uses it: what is said where a cluster does not answer, and that a lost one is noticed."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from pipeline.config import Compute
from pipeline.errors import ClusterLostError, RunError
from pipeline.execution import cluster
from pipeline.execution.cluster import Cluster
from tests.servers import free_port

ROOT = Path(__file__).parents[3]


def refused(address: str) -> str:
    """Return what is said of a cluster that cannot be joined; within 20 s."""
    began = time.monotonic()
    with pytest.raises(RunError) as caught:
        Cluster(Compute(address=address), print).start()
    assert time.monotonic() - began < 20
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_refused_at_once_with_what_to_do(scheme):
    address = f"{scheme}127.0.0.1:{free_port()}"
    said = refused(address)
    assert said.startswith(f"no Ray cluster answers at compute.address {address}: ")
    assert "Connection refused" in said
    assert "Check the address" in said


def test_a_host_that_does_not_exist_is_refused_with_its_name():
    assert "no Ray cluster answers at compute.address nowhere.invalid:6379" in refused("nowhere.invalid:6379")


def test_what_listens_but_is_not_a_cluster_is_refused_in_time_without_noise():
    """In a separate process: Ray keeps trying in the background."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        program = (
            "import sys\nfrom pipeline.execution import cluster\nfrom pipeline.config import Compute\n"
            "from pipeline.errors import ClusterLostError\nfrom pipeline.execution.signals import leave\n"
            f"cluster.JOIN_S = 4\ntry:\n    cluster.Cluster(Compute(address={address!r}), lambda text: None).start()\n"
            "except ClusterLostError as error:\n    print(error)\n    leave(2)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
    assert (done.returncode, done.stderr) == (2, "")
    assert len(done.stdout.splitlines()) == 1
    assert f"nothing at compute.address {address} let this process join within 4 s" in done.stdout
    assert "RAY_AUTH_MODE=token" in done.stdout


@pytest.mark.parametrize(
    ("address", "patience_s", "said"),
    [
        (None, cluster.LOST_HERE_S, "Ray was lost: its raylet on this machine has ended"),
        ("head:6379", cluster.LOST_ELSEWHERE_S, "the Ray cluster at head:6379 was lost: its raylet has not answered"),
    ],
)
def test_a_cluster_that_no_longer_answers_is_lost_after_a_while(monkeypatch, address, patience_s, said):
    assert patience_s < 60
    now = 1000.0
    watched = Cluster(Compute(address=address), print)
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now)
    answers: list[str | None] = [None]
    monkeypatch.setattr(cluster, "_silent_part", lambda: answers[0])
    watched.check()
    for answers[0] in ("its raylet", None, "its raylet"):  # an answer in between begins the wait again
        now += patience_s
        watched.check()
    now += patience_s + 0.1
    with pytest.raises(ClusterLostError, match=said):
        watched.check()


def test_a_cluster_that_wants_a_token_is_told_from_one_that_does_not_answer(monkeypatch):
    """What Ray 2.60 writes again and again on standard error, while it keeps trying."""
    refusal = b"Failed to get cluster ID from GCS server: Unauthenticated: RPC error: InvalidAuthToken: missing"
    over = threading.Event()
    monkeypatch.setattr(cluster, "_init", lambda address: (os.write(2, refusal), over.wait(60)))
    began = time.monotonic()
    with pytest.raises(ClusterLostError, match="head:6379 needs a token, set RAY_AUTH_MODE=token and put") as caught:
        cluster._join("head:6379")
    over.set()
    assert time.monotonic() - began < 10
    assert "RAY_AUTH_TOKEN_PATH" in str(caught.value)


@pytest.mark.parametrize("late", [0, 2, 3])
def test_ray_that_is_not_ready_in_time_is_started_again_a_few_times(monkeypatch, late):
    """What Ray 2.60 raises after 30 s, for which there is no setting."""
    starts, said = [], []

    def init(address: str, _environment: Mapping[str, str]) -> None:
        starts.append(address)
        if len(starts) <= late:
            raise Exception("The current node timed out during startup. This could happen because")  # noqa: TRY002

    monkeypatch.setattr(cluster, "_init", init)
    monkeypatch.setattr(cluster, "_use_own_token", lambda: None)
    if late < cluster.STARTS:
        Cluster(Compute(), said.append).start()
    else:
        with pytest.raises(RunError, match=r"Ray did not start on this machine: .*timed out during startup.*try again"):
            Cluster(Compute(), said.append).start()
    assert starts == ["local"] * min(late + 1, cluster.STARTS)
    assert len(said) == len(starts)


def test_workers_of_this_machine_keep_what_they_compile_in_the_folder_of_the_run(monkeypatch, tmp_path):
    given = []
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(cluster, "_init", lambda _address, environment: given.append(environment))
    monkeypatch.setattr(cluster, "_use_own_token", lambda: None)
    Cluster(Compute(), print, tmp_path).start()
    ((name, folder),) = given[0].items()
    assert name == "TORCHINDUCTOR_CACHE_DIR"
    assert tmp_path in Path(folder).parents
    assert torch.backends.cpu.get_cpu_capability() in folder, "compiled code is for the instructions of one CPU"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert cluster.compiler_cache(tmp_path) == {}, "the user's choice stays"


def test_an_address_is_taken_apart():
    assert cluster._server("ray://head.local:10001/") == ("head.local", 10001)
    assert cluster._server("10.0.0.1:6379") == ("10.0.0.1", 6379)
    assert cluster._server("[::1]:6379") == ("::1", 6379)
    assert cluster._server("auto") is None
