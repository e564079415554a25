"""Files in object storage or on a web server: what tells their version, how large they are, and their bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NoReturn
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
import urllib3.exceptions

from generators.errors import CheckpointError

SCHEMES = ("s3", "https", "http")
ATTEMPTS = 4
CONNECT_S, READ_S = 10.0, 60.0
BLOCK_BYTES = 1 << 20
OFFLINE = "With its sha256, a copy that is in the cache is used without asking the server"
_MISSING = ("NoSuchKey", "404", "NotFound", "NoSuchBucket")
_DENIED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_PASSING = (408, 429, 500, 502, 503, 504)


class BrokenOffError(Exception):
    """The answer ended before the file did; another attempt may have all of it."""


@dataclass(frozen=True)
class Remote:
    """A file elsewhere, opened: its version as the server tells it, its size if told, and its bytes."""

    version: str  # empty where the server tells nothing that changes with the content
    size: int | None
    blocks: Iterator[bytes]  # raises BrokenOffError


def scheme_of(address: str) -> str:
    """Return the scheme of an address in lower case, empty if it is a path."""
    before, found, _ = address.partition("://")
    return before.lower() if found else ""


def names_folder(address: str) -> bool:
    """Return whether an address is that of a folder."""
    return _without_query(address)[0].endswith("/")


def inside(address: str, name: str) -> str:
    """Return the address of a file in a folder."""
    before, query = _without_query(address)
    return f"{before}{name}{query}"


def shown(address: object) -> str:
    """Return an address without what may be secret: name and password, and the query, which can be a signature."""
    text = str(address)
    if scheme_of(text) not in ("https", "http"):
        return text
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def origin_of(address: str) -> str:
    """Return what names a file for good: the address, and for S3 the service that holds its bucket."""
    return f"{_endpoint() or 'AWS'} {address}" if scheme_of(address) == "s3" else address


@contextlib.contextmanager
def open_remote(address: str, *, trusted: bool) -> Iterator[Remote]:
    """Give a file in object storage or on a web server.

    Args:
        address: `s3://BUCKET/KEY`, `https://…`, or `http://…` where that is safe.
        trusted: the content will be checked, so that plain http is safe from other machines too.

    Raises:
        CheckpointError: the server cannot be reached, there is no such file, it may not be read, or the address is
            none of these.
    """
    with _open_s3(address) if scheme_of(address) == "s3" else _open_http(address, trusted=trusted) as remote:
        yield remote


def _without_query(address: str) -> tuple[str, str]:
    """Return an address and its query with the question mark; a key in object storage may hold one itself."""
    if scheme_of(address) == "s3":
        return address, ""
    before, mark, query = address.partition("?")
    return before, mark + query


# ---- object storage


@contextlib.contextmanager
def _open_s3(address: str) -> Iterator[Remote]:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    bucket, _, key = address.partition("://")[2].partition("/")
    if not bucket or not key:
        _refuse(address, "an address in object storage is s3://BUCKET/KEY")
    try:
        answer = _s3_client(_endpoint()).get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        _explain_s3(address, error)
    except HTTPClientError as error:
        _refuse(address, f"{error}; check the endpoint (AWS_ENDPOINT_URL) and the network. {OFFLINE}", error)
    except (BotoCoreError, ValueError) as error:  # a ValueError is what an impossible endpoint is to boto3
        _refuse(address, f"{error}; credentials and endpoint come from boto3's usual places", error)
    with contextlib.closing(answer["Body"]) as body:
        broken = (HTTPClientError, BotoCoreError, urllib3.exceptions.HTTPError)
        blocks = _until_broken(body.iter_chunks(BLOCK_BYTES), broken)
        yield Remote(f"{answer['ETag']} {answer['ContentLength']}", answer["ContentLength"], blocks)


def _endpoint() -> str | None:
    """Return the endpoint that the environment or the AWS configuration file names, in boto3's order; None for AWS."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session()
    try:
        if str(session.get_config_variable("ignore_configured_endpoint_urls")).lower() == "true":
            return None
        profile, services = session.get_scoped_config(), session.full_config.get("services", {})
    except BotoCoreError:  # making the client says so
        profile, services = {}, {}
    for_s3 = services.get(profile.get("services"), {}).get("s3", {})
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return environment or for_s3.get("endpoint_url") or profile.get("endpoint_url") or None


