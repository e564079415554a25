"""A server that goes away is waited for, by those who asked for that."""

import pickle
import threading
import time
import uuid
from contextlib import contextmanager

import pytest

from infra.errors import StoreError, TransientError
from infra.stores import s3, waiting
from infra.stores.s3 import S3Options, S3Store
from tests.infra.conftest import BUCKET
from tests.servers import free_port, gate

OPTIONS = S3Options(attempts=1, connect_timeout_s=1, read_timeout_s=5, patience_s=60)


@pytest.fixture
def told(monkeypatch):
    """What was told of waiting, everything at once."""
    monkeypatch.setattr(waiting, "TELL_AFTER_S", 0.0)
    heard = []
    with waiting.listening(heard.append):
        yield heard


@contextmanager
def away(server, port, told):
    """Nobody listens on the port until somebody has said that they wait for it; then the server does."""
    over = threading.Event()

    def come_back():
        while not told and not over.wait(0.05):
            pass
        with gate(server.endpoint_url, lambda _: None, port):
            over.wait()

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def place(use_server, ministack_bucket):
    use_server(ministack_bucket)
    port = free_port()
    options = OPTIONS.model_copy(update={"endpoint_url": f"http://127.0.0.1:{port}"})
    S3Store(BUCKET, "waiting").write("a", b"1")
    return port, S3Store(BUCKET, "waiting", options)


CALLS = {
    "read": lambda store: store.read("a") == b"1",
    "open": lambda store: store.open("a").read() == b"1",
    "write": lambda store: store.write("b", b"2") is None,
    "create": lambda store: store.create(uuid.uuid4().hex, b"3"),
    "list": lambda store: "a" in [entry.name for entry in store.list()],
    "exists": lambda store: store.exists("a"),
    "delete": lambda store: store.delete(["c"]) is None,
    "large": lambda store: store.write("large", bytes(11 << 20)) is None,
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_a_patient_store_waits_for_a_server_that_is_away(
    place, ministack_bucket, told, call, monkeypatch
):
    monkeypatch.setattr(s3, "_MULTIPART", s3.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    port, store = place
    patient = pickle.loads(pickle.dumps(store.patient()))
    with away(ministack_bucket, port, told):
        assert CALLS[call](patient)
    assert f"cannot reach http://127.0.0.1:{port}" in str(told[0])
    assert told[-1].over


def test_other_stores_do_not_wait(place, told):
    _, store = place
    started = time.monotonic()
    with pytest.raises(TransientError, match="cannot reach"):
        store.read("a")
    assert time.monotonic() - started < 5
    assert told == []


def test_patience_ends_with_an_error_that_stops_a_run(place, told):
    _, store = place
    options = store.options.model_copy(update={"patience_s": 1.5})
    with pytest.raises(StoreError, match=r"waited for it for 2 s \(patience_s\).*run again"):
        S3Store(BUCKET, "waiting", options).patient().read("a")
    assert told[-1].over


def test_a_stream_continues_where_it_was(place, ministack_bucket, told, monkeypatch):
    port, store = place
    monkeypatch.setattr("infra.stores.s3._READ_BLOCK", 1000)
    S3Store(BUCKET, "waiting").write("long", b"0123456789" * 1000)
    with gate(ministack_bucket.endpoint_url, lambda _: None, port):
        stream = store.patient().open("long")
        start = stream.read(10)
    with away(ministack_bucket, port, told):
        assert start + stream.read() == b"0123456789" * 1000


def test_a_conditional_write_whose_server_goes_away_has_one_winner(place, ministack_bucket, told):
    port, store = place
    name = uuid.uuid4().hex
    with away(ministack_bucket, port, told):
        won = []
        threads = [threading.Thread(target=lambda: won.append(store.patient().create(name, b"x"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(won) == [False, False, False, True]
