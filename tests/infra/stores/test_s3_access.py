"""Buckets and servers that want to be asked in their own way: unsigned, paid for, without checksums, by a file."""

import uuid
from contextlib import contextmanager

import pytest

from infra.addresses.addresses import InputAddress
from infra.errors import StoreError
from infra.fetching.fetch import fetch
from infra.stores.s3 import S3Store
from infra.stores.s3_client import S3Options, configured_endpoint
from tests.infra.conftest import BUCKET
from tests.servers import gate


def unsigned(request):
    return "signed requests are not wanted here" if request.headers.get("Authorization") else None


def paid(request):
    return None if request.headers.get("x-amz-request-payer") == "requester" else "Access Denied"


def without_checksums(request):
    newer = [name for name in request.headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum"))]
    return f"unsupported header {newer[0]}" if newer and request.command == "PUT" else None


@contextmanager
def guarded(server, refuse, monkeypatch):
    """A store whose server refuses what it is told to; yields its address and the endpoint."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    prefix = uuid.uuid4().hex
    S3Store(BUCKET, prefix).write("a.tar", b"content")
    with gate(server.endpoint_url, refuse) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        yield f"s3://{BUCKET}/{prefix}", endpoint


def read_all(address, options):
    """Find, read, open and list: every kind of request that reads."""
    found = InputAddress.parse(address).find(options)
    (entry,) = found.entries
    assert found.store.read(entry.name) == found.store.read(entry.name, 0, 99) == b"content"
    with found.store.open(entry.name) as stream:
        assert stream.read() == b"content"
    assert [listed.name for listed in found.store.list()] == [entry.name]


def test_a_public_bucket_is_read_without_credentials(ministack_bucket, monkeypatch):
    with guarded(ministack_bucket, unsigned, monkeypatch) as (address, _):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for each in (f"{address}/", f"{address}/a.tar", f"{address}/*.tar"):
            read_all(each, S3Options(anonymous=True))
        with pytest.raises(StoreError, match=r"no usable credentials.*anonymous: true"):
            read_all(f"{address}/", S3Options())


def test_anonymous_requests_are_unsigned_even_where_there_are_credentials(ministack_bucket, monkeypatch):
    with guarded(ministack_bucket, unsigned, monkeypatch) as (address, _):
        read_all(f"{address}/", S3Options(anonymous=True))
        with pytest.raises(StoreError, match="anonymous: true"):
            read_all(f"{address}/", S3Options())


def test_a_server_that_takes_no_anonymous_requests_is_told_apart(ministack_bucket, monkeypatch):
    with (
        guarded(ministack_bucket, lambda _: "Access Denied", monkeypatch) as (address, _),
        pytest.raises(StoreError, match="remove anonymous: true"),
    ):
        read_all(f"{address}/", S3Options(anonymous=True))


def test_every_request_to_a_requester_pays_bucket_says_so(ministack_bucket, monkeypatch):
    with guarded(ministack_bucket, paid, monkeypatch) as (address, _):
        for each in (address, f"{address}/a.tar", f"{address}/**/*.tar"):
            read_all(each, S3Options(requester_pays=True))
        with pytest.raises(StoreError, match="requester_pays: true"):
            read_all(f"{address}/", S3Options())


FILES = {
    "default": "[default]\nendpoint_url = {}\n",
    "profile": "[profile mill]\nendpoint_url = {}\n",
    "service": "[default]\nservices = a\nendpoint_url = http://nowhere\n[services a]\ns3 =\n  endpoint_url = {}\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_an_endpoint_of_the_configuration_file_is_as_one_of_the_environment(
    ministack_bucket, monkeypatch, tmp_path, kind
):
    with guarded(ministack_bucket, without_checksums, monkeypatch) as (address, by_number):
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        endpoint = by_number.replace("127.0.0.1", "localhost")  # where a bucket before the name would not be found
        (tmp_path / "config").write_text(FILES[kind].format(endpoint))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        if kind == "profile":
            monkeypatch.setenv("AWS_PROFILE", "mill")
            (tmp_path / "credentials").write_text("[mill]\naws_access_key_id = a\naws_secret_access_key = b\n")
            monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        store = S3Store(BUCKET, f"{address.rpartition('/')[2]}/out")
        assert store.options.endpoint_url == endpoint
        store.write("b", b"1")
        assert store.create("c", b"1")
        store.delete(["b", "c"])
        read_all(f"{address}/", S3Options())
        assert fetch(f"{address}/a.tar", None, 100).read_bytes() == b"content"
        monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
        assert configured_endpoint(None) is None


def test_a_refused_checksum_is_not_blamed_on_credentials(ministack_bucket, monkeypatch):
    def refuse(request):
        return "unsupported header x-amz-checksum-crc32" if request.command == "PUT" else None

    with guarded(ministack_bucket, refuse, monkeypatch) as (address, _):
        with pytest.raises(StoreError, match=r"refused a checksum header.*endpoint_url") as caught:
            S3Store(BUCKET, address.rpartition("/")[2]).write("b", b"1")
        assert "AWS_ACCESS_KEY_ID" not in str(caught.value)


def test_a_public_checkpoint_is_fetched_without_credentials(ministack_bucket, monkeypatch):
    with guarded(ministack_bucket, unsigned, monkeypatch) as (address, _):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        assert fetch(f"{address}/a.tar", None, 100).read_bytes() == b"content"


def test_many_stores_share_one_client(ministack_bucket, monkeypatch):
    with guarded(ministack_bucket, lambda _: None, monkeypatch) as (address, _):
        addresses = [InputAddress.parse(f"{address}/a.tar") for _ in range(300)]
        stores = [each.find(S3Options()).store for each in addresses]
        assert len({id(store._api) for store in stores}) == 1
