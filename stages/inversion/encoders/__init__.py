"""Encoders that find codes in one pass. To add one: one file with an `EncoderSource`, and its name in the union."""

from stages.inversion.encoders.published import PublishedEncoder

__all__ = ["AnyEncoder", "PublishedEncoder"]

AnyEncoder = PublishedEncoder
"""With a second encoder: `Annotated[PublishedEncoder | Trained, Field(discriminator="kind")]`."""
