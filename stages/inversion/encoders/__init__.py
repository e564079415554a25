"""Encoders that find codes in one pass. To add one: one file with an `EncoderSource`, and its name in the union."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Tag

from stages.inversion.encoders.published import PublishedEncoder
from stages.inversion.encoders.sam import SamEncoderFile

__all__ = ["AnyEncoder", "PublishedEncoder", "SamEncoderFile"]


def _kind(value: object) -> object:
    """Return which encoder is meant: a published one unless `kind` says so, as before there were others."""
    return value.get("kind", "published") if isinstance(value, Mapping) else getattr(value, "kind", None)


AnyEncoder = Annotated[
    Annotated[PublishedEncoder, Tag("published")] | Annotated[SamEncoderFile, Tag("sam")], Discriminator(_kind)
]
