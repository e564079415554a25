"""What only object storage can get wrong, against real servers."""

import hashlib
import io
import os
import pickle
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from botocore.awsrequest import AWSResponse
from pydantic import ValidationError
from urllib3 import HTTPResponse

from infra.errors import NotFoundError, StoreError, TransientError
from infra.stores import s3
from infra.stores.s3 import S3Options, S3Store
from infra.stores.storage import open_store
from tests.infra.conftest import BUCKET
from tests.servers import free_port


@pytest.mark.parametrize("kind", ["ministack", "rclone"])
def test_conditional_writes_are_found_out_by_trying(kind, make_store, request):
    store = make_store(kind)
    assert store.conditional == request.getfixturevalue(kind).conditional
    assert list(store.list()) == []


def test_the_probe_runs_once_a_process(make_store, monkeypatch):
    store = make_store("ministack")
    assert store.conditional
    monkeypatch.setattr(S3Store, "_probe", lambda _: pytest.fail("probed again"))
    assert S3Store(BUCKET, "elsewhere", store.options).conditional


@pytest.mark.parametrize("kind", ["ministack", "rclone"])
def test_a_missing_bucket_is_named_with_how_to_create_it(make_store, kind):
    store = S3Store("no-such-bucket", "p", make_store(kind).options)
    for call in (
        lambda: store.check(write=False),
        lambda: list(store.list()),
        lambda: store.read("a"),
        lambda: store.write("a", b""),
        lambda: store.create("a", b""),
        lambda: store.delete(["a"]),
    ):
        with pytest.raises(StoreError, match=r"no bucket 'no-such-bucket'.*aws s3 mb s3://no-such-bucket"):
            call()


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_a_permanent_error_that_says_what_to_set(make_store, monkeypatch, variable):
    store = make_store("rclone")
    monkeypatch.setenv(variable, "wrong")
    for call in (store.check, lambda: store.read("a"), lambda: store.exists("a"), lambda: store.create("a", b"")):
        with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as caught:
            call()
        assert not isinstance(caught.value, NotFoundError)


def test_no_credentials_at_all_say_what_to_set(make_store, monkeypatch):
    store = make_store("rclone")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"no usable credentials.*set AWS_ACCESS_KEY_ID"):
        store.check()


def test_an_unknown_profile_is_named(make_store):
    options = make_store("rclone").options.model_copy(update={"profile": "nobody"})
    with pytest.raises(StoreError, match="profile 'nobody'"):
        S3Store(BUCKET, "", options).check()


def test_an_unreachable_endpoint_is_transient_and_named(make_store):
    endpoint = f"http://127.0.0.1:{free_port()}"
    make_store("ministack")  # for its credentials
    store = S3Store(BUCKET, "p", S3Options(endpoint_url=endpoint, attempts=1))
    for call in (store.check, lambda: store.read("a"), lambda: store.conditional, lambda: store.write("a", b"")):
        with pytest.raises(TransientError, match=f"cannot reach {endpoint} .*endpoint_url or AWS_ENDPOINT_URL"):
            call()


def test_an_endpoint_that_is_not_an_address_is_refused_at_once():
    with pytest.raises(ValidationError, match="endpoint_url"):
        S3Options(endpoint_url="localhost:9000")
    with pytest.raises(StoreError, match="http://"):
        S3Store(BUCKET, "", S3Options(endpoint_url="http://")).check()


def test_options_hold_no_secrets_and_refuse_unknown_keys():
    with pytest.raises(ValidationError, match="secret_key"):
        S3Options(secret_key="x")


def test_the_endpoint_of_the_environment_travels_with_a_pickled_store(make_store, monkeypatch):
    store = make_store("ministack")
    store.write("a", b"1")
    pickled = pickle.dumps(store)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert pickle.loads(pickled).read("a") == b"1"
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in pickled


