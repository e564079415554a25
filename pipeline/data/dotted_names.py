"""Names with dots before the extension: the key ends at the first one, which can merge pictures into one sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from infra.shards.shards import ShardSample
from stages.images.image_member import is_picture

_RARE = 0.5


def dotted_names(samples: Sequence[ShardSample]) -> str | None:
    """Return a note on a shard whose pictures have accidental dots in their names, None if none seem to.

    webdataset reads `22.05.png` and `22.06.png` as one sample, 22, with a `05.png` and a `06.png`. Such names differ
    from intended ones (`22.png` with `22.seg.png`) in the part after the key: it begins with a digit, or it is the only
    kind of picture that its sample has while most samples of the shard do not have it.
    """
    counts = Counter(member.extension for sample in samples for member in sample.members)
    rare = {extension for extension, count in counts.items() if count < _RARE * len(samples)}
    concerned = [(sample, found) for sample in samples if (found := _by_accident(sample, rare))]
    if not concerned:
        return None
    pictures = sum(len(found) for _, found in concerned)
    sample, found = max(concerned, key=lambda pair: len(pair[1]))
    names = " and ".join(repr(f"{sample.key}.{extension}") for extension in found[:2])
    return (
        f"{pictures} pictures have a dot before their extension, and a key ends at the first dot of a name, as in "
        f"webdataset: they are members of {len(concerned)} samples ({names} of {sample.key!r}); rename them without "
        "it, or select the picture with the setting image"
    )


def _by_accident(sample: ShardSample, rare: set[str]) -> list[str]:
    """Return the extensions of a sample's pictures that look like the rest of a name."""
    pictures = [m.extension for m in sample.members if is_picture(m.extension)]
    alone = not any("." not in extension for extension in pictures)
    return [
        extension
        for extension in pictures
        if "." in extension and (extension[0].isdigit() or (alone and extension in rare))
    ]
