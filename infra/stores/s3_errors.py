"""boto3's errors as ours, with a remedy."""

import re
from dataclasses import dataclass

import urllib3.exceptions
from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import InfraError, NotFoundError, StoreError, TransientError
from infra.stores.waiting import AWAY

_MISSING = {"NoSuchKey", "404", "NotFound", "NoSuchUpload"}
_BAD_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidClientTokenId",
}
_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"}
_WRONG_REGION = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "TooManyRequests", "RequestLimitExceeded"}
_FULL = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "507"}
_CHECKSUMS = re.compile(r"x-amz-(sdk-)?checksum|x-amz-trailer|aws-chunked|STREAMING-UNSIGNED-PAYLOAD", re.IGNORECASE)
"""Headers named by a server that refuses a request for its checksum, whatever its error code."""
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
    boto.SSOError,
)
BROKEN_OFF = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    boto.ChecksumError,
    urllib3.exceptions.HTTPError,  # botocore passes it on when the text of an error breaks off
)
"""Errors of a failed connection or an answer that breaks off."""

RAISED = (BotoCoreError, ClientError, Boto3Error, urllib3.exceptions.HTTPError)
"""All errors that boto3 raises."""


@dataclass(frozen=True)
class Place:
    """The destination of a call, for error messages."""

    bucket: str
    endpoint: str
    profile: str | None
    url: str
    anonymous: bool = False
    waited_s: float = 0.0  # how long calls waited for an answer


def code_of(error: ClientError) -> str:
    """Return the server's error code, or its HTTP status if it gave none."""
    return str(error.response.get("Error", {}).get("Code") or status_of(error))


def status_of(error: ClientError) -> int:
    """Return the HTTP status, 0 if the server gave none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def explain(error: Exception, place: Place) -> InfraError:
    """Return our error for one that boto3 raised at this place."""
    if isinstance(error, ClientError):
        return explain_code(code_of(error), _said(error), status_of(error), place)
    if isinstance(error, _NO_CREDENTIALS):
        return StoreError(
            f"no usable credentials for {place.url}: {error}; {_set_credentials(place)}; a public bucket can be read "
            "without any with anonymous: true (under storage.input)"
        )
    if isinstance(error, boto.SSLError) and "CERTIFICATE" in str(error).upper():
        return StoreError(
            f"{place.endpoint} (for {place.url}) has a certificate that is not trusted here: {error}; set "
            "AWS_CA_BUNDLE to the file of its certificate authority"
        )
    if isinstance(error, AWAY) and place.waited_s:
        return StoreError(
            f"cannot reach {place.endpoint} for {place.url}, and waited for it for {place.waited_s:.0f} s "
            f"(patience_s): {error}. What is committed stays; run again when it answers"
        )
    if isinstance(error, BROKEN_OFF):
        return TransientError(
            f"cannot reach {place.endpoint} for {place.url}: {error}; check that the server runs, that the endpoint "
            "address (endpoint_url or AWS_ENDPOINT_URL) and port are right, and that this machine may connect to it"
        )
    kind = "request" if isinstance(error, BotoCoreError) else "transfer"
    return StoreError(f"{kind} to {place.url} at {place.endpoint} failed: {type(error).__name__}: {error}")


def explain_code(code: str, said: str, status: int, place: Place) -> InfraError:  # noqa: PLR0911  # one return per code
    """Return our error for a server's answer."""
    where = f"{place.url} at {place.endpoint}"
    if code in _MISSING:
        return NotFoundError(f"there is no {where}; check the name, or whether something deleted it")
    if code == "NoSuchBucket":
        return StoreError(
            f"there is no bucket {place.bucket!r} at {place.endpoint}; correct the name, or create it: "
            f"aws s3 mb s3://{place.bucket} --endpoint-url {place.endpoint}"
        )
    if _CHECKSUMS.search(said):
        return StoreError(
            f"{where} refused a checksum header: {code} ({said}); it does not know the checksums that boto3 sends to "
            "AWS. Name the server by endpoint_url, AWS_ENDPOINT_URL or the AWS configuration file: then none are sent"
        )
    if code in _BAD_CREDENTIALS:
        return StoreError(
            f"{place.endpoint} refused the credentials for {place.url}: {said}; {_set_credentials(place)}"
        )
    if code in _DENIED:
        return StoreError(f"access to {where} was denied: {said}; {_get_access(place)}")
    if code in _WRONG_REGION:
        return StoreError(f"bucket {place.bucket!r} is in another region: {said}; set region or AWS_REGION to its own")
    if code == "RequestTimeTooSkewed":
        return StoreError(f"{place.endpoint} refused the request for {place.url}: {said}; set this machine's clock")
    if code in _FULL:
        return StoreError(f"{where} is full: {said}; free space there or choose another store")
    if code in _BUSY or status >= 500 or status == 429:
        return TransientError(f"{where} failed: {said}; the server is busy or broken, its log says which")
    return StoreError(f"{where} refused the request: {code} ({said})")


def _get_access(place: Place) -> str:
    if place.anonymous:
        return "it refuses anonymous requests: remove anonymous: true, and use credentials"
    return (
        f"give these credentials permission to list, read and write there, or use others: {_set_credentials(place)}. A "
        "requester-pays bucket needs requester_pays: true, one that takes only unsigned requests anonymous: true "
        "(under storage.input; a checkpoint in such a bucket has to be copied)"
    )


def _said(error: ClientError) -> str:
    message = error.response.get("Error", {}).get("Message")
    return f"{code_of(error)}, {message}" if message else code_of(error)


def _set_credentials(place: Place) -> str:
    if place.profile:
        return f"correct the profile {place.profile!r} in ~/.aws/credentials, or set another profile"
    return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary ones), or AWS_PROFILE"
