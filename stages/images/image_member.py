"""Which member of a sample is its picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stages.base.errors import BadSampleError
from stages.images.decoding import Picture, decode_picture, picture_geometry
from stages.images.orientation import Geometry

if TYPE_CHECKING:
    from stages.base.stage import Sample

EXTENSIONS: tuple[str, ...] = (
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "avif", "tif", "tiff", "bmp", "dib", "gif",
    "ppm", "pgm", "pbm", "pnm",
)  # fmt: skip
"""Last extensions of members that are pictures; their content decides the format."""

RULE = "the key ends at the first dot of a name, as in webdataset"


def is_picture(member: str) -> bool:
    """Return whether a member, given by the part of its name after the key, has the extension of a picture."""
    return member.rpartition(".")[2].lower() in EXTENSIONS


class ImageMember(BaseModel):
    """Which member of a sample is its picture.

    By default it is the one whose whole extension, the part of its name after the key, is a picture's (`jpg`), else
    the one whose last extension is (`image.jpg`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    member: str | None = None  # the part of its name after the key; None selects it by its extension
    apart: tuple[str, ...] = ()  # pictures that are not the sample's image: masks and labels

    def candidates(self, members: Collection[str]) -> list[str]:
        """Return the members that could be the picture."""
        if self.member is not None:
            return [self.member] if self.member in members else []
        pictures = [member for member in sorted(members) if is_picture(member) and member not in self.apart]
        return [member for member in pictures if "." not in member] or pictures

    def name_in(self, key: str, members: Mapping[str, bytes]) -> str:
        """Return the member that is the picture.

        Raises:
            BadSampleError: there is no picture or several; the message names the setting.
        """
        if self.member is not None:
            if self.member not in members:
                raise BadSampleError(
                    f"no image: expected the member {self.member!r} (setting image), got {_listed(members)}; add it or "
                    "correct the setting"
                )
            return self.member
        found = self.candidates(members)
        if not found:
            raise BadSampleError(
                f"no image: expected a member ending in one of {', '.join(EXTENSIONS)}, got {_listed(members)}; "
                "choose one with the setting image, add one, or remove the sample of the shard"
            )
        if len(found) > 1:
            raise BadSampleError(_several(key, found))
        return found[0]

    def picture(self, sample: Sample) -> Picture:
        """Return a sample's picture; raise BadSampleError if there is none, or if it does not decode."""
        member = self.name_in(sample.key, sample.members)
        return decode_picture(sample.members[member], f"{sample.key}.{member}")

    def geometry(self, sample: Sample) -> Geometry:
        """Return the geometry of a sample's picture, from its header; raise BadSampleError as `picture` does."""
        member = self.name_in(sample.key, sample.members)
        return picture_geometry(sample.members[member], f"{sample.key}.{member}")


def _several(key: str, found: list[str]) -> str:
    """Return why several pictures cannot be used."""
    begin = f"{len(found)} members could be its image: {', '.join(found)}"
    if all("." in member for member in found):
        return (
            f"{begin}; {RULE}, so {len(found)} pictures share the key {key!r}: rename them without a dot before the "
            "extension, or choose one with the setting image"
        )
    return f"{begin}; choose one with the setting image"


def _listed(members: Mapping[str, bytes]) -> str:
    return ", ".join(sorted(members)) or "no members"


def pixels_of(sample: Sample) -> NDArray[np.uint8]:
    """Return the decoded image as `ImageMember` finds it without settings, `[H, W, 3]` uint8 sRGB, upright.

    Raises:
        BadSampleError: there is no image or several, or it does not decode to its last pixel.
    """
    return ImageMember().picture(sample).pixels_HW3
