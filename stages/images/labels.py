"""The class of an image, for conditional generators: from its shard, or one for all images."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stages.base.errors import BadSampleError
from stages.base.stage import Sample
from stages.images.members import Member


class LabelMember(BaseModel):
    """Where a sample gives its class: a member whose text is an integer, or a field of a JSON member."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    member: Member = "cls"  # the part of the file name after the sample's key
    field: str | None = None  # name in a JSON object, with dots between nested names; None uses the whole member


Label = Annotated[int, Field(strict=True, ge=0)] | LabelMember
"""A class, counted from 0, for all images, or where each sample gives its own."""


def check_label(label: Label | None, classes: int) -> None:
    """Raise ValueError if a generator with this number of classes (0: unconditional) cannot have such labels."""
    if label is not None and classes == 0:
        raise ValueError("the generator is unconditional, and images have no class: leave label out")
    if isinstance(label, int) and label >= classes:
        raise ValueError(f"the generator has the classes 0 to {classes - 1}, got {label}")


def class_of(sample: Sample, label: Label | None, classes: int) -> int | None:
    """Return the class of a sample's image; None where labels are not configured.

    Args:
        sample: the sample whose class is requested.
        label: the configuration.
        classes: number of classes of the generator.

    Raises:
        BadSampleError: the sample gives no class, or one that the generator lacks.
    """
    if label is None or isinstance(label, int):
        return label
    found = _said(sample, label)
    number = int(found) if isinstance(found, str) and found.strip().isdecimal() and len(found) < 20 else found
    if type(number) is not int or not 0 <= number < classes:
        raise BadSampleError(
            f"{_place(sample, label)} is {str(found)[:40]!r}: the class must be an integer from 0 to {classes - 1}; "
            "correct it in the shard"
        )
    return number


def _place(sample: Sample, label: LabelMember) -> str:
    return f"{sample.key}.{label.member}" + (f" field {label.field}" if label.field else "")


def _said(sample: Sample, label: LabelMember) -> object:
    if label.member not in sample.members:
        raise BadSampleError(
            f"no class: there is no member {label.member!r}, got {', '.join(sorted(sample.members)) or 'no members'}; "
            "add one, or correct label"
        )
    data = bytes(sample.members[label.member])
    try:
        if label.field is None:
            return data.decode()
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        kind = "text" if label.field is None else "JSON"
        raise BadSampleError(f"{sample.key}.{label.member} is not {kind}: {error}; correct it in the shard") from error
    for name in label.field.split("."):
        if not isinstance(value, dict) or name not in value:
            raise BadSampleError(f"no class: {_place(sample, label)} is missing; add it, or correct label")
        value = value[name]
    return value
