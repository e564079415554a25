"""A store in a bucket of S3-compatible object storage, through boto3."""

import contextlib
import functools
import io
import itertools
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import botocore.exceptions
import urllib3.exceptions
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from infra.errors import ChangedError, StoreError, TransientError
from infra.stores.os_errors import explained
from infra.stores.s3_client import S3Options, client_of, with_endpoint
from infra.stores.s3_errors import BROKEN_OFF, RAISED, Place, code_of, explain, explain_code, status_of
from infra.stores.s3_file import S3File
from infra.stores.store import (
    RESERVED_PREFIX,
    BucketStore,
    Entry,
    Store,
    StoreOptions,
    checked_key,
    checked_name,
    is_reserved,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEME = "s3"
Options = S3Options

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,}")
_MIB = 1 << 20
_READ_BLOCK = 8 * _MIB
_MULTIPART = TransferConfig(multipart_threshold=64 * _MIB, multipart_chunksize=32 * _MIB, max_concurrency=4)
_DELETE_BATCH = 1000
_TOKEN = "invertmill-token"  # noqa: S105  # names the writer of an object; not a secret
_probed: dict[tuple[str, str], bool] = {}
_probe_lock = threading.Lock()


def at(url: str, options: StoreOptions) -> Store:
    """Return the store at `s3://BUCKET/PREFIX`; raise `StoreError` if the address is not of that form."""
    assert isinstance(options, S3Options)
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise StoreError(f"an S3 address is s3://BUCKET/PREFIX, with the bucket's exact name, got {url!r}")
    return S3Store(bucket, prefix.strip("/"), options)


class _BrokenBodyError(botocore.exceptions.HTTPClientError):
    """The body of an answer broke off."""

    fmt = "the answer broke off: {error}"


