"""The members of a sample as stages see them: an unusable one rejects the sample only where it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from stages.base.errors import BadSampleError

Member = Annotated[str, Field(min_length=1), AfterValidator(lambda name: name.lower().removeprefix("."))]
"""What follows the key in the name of a sample's file; shards are read with extensions in lower case."""


@dataclass(frozen=True)
class Members(Mapping[str, bytes]):
    """Content by extension. Those in `unusable` (cut off, duplicate) exist, but asking for one is an error.

    Asking for a member raises `BadSampleError` with its reason if it cannot be used.
    """

    content: Mapping[str, bytes]
    unusable: Mapping[str, str]

    def __getitem__(self, extension: str) -> bytes:
        if extension in self.unusable:
            raise BadSampleError(self.unusable[extension])
        return self.content[extension]

    def __contains__(self, extension: object) -> bool:
        return extension in self.content or extension in self.unusable

    def __iter__(self) -> Iterator[str]:
        return iter({**self.content, **self.unusable})

    def __len__(self) -> int:
        return len(self.content.keys() | self.unusable.keys())