def _s3_client(endpoint: str | None) -> Any:  # noqa: ANN401  # boto3 makes its clients at run time
    import boto3  # half a second that a local checkpoint need not wait
    from botocore import UNSIGNED
    from botocore.config import Config

    # Servers other than AWS mostly do not know the newer checksums, and want the bucket in the path.
    other: dict[str, Any] = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": "path"},
    }
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        **(other if endpoint else {}),
    )
    session = boto3.Session()  # boto3's own would go on with credentials that have been changed since
    if session.get_credentials() is None:  # a public bucket takes unsigned requests
        config = config.merge(Config(signature_version=UNSIGNED))
    return session.client("s3", endpoint_url=endpoint, config=config)


def _explain_s3(address: str, error: Any) -> NoReturn:  # noqa: ANN401  # botocore's ClientError
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _MISSING:
        _refuse(address, f"there is no such object ({code}); correct the address", error)
    if code in _DENIED:
        what_to_do = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (without any, requests are unsigned, as "
            "public buckets want them); of a requester-pays bucket, make a copy: aws s3 cp --request-payer requester"
        )
        _refuse(address, f"{error}; {what_to_do}", error)
    _refuse(address, str(error), error)


# ---- web servers


@contextlib.contextmanager
def _open_http(address: str, *, trusted: bool) -> Iterator[Remote]:
    _check_safe(address, address, trusted=trusted)
    retries = urllib3.Retry(ATTEMPTS - 1, backoff_factor=0.3, status_forcelist=_PASSING, raise_on_status=False)
    try:
        response = _pool(address).request(
            "GET",
            address,
            headers={"Accept-Encoding": "identity", "User-Agent": "invertmill"},
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            retries=retries,
            preload_content=False,
        )
    except urllib3.exceptions.LocationValueError as error:
        _refuse(address, str(error), error)
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        _refuse(address, f"{reason}; check the address and the network. {OFFLINE}", error)
    with contextlib.closing(response):
        for hop in response.retries.history if response.retries else ():
            if hop.redirect_location:
                _check_safe(hop.redirect_location, address, trusted=trusted)
        yield _remote_of(response, address, trusted=trusted)


def _remote_of(response: urllib3.BaseHTTPResponse, address: str, *, trusted: bool) -> Remote:
    if response.status != 200:
        what_to_do = OFFLINE if response.status in _PASSING else "correct the address"
        _refuse(address, f"the server answers {response.status} {response.reason}; {what_to_do}")
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        _refuse(address, f"the server sends it packed ({headers['Content-Encoding']}), though that was not asked for")
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    if size is None and not trusted and headers.get("Transfer-Encoding", "").lower() != "chunked":
        _refuse(address, "the server does not say where it ends; give its sha256, so that a torn copy is seen")
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    blocks = _until_broken(response.stream(BLOCK_BYTES, decode_content=False), (urllib3.exceptions.HTTPError, OSError))
    return Remote(f"{version} {length}" if version else "", size, blocks)


def _pool(address: str) -> urllib3.PoolManager:
    """Return what connects to a web server: directly, or through the proxy that the environment names."""
    parts = urlsplit(address)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager()
    inside = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    login = inside.netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return urllib3.ProxyManager(inside.geturl(), proxy_headers=headers)


def _check_safe(hop: str, address: str, *, trusted: bool) -> None:
    """Refuse plain http over a network: what comes that way can be anything."""
    try:
        parts = urlsplit(hop)
    except ValueError as error:
        _refuse(address, str(error), error)
    if parts.scheme.lower() != "http" or trusted or _is_this_machine(parts.hostname or ""):
        return
    via = "" if hop == address else f", which {shown(address)} leads to"
    raise CheckpointError(
        f"cannot fetch {shown(hop)}{via}: plain http can be altered on its way; use https, or give the file's sha256"
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# ---- both


def _until_broken(blocks: Iterator[bytes], broken: tuple[type[Exception], ...]) -> Iterator[bytes]:
    try:
        yield from blocks
    except broken as error:
        raise BrokenOffError(f"the answer broke off: {error}") from error


def _refuse(address: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise CheckpointError(f"cannot fetch {shown(address)}: {_without(reason, address)}") from cause


def _without(reason: object, address: str) -> str:
    """Return a reason without the query of the address in it."""
    query = address.partition("?")[2]
    return str(reason).replace(query, "…") if query else str(reason)
