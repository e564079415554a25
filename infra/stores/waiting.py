"""Waiting for an unavailable store: how waiting calls report, and who listens.

boto3 retries a server that does not answer a few times within seconds. A run that lasts days has more patience: the
requests of a patient store (`S3Store.patient`) are repeated until `patience_s` is over, on the calling thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto

from infra.listeners import Listeners

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
TELL_AFTER_S = 2.0
"""Waits shorter than this are not reported."""
AWAY = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ReadTimeoutError,
    boto.ConnectionClosedError,
    boto.ProxyConnectionError,
)
"""Errors of boto3 if nothing answers."""
_AWAY_STATUS = (429, 502, 503, 504)
_SINCE, _WAITS, _TOLD = "invertmill_away_since", "invertmill_waits", "invertmill_told"  # in a request's context


@dataclass(frozen=True)
class Waiting:
    """What a thread waits for."""

    place: str
    reason: str
    waited_s: float
    patience_s: float
    over: bool = False  # it answers again, or patience is over

    def __str__(self) -> str:
        return f"cannot reach {self.place}: {self.reason}; trying again for up to {self.patience_s / 60:.0f} min"


_listeners: Listeners[Waiting] = Listeners()
listen, listening, tell = _listeners.listen, _listeners.listening, _listeners.tell


def make_patient(client: "S3Client", patience_s: float) -> None:
    """Make a client repeat unanswered requests for this time, with waits that double from 1 s to 30 s."""
    place = client.meta.endpoint_url

    def wait(
        response: tuple[Any, Mapping[str, Any]] | None = None,
        caught_exception: Exception | None = None,
        request_dict: Mapping[str, Any] | None = None,
        **_: object,
    ) -> float | None:
        """Return the wait before the request is repeated, None to leave it alone."""
        context = (request_dict or {}).get("context", {})
        reason = _away(response, caught_exception)
        waited_s = monotonic() - context.setdefault(_SINCE, monotonic()) if reason else 0.0
        if reason is None or waited_s >= patience_s:
            if context.pop(_TOLD, False):
                tell(Waiting(place, reason or "", waited_s, patience_s, over=True))
            context.pop(_SINCE, None)
            return None
        waits = context[_WAITS] = context.get(_WAITS, -1) + 1
        if waited_s >= TELL_AFTER_S:
            context[_TOLD] = True
            tell(Waiting(place, reason, waited_s, patience_s))
        return min(FIRST_WAIT_S * 2.0 ** int(waits), LONGEST_WAIT_S, max(0.0, patience_s - waited_s))

    handler: Callable[..., Any] = wait
    client.meta.events.register_last("needs-retry.s3", handler)


def _away(response: tuple[Any, Mapping[str, Any]] | None, error: Exception | None) -> str | None:
    """Return why nothing answered, None if something did."""
    if error is not None:
        return str(error) if isinstance(error, AWAY) else None
    status = response[0].status_code if response else 0
    return f"the server answers {status}" if status in _AWAY_STATUS else None