class S3Store(BucketStore):
    """Objects of one bucket below one prefix.

    An object appears whole or not at all, as S3 guarantees. Whether `create` is exclusive depends on the server (of
    five that were measured, three overwrite silently), so it is probed once per process, endpoint and bucket.
    """

    def __init__(self, bucket: str, prefix: str = "", options: S3Options | None = None, *, waits: bool = False) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.removesuffix('/')}/" if prefix else ""
        self.options = with_endpoint(options or S3Options())
        self.bucket_url = f"s3://{bucket}"
        self.url = f"{self.bucket_url}/{self.prefix}".removesuffix("/")
        self.waits = waits
        self._client: S3Client | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., "S3Store"], tuple[str, str, S3Options]]:
        return functools.partial(S3Store, waits=self.waits), (self.bucket, self.prefix, self.options)

    @property
    def service(self) -> str:
        """The endpoint, `AWS` without one."""
        return self.options.endpoint_url or "AWS"

    def within_bucket(self, prefix: str) -> "S3Store":
        """Return the store below a prefix of the same bucket; "" is the whole bucket."""
        return S3Store(self.bucket, prefix, self.options, waits=self.waits)

    def patient(self) -> "S3Store":
        """Return this store with calls that wait, up to `patience_s`, while the server does not answer."""
        return S3Store(self.bucket, self.prefix, self.options, waits=True)

    @property
    def conditional(self) -> bool:
        """Whether the server honours `If-None-Match: *`, probed by writing; needs the right to write."""
        with _probe_lock:
            server = (self._api.meta.endpoint_url, self.bucket)
            if server not in _probed:
                with self._explained():
                    _probed[server] = self._probe()
            return _probed[server]

    def check(self, write: bool = True) -> None:
        """Return if the bucket can be listed and, with `write`, written; otherwise raise an error with a remedy."""
        with self._explained():
            self._api.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1, **self._payer)
            if write:
                key = self._probe_key()
                self._api.put_object(Bucket=self.bucket, Key=key, Body=b"")
                self._api.delete_object(Bucket=self.bucket, Key=key)

    def read(self, name: str, start: int = 0, stop: int | None = None, version: str | None = None) -> bytes:
        """Return the bytes `[start, stop)` of an object by one ranged GET. Raises `NotFoundError` if there is none.

        Raises `ChangedError` if its ETag is not the version.
        """
        data, etag = self._fetch(name, start, stop)
        if version not in (None, etag.strip('"')):
            raise ChangedError(f"the ETag of {self.url}/{name} is {etag or 'unknown, it is shorter'}, was {version}")
        return data

    def open(self, name: str) -> BinaryIO:
        """Return a seekable reader that fetches blocks of 8 MiB. Raises `NotFoundError` if there is no such object."""
        with self._explained(name):
            head = self._api.head_object(**self._where(name))
        fetch = functools.partial(self._fetch, name)
        file = S3File(f"{self.url}/{name}", head["ContentLength"], head["ETag"], fetch)
        return io.BufferedReader(file, _READ_BLOCK)

    def write(self, name: str, data: bytes | Path) -> None:
        """Replace an object of this name; upload large ones in several parts at a time."""
        if isinstance(data, bytes):
            self._upload(name, io.BytesIO(data), len(data))
            return
        with explained(data, "read"):
            stream, size = data.open("rb"), data.stat().st_size
        with stream:
            self._upload(name, stream, size)

    def create(self, name: str, data: bytes) -> bool:
        """Return True if this call made the object, False if it existed."""
        if self.conditional:
            with self._explained(name):
                return self._create_exclusively(name, data)
        if self.exists(name):
            return False
        self.write(name, data)
        return True

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return self.entry(name) is not None

    def entry(self, name: str) -> Entry | None:
        """Return the entry of an object, None if there is none, from one HEAD request."""
        with self._explained(name):
            try:
                head = self._api.head_object(**self._where(name))
            except ClientError as error:
                if status_of(error) == HTTPStatus.NOT_FOUND:
                    return None
                raise
            return Entry(name, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"].timestamp())

    def folders(self, prefix: str) -> Sequence[str]:
        """Return some of the folders directly below `prefix`, which ends in a slash or is empty; one request."""
        with self._explained():
            answer = self._api.list_objects_v2(
                Bucket=self.bucket, Prefix=self.prefix + prefix, Delimiter="/", MaxKeys=100, **self._payer
            )
        return [found["Prefix"][len(self.prefix) :] for found in answer.get("CommonPrefixes", ())]

    def list(self, prefix: str = "", *, deep: bool = True) -> Iterator[Entry]:
        """Yield the objects whose names begin with `prefix`, sorted by name."""
        level: dict[str, Any] = {} if deep else {"Delimiter": "/"}
        with self._explained():
            for page in self._api.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix, **level, **self._payer
            ):
                for found in page.get("Contents", ()):
                    name = found["Key"][len(self.prefix) :]
                    if name and not name.endswith("/") and not is_reserved(name):
                        yield Entry(name, found["Size"], found["ETag"].strip('"'), found["LastModified"].timestamp())

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, a thousand per request."""
        keys = iter([self._key(name) for name in names])
        while batch := list(itertools.islice(keys, _DELETE_BATCH)):
            with self._explained():
                answer = self._api.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            for fault in answer.get("Errors", ()):
                place = self._place(fault["Key"][len(self.prefix) :])
                raise explain_code(fault["Code"], fault.get("Message", fault["Code"]), 0, place)

    def sweep(self, prefix: str = "", *, before: float = math.inf) -> int:
        """Delete probes left directly below `prefix`, abort uploads below it, and return how many there were."""
        top = self.prefix + prefix
        with self._explained():
            pages = self._api.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=top + RESERVED_PREFIX
            )
            probes = (found for page in pages for found in page.get("Contents", ()))
            left = [found["Key"] for found in probes if found["LastModified"].timestamp() < before]
            for key in left:
                self._api.delete_object(Bucket=self.bucket, Key=key)
            uploads = self._unfinished_uploads(top, before)
            for key, upload in uploads:
                self._api.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
        return len(left) + len(uploads)

    @property
    def _api(self) -> "S3Client":
        with self._lock:
            if self._client is None:
                with self._explained(client=False):
                    self._client = client_of(self.options, patient=self.waits)
            return self._client

    @property
    def _payer(self) -> dict[str, Any]:
        """Arguments of every request to a requester-pays bucket."""
        return {"RequestPayer": "requester"} if self.options.requester_pays else {}

    def _key(self, name: str) -> str:
        return self.prefix + checked_name(name)

    def _where(self, name: str) -> dict[str, Any]:
        """Return the arguments that name an object to read."""
        return {"Bucket": self.bucket, "Key": self.prefix + checked_key(name), **self._payer}

    def _probe_key(self) -> str:
        return f"{self.prefix}{RESERVED_PREFIX}probe-{uuid.uuid4().hex}"

    def _place(self, name: str = "", endpoint: str | None = None) -> Place:
        endpoint = endpoint or self._api.meta.endpoint_url
        url = f"{self.url}/{name}" if name else self.url
        waited_s = self.options.patience_s if self.waits else 0.0
        return Place(self.bucket, endpoint, self.options.profile, url, self.options.anonymous, waited_s)

    @contextlib.contextmanager
    def _explained(self, name: str = "", client: bool = True) -> Iterator[None]:
        """Raise boto3's errors inside the block as ours; `client=False` while there is no client yet."""
        try:
            yield
        except RAISED as error:
            place = self._place(name, None if client else self.options.endpoint_url or "the default endpoint")
            raise explain(error, place) from error
        except ValueError as error:  # boto3, for an endpoint address that it cannot parse
            if client:
                raise
            raise StoreError(f"cannot use object storage at {self.options.endpoint_url}: {error}") from error

    def _upload(self, name: str, body: BinaryIO, size: int) -> None:
        with self._explained(name):
            if size < _MULTIPART.multipart_threshold:
                self._api.put_object(Bucket=self.bucket, Key=self._key(name), Body=body, **self._payer)
            else:
                self._api.upload_fileobj(
                    body, self.bucket, self._key(name), Config=_MULTIPART, ExtraArgs=self._payer or None
                )

    def _fetch(self, name: str, start: int, stop: int | None) -> tuple[bytes, str]:
        """Return the bytes `[start, stop)` and the ETag of their object ("" without one)."""
        if stop is not None and stop <= start:
            return b"", ""
        wanted = self._where(name)
        if start or stop is not None:
            wanted["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        with self._explained(name):
            for attempt in range(1, self.options.attempts):
                try:
                    return self._get(wanted)
                except (_BrokenBodyError, urllib3.exceptions.HTTPError):
                    _wait(attempt)
            return self._get(wanted)

    def _get(self, wanted: dict[str, Any]) -> tuple[bytes, str]:
        """Return body and ETag; raise `_BrokenBodyError` if the body breaks off, which boto3 does not retry."""
        try:
            answer = self._api.get_object(**wanted)
        except ClientError as error:
            if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b"", ""
            raise
        try:
            return answer["Body"].read(), answer["ETag"]
        except BROKEN_OFF as error:
            raise _BrokenBodyError(error=error) from error

    def _create_exclusively(self, name: str, data: bytes) -> bool:
        """Return True if the conditional PUT made the object.

        If the answer to a PUT is lost, boto3 repeats it and then meets the object it made itself. The token in the
        object's metadata distinguishes that from another writer's object.
        """
        key, token = self._key(name), uuid.uuid4().hex
        for attempt in range(1, self.options.attempts + 1):
            try:
                self._api.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*", Metadata={_TOKEN: token})
            except ClientError as error:
                if status_of(error) == HTTPStatus.PRECONDITION_FAILED:
                    resent = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    return (
                        resent and self._api.head_object(Bucket=self.bucket, Key=key)["Metadata"].get(_TOKEN) == token
                    )
                if status_of(error) != HTTPStatus.CONFLICT:
                    raise
                _wait(attempt)
            else:
                return True
        raise TransientError(
            f"{self.url}/{name} is being written by others: {self.options.attempts} attempts to create it conflicted"
        )

    def _probe(self) -> bool:
        """Return whether a second conditional PUT of one name is refused."""
        key = self._probe_key()
        try:
            for _ in range(2):
                self._api.put_object(Bucket=self.bucket, Key=key, Body=b"probe", IfNoneMatch="*")
        except ClientError as error:
            if status_of(error) == HTTPStatus.PRECONDITION_FAILED:
                return True
            if status_of(error) == HTTPStatus.NOT_IMPLEMENTED or code_of(error) == "NotImplemented":
                return False
            raise
        finally:
            with contextlib.suppress(*RAISED):
                self._api.delete_object(Bucket=self.bucket, Key=key)
        return False

    def _unfinished_uploads(self, top: str, before: float) -> Sequence[tuple[str, str]]:
        try:
            pages = self._api.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=top)
            uploads = (found for page in pages for found in page.get("Uploads", ()))
            return [(found["Key"], found["UploadId"]) for found in uploads if found["Initiated"].timestamp() < before]
        except ClientError as error:
            if status_of(error) in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
                return []  # a server that cannot list them must remove them itself
            raise


def _wait(attempt: int) -> None:
    """Wait before the next attempt: 0.1 s, doubled each time, at most 5 s."""
    time.sleep(min(5.0, 0.1 * 2 ** (attempt - 1)))
