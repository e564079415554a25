"""How object storage is reached: the options of a store, the endpoint, and boto3's client."""

import functools
import os
from typing import TYPE_CHECKING, Annotated, Any, Self

import boto3
import botocore.loaders
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from infra.stores.store import StoreOptions
from infra.stores.waiting import make_patient

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECTIONS = 32
_CLIENTS = 16
_loader = botocore.loaders.Loader()  # its cache of service descriptions makes each further client 5 times cheaper


class S3Options(StoreOptions):
    """How to reach object storage. Secrets come from boto3's usual chain (environment, profile, instance) only."""

    endpoint_url: Annotated[str, Field(pattern=r"^https?://")] | None = None  # not AWS's; null uses boto3's settings
    region: str | None = None  # region; null uses boto3's settings
    profile: str | None = None  # profile of the AWS configuration; null uses boto3's settings
    connect_timeout_s: PositiveFloat = 5  # limit for a connection
    read_timeout_s: PositiveFloat = 60  # limit between two parts of an answer
    attempts: PositiveInt = 5  # attempts per request, within seconds
    patience_s: NonNegativeFloat = 3600  # how long a run waits for a store that no longer answers
    anonymous: bool = False  # send unsigned requests, for public buckets
    requester_pays: bool = False  # agree to pay for requests to a requester-pays bucket

    @classmethod
    def for_fetching(cls) -> Self:
        """Return the options of the environment; without any credentials requests are unsigned, for public buckets."""
        try:
            return cls(anonymous=boto3.Session().get_credentials() is None)
        except BotoCoreError:  # no such profile, for instance: creating the client reports it
            return cls()


def with_endpoint(options: S3Options) -> S3Options:
    """Return the options with the endpoint of this environment, so that processes without it use the same one.

    The order is boto3's: options, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, and the AWS configuration file.
    """
    if options.endpoint_url:
        return options
    endpoint = configured_endpoint(options.profile)
    return options.model_copy(update={"endpoint_url": endpoint}) if endpoint else options


def configured_endpoint(profile: str | None) -> str | None:
    """Return the S3 endpoint that the environment or the AWS configuration file names, None for AWS itself."""
    return _endpoint(profile, _environment())


def _environment() -> frozenset[tuple[str, str]]:
    """Return boto3's part of the environment: clients stay valid while it is unchanged."""
    return frozenset(item for item in os.environ.items() if item[0].startswith("AWS_") or item[0] == "HOME")


@functools.lru_cache(_CLIENTS)
def _endpoint(profile: str | None, _: frozenset[tuple[str, str]]) -> str | None:
    session = botocore.session.Session(profile=profile)
    try:
        if str(session.get_config_variable("ignore_configured_endpoint_urls")).lower() == "true":
            return None
        scoped, services = session.get_scoped_config(), session.full_config.get("services", {})
    except BotoCoreError:  # no such profile, or an unreadable file: creating the client reports it
        scoped, services = {}, {}
    of_service = services.get(scoped.get("services"), {}).get("s3", {})
    return (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or of_service.get("endpoint_url")
        or scoped.get("endpoint_url")
        or None
    )


def client_of(options: S3Options, *, patient: bool = False) -> "S3Client":
    """Return the client of these options; equal options share it while boto3's environment is unchanged.

    Only a patient client waits for an unavailable server; any other raises within seconds.
    """
    return _shared_client(options, _environment(), patient)


@functools.lru_cache(_CLIENTS)
def _shared_client(options: S3Options, _: frozenset[tuple[str, str]], patient: bool) -> "S3Client":
    # Servers other than AWS mostly do not know the newer checksums, and need the bucket in the path.
    other: dict[str, Any] = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": "path"},
    }
    config = Config(
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        max_pool_connections=_CONNECTIONS,
        **({"signature_version": UNSIGNED} if options.anonymous else {}),
        **(other if options.endpoint_url else {}),
    )
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader)
    boto = boto3.Session(region_name=options.region, profile_name=options.profile, botocore_session=session)
    client = boto.client("s3", endpoint_url=options.endpoint_url, config=config)
    if patient:
        make_patient(client, options.patience_s)
    return client