@pytest.mark.parametrize("kind", ["ministack", "rclone"])
def test_large_content_goes_up_in_parts(make_store, monkeypatch, tmp_path, kind):
    monkeypatch.setattr(s3, "_MULTIPART", s3.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    store = make_store(kind)
    content = os.urandom(1 << 20) * 11
    source = tmp_path / "large"
    source.write_bytes(content)
    store.write("from-file", source)
    store.write("from-memory", content)
    assert store.read("from-file") == content
    with store.open("from-memory") as stream:
        assert b"".join(iter(lambda: stream.read(3_000_000), b"")) == content


@pytest.mark.parametrize("kind", ["ministack", "rclone"])
def test_an_upload_in_parts_that_fails_leaves_nothing(make_store, monkeypatch, kind):
    monkeypatch.setattr(s3, "_MULTIPART", s3.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    store = make_store(kind)
    put = store._api.upload_part

    def second_refused(**arguments):
        if arguments["PartNumber"] == 2:
            error = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise s3.ClientError(error, "UploadPart")
        return put(**arguments)

    monkeypatch.setattr(store._api, "upload_part", second_refused)
    with pytest.raises(StoreError):
        store.write("large", os.urandom(1 << 20) * 11)
    assert list(store.list()) == []
    assert store._unfinished_uploads(store.prefix, float("inf")) == []


def test_every_write_is_one_put_or_one_upload_whose_content_is_signed(make_store, monkeypatch):
    monkeypatch.setattr(s3, "_MULTIPART", s3.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    store, sent = make_store("ministack"), []
    assert store.conditional  # the probe's own requests

    def noted(request, event_name, **_):
        sent.append((event_name.rpartition(".")[2], request.headers["X-Amz-Content-SHA256"].decode()))

    store._api.meta.events.register("before-send.s3", noted)
    store.write("small", b"a whole object")
    store.create("receipt", b"{}")
    store.write("large", bytes(11 << 20))
    assert [name for name, _ in sent][:3] == ["PutObject", "PutObject", "CreateMultipartUpload"]
    assert sorted(name for name, _ in sent[3:]) == ["CompleteMultipartUpload", *3 * ["UploadPart"]]
    digests = [hashlib.sha256(content).hexdigest() for content in (b"a whole object", b"{}")]
    assert [digest for _, digest in sent[:2]] == digests
    assert {digest for name, digest in sent if name == "UploadPart"} == {
        hashlib.sha256(bytes(size << 20)).hexdigest() for size in (5, 1)
    }


def test_aws_gets_a_checksum_with_every_write(monkeypatch):
    """Other servers mostly know none; the signature covers what they get."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    store, sent = open_store("s3://a-bucket/place", S3Options(attempts=2)), []

    def answered(request, **_):  # nothing is sent
        sent.append(request.headers)
        return AWSResponse(request.url, 200, {}, HTTPResponse(io.BytesIO(), preload_content=False))

    store._api.meta.events.register("before-send.s3", answered)
    store.write("a", b"content")
    (headers,) = sent
    assert [name for name in headers if name.lower().startswith(("x-amz-checksum-crc", "x-amz-trailer"))]


@pytest.mark.parametrize("kind", ["ministack", "rclone"])
def test_an_object_replaced_while_it_is_read_is_noticed(make_store, monkeypatch, kind):
    monkeypatch.setattr(s3, "_READ_BLOCK", 1000)
    store = make_store(kind)
    store.write("a", b"old" * 1000)
    with store.open("a") as stream:
        stream.read(10)
        store.write("a", b"new" * 1000)
        with pytest.raises(TransientError, match="changed while it was read"):
            stream.read()


def test_more_than_a_thousand_objects_are_listed_and_deleted(make_store, monkeypatch):
    store = make_store("rclone")
    monkeypatch.setattr(s3, "_DELETE_BATCH", 2)
    for number in range(5):
        store.write(f"n/{number}", b"")
    store.delete(f"n/{number}" for number in range(5))
    assert list(store.list()) == []


def test_unfinished_multipart_uploads_are_swept(make_store):
    store = make_store("ministack")
    store._api.create_multipart_upload(Bucket=store.bucket, Key=f"{store.prefix}a/large")
    assert store.sweep("a/") == 1
    assert store.sweep("a/") == 0


def test_a_conflict_is_tried_again(make_store, monkeypatch):
    store = make_store("ministack")
    assert store.conditional
    answers = iter([409, 409, None])
    _answer_puts(store, monkeypatch, answers)
    monkeypatch.setattr(s3, "_wait", lambda _: None)
    with pytest.raises(TransientError, match="2 attempts"):
        store.create("a", b"1")
    assert store.create("a", b"1")


def test_a_put_whose_answer_was_lost_still_counts_as_made_by_us(make_store, monkeypatch):
    """The first PUT arrives, its answer does not; boto3 sends it again, and the server says the object is there."""
    store = make_store("ministack")
    assert store.conditional
    sent = []

    def lose_first_answer(response, **_):
        sent.append(response)
        return 0 if len(sent) == 1 else None

    store._api.meta.events.register_first("needs-retry.s3.PutObject", lose_first_answer)
    assert store.create("a", b"1")
    assert len(sent) == 2
    assert not store.create("a", b"2")


@contextmanager
def unsteady_server(content, broken):
    """Serve one object, breaking off in the middle of the first `broken` answers; yield endpoint and answers so far."""
    answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answers.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(content[:3] if len(answers) <= broken else content)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()
        thread.join()


def test_an_answer_that_breaks_off_is_asked_for_again(use_server, rclone):
    use_server(rclone)  # for its credentials
    with unsteady_server(b"content", broken=2) as (endpoint, answers):
        store = S3Store(BUCKET, "", S3Options(endpoint_url=endpoint, attempts=3))
        assert store.read("a") == b"content"
        assert len(answers) == 3


def test_answers_that_always_break_off_are_transient(use_server, rclone):
    use_server(rclone)
    with unsteady_server(b"content", broken=9) as (endpoint, answers):
        store = S3Store(BUCKET, "", S3Options(endpoint_url=endpoint, attempts=2))
        with pytest.raises(TransientError, match=endpoint):
            store.read("a")
        assert len(answers) == 2


def _answer_puts(store, monkeypatch, statuses):
    """Have PUTs answered with these statuses, None meaning the server's own answer."""
    api, put = store._api, store._api.put_object

    def answer(**arguments):
        status = next(statuses)
        if status is None:
            return put(**arguments)
        raise s3.ClientError(
            {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
        )

    monkeypatch.setattr(api, "put_object", answer)
