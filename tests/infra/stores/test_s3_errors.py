"""Every way in which boto3 fails becomes one of our errors; `test_s3.py` shows the common ones for real."""

import pytest
from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from urllib3.exceptions import ProtocolError

from infra.errors import NotFoundError, StoreError, TransientError
from infra.stores.s3_errors import Place, code_of, explain, status_of

PLACE = Place("mill", "http://host:9000", None, "s3://mill/p/a")


def answer(code: str, status: int, message: str = "said so") -> boto.ClientError:
    return boto.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (answer("NoSuchKey", 404), NotFoundError, "s3://mill/p/a"),
        (answer("404", 404), NotFoundError, "s3://mill/p/a"),
        (answer("NoSuchBucket", 404), StoreError, "aws s3 mb s3://mill --endpoint-url http://host:9000"),
        (answer("SignatureDoesNotMatch", 403), StoreError, "AWS_SECRET_ACCESS_KEY"),
        (answer("ExpiredToken", 400), StoreError, "AWS_SESSION_TOKEN"),
        (answer("AccessDenied", 403), StoreError, "permission to list, read and write"),
        (answer("PermanentRedirect", 301), StoreError, "AWS_REGION"),
        (answer("RequestTimeTooSkewed", 403), StoreError, "clock"),
        (answer("InsufficientStorage", 507), StoreError, "free space"),
        (answer("SlowDown", 503), TransientError, "busy or broken"),
        (answer("InternalError", 500), TransientError, "busy or broken"),
        (answer("", 502), TransientError, "502"),
        (answer("Odd", 429), TransientError, "Odd"),
        (answer("InvalidArgument", 400), StoreError, "InvalidArgument"),
        (boto.NoCredentialsError(), StoreError, "set AWS_ACCESS_KEY_ID"),
        (boto.ProfileNotFound(profile="x"), StoreError, "AWS_PROFILE"),
        (boto.EndpointConnectionError(endpoint_url="u"), TransientError, "http://host:9000"),
        (boto.ConnectTimeoutError(endpoint_url="u"), TransientError, "http://host:9000"),
        (boto.ReadTimeoutError(endpoint_url="u"), TransientError, "http://host:9000"),
        (boto.ConnectionClosedError(endpoint_url="u"), TransientError, "http://host:9000"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), TransientError, "http://host:9000"),
        (ProtocolError("broken"), TransientError, "http://host:9000"),
        (boto.SSLError(endpoint_url="u", error="UNEXPECTED_EOF"), TransientError, "http://host:9000"),
        (boto.SSLError(endpoint_url="u", error="CERTIFICATE_VERIFY_FAILED"), StoreError, "AWS_CA_BUNDLE"),
        (boto.ParamValidationError(report="r"), StoreError, "ParamValidationError"),
        (Boto3Error("odd"), StoreError, "odd"),
    ],
)
def test_each_failure_is_of_its_kind_and_says_what_to_do(error, kind, says):
    explained = explain(error, PLACE)
    assert type(explained) is kind
    assert says in str(explained)
    assert "mill" in str(explained)


def test_a_profile_is_named_where_one_is_used():
    place = Place("mill", "http://host:9000", "night", "s3://mill/p/a")
    assert "profile 'night'" in str(explain(answer("InvalidAccessKeyId", 403), place))


def test_codes_fall_back_to_the_status():
    assert code_of(answer("", 502)) == "502"
    assert status_of(answer("NoSuchKey", 404)) == 404
