"""Files on web servers, through requests: redirects, proxies and retries are the library's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from infra.errors import FetchError
from infra.fetching.remote import BLOCK_BYTES, OFFLINE, Remote, refuse, until_broken
from infra.fetching.uri import shown

ATTEMPTS = 4
CONNECT_S, READ_S = 10.0, 60.0
MAX_REDIRECTS = 10
_PASSING = (408, 429, 500, 502, 503, 504)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "invertmill"}


class _Adapter(HTTPAdapter):
    """Sends requests with retries; refuses plain http over a network, where content can be altered on its way."""

    def __init__(self, address: str, *, trusted: bool) -> None:
        super().__init__(
            max_retries=urllib3.Retry(
                ATTEMPTS - 1, backoff_factor=0.3, status_forcelist=_PASSING, raise_on_status=False
            )
        )
        self._address, self._trusted = address, trusted

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        """Send one request, the first or one that a redirect led to."""
        hop = request.url or ""
        parts = urlsplit(hop)
        if parts.scheme == "http" and not self._trusted and not _is_this_machine(parts.hostname or ""):
            same = hop.partition("?")[0] == shown(self._address)
            via = "" if same else f", which {shown(self._address)} leads to"
            raise FetchError(
                f"cannot fetch {shown(hop)}{via}: plain http can be altered on its way; use https, or give the file's "
                "sha256"
            )
        return super().send(request, *args, **kwargs)


@contextlib.contextmanager
def open_web(address: str, *, trusted: bool) -> Iterator[Remote]:
    """Open a file on a web server; see `infra.fetching.remote.open_remote`.

    Credentials of the address or of `.netrc` go to the host that they are for, never to one that a redirect leads to.
    """
    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Adapter(address, trusted=trusted))
        try:
            response = session.get(address, headers=_HEADERS, timeout=(CONNECT_S, READ_S), stream=True)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidProxyURL) as error:
            refuse(address, str(error), error)
        except requests.exceptions.TooManyRedirects as error:
            refuse(address, f"it leads to more than {MAX_REDIRECTS} redirects; correct the address", error)
        except requests.exceptions.RequestException as error:
            refuse(address, f"{_reason(error)}; check the address and the network. {OFFLINE}", error)
        with contextlib.closing(response):
            yield _opened(response, address, trusted=trusted)


def _opened(response: requests.Response, address: str, *, trusted: bool) -> Remote:
    if response.status_code != 200:
        remedy = OFFLINE if response.status_code in _PASSING else "correct the address"
        refuse(address, f"the server answers {response.status_code} {response.reason}; {remedy}")
    headers: Mapping[str, str] = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        refuse(address, f"the server sends it packed ({headers['Content-Encoding']}), though that was not asked for")
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    if size is None and not trusted and headers.get("Transfer-Encoding", "").lower() != "chunked":
        refuse(address, "the server does not give its size; give its sha256, so that a truncated copy is noticed")
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    broken = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)
    blocks = until_broken(response.iter_content(BLOCK_BYTES), broken)
    return Remote(f"{version} {length}" if version else "", size, blocks)


def _reason(error: requests.exceptions.RequestException) -> object:
    """Return urllib3's reason, if requests only wraps it."""
    cause = error.args[0] if error.args else error
    return getattr(cause, "reason", None) or cause


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
