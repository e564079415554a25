"""Check the inventories for everything a run needs of its input, before hours of work.

A new input is checked twice: after its first shards, since reading all of them can take hours, and after all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from infra.receipts import Ledger, ReceiptHead
from infra.shards.shards import ShardSample
from pipeline.config import RunConfig
from pipeline.data.receipt_info import InventoryInfo
from pipeline.data.units import Shard, read_inventory
from pipeline.errors import RunError
from stages.images.image_member import EXTENSIONS, ImageMember
from stages.images.labels import LabelMember
from stages.segmentation import Labels

SHOWN = 10
"""Number of extensions, and of reasons, that a message names."""


@dataclass(frozen=True)
class Wanted:
    """A member that every sample should have, under any of some extensions."""

    what: str
    extensions: tuple[str, ...]
    remedy: str
    image: ImageMember | None = None  # decides instead whether it exists
    by_all: bool = True  # every sample should have it; a truth may exist for a few only

    def is_among(self, members: Collection[str]) -> bool:
        """Return whether a sample with these members has it."""
        if self.image is not None:
            return bool(self.image.candidates(members))
        return any(extension in members for extension in self.extensions)


def wanted_members(config: RunConfig) -> list[Wanted]:
    """Return the members that a configuration reads."""
    named: tuple[str, ...]
    if config.image is None:
        named = EXTENSIONS
        remedy = "write the images under one of these extensions, or name their member by `image`"
    else:
        named, remedy = (config.image,), "add it to the shards, or correct `image`"
    wanted = [Wanted("an image", named, remedy, config.image_member)]
    if config.truth is not None:
        remedy = "add it to the shards, or correct `truth`"
        wanted.append(Wanted("its mask", (config.truth,), remedy, by_all=False))
    segmentation = config.refine_maps.segmentation
    if isinstance(segmentation, Labels):
        remedy = "add it to the shards, or correct `refine_maps.segmentation`"
        wanted.append(Wanted("its labels", (segmentation.member,), remedy))
    if isinstance(config.label, LabelMember):
        wanted.append(Wanted("its class", (config.label.member,), "add it to the shards, or correct `label`"))
    return wanted


def check_input(config: RunConfig, ledger: Ledger, shards: Mapping[Shard, ReceiptHead]) -> None:
    """Return if some sample can be read, and every member that the configuration reads is in at least one sample.

    Inventories are read only until all members are found. A member that only some samples lack quarantines those.

    Raises:
        RunError: there is no such sample, or a member is in none; the message lists what exists, with the remedy.
    """
    missing, extensions, faults = wanted_members(config), Counter[str](), Counter[str]()
    unusable: Counter[tuple[str, str]] = Counter()
    for sample in _samples(ledger, shards):
        if sample.fault is not None:
            faults[sample.fault] += 1
            continue
        held = {member.extension for member in sample.members}
        extensions.update(held)
        unusable.update(sample.unusable.items())
        missing = [wanted for wanted in missing if not wanted.is_among(held)]
        if not missing:
            return
    if not extensions:
        raise RunError(_unreadable(shards, faults))
    wanted = missing[0]
    remedy = _unusable(wanted, unusable) or wanted.remedy
    raise RunError(f"no sample of the input has {_sought(wanted, extensions)}; {remedy}")


def check_first_shards(config: RunConfig, ledger: Ledger, shards: Mapping[Shard, ReceiptHead]) -> None:
    """Return if every member that all samples need is in at least one sample of the first shards of a new input.

    Shards without readable samples are ignored.

    Raises:
        RunError: a member is in none; the message lists what exists, with the remedy.
    """
    missing, extensions = [wanted for wanted in wanted_members(config) if wanted.by_all], Counter[str]()
    for sample in _samples(ledger, shards):
        if sample.fault is None:
            held = {member.extension for member in sample.members}
            extensions.update(held)
            missing = [wanted for wanted in missing if not wanted.is_among(held)]
    if missing and extensions:
        raise RunError(
            f"no sample of the first {len(shards)} shards has {_sought(missing[0], extensions)}; {missing[0].remedy}"
        )


def _sought(wanted: Wanted, extensions: Counter[str]) -> str:
    """Return the missing member, and the members that samples have instead."""
    held_by_count = ", ".join(f"{name} ({count})" for name, count in extensions.most_common(SHOWN))
    return f"{wanted.what}, {' or '.join(map(repr, wanted.extensions))}; samples have: {held_by_count}"


def _unusable(wanted: Wanted, reasons: Mapping[tuple[str, str], int]) -> str:
    """Return why an existing member is unusable, with the number of samples; empty if it does not exist."""
    found = Counter({reason: count for (extension, reason), count in reasons.items() if wanted.is_among([extension])})
    return "; ".join(f"{count} samples: {reason}" for reason, count in found.most_common(SHOWN))


def _samples(ledger: Ledger, shards: Mapping[Shard, ReceiptHead]) -> Iterator[ShardSample]:
    for receipt in shards.values():
        yield from read_inventory(ledger, receipt)


def _unreadable(shards: Mapping[Shard, ReceiptHead], faults: Counter[str]) -> str:
    """Return why no sample can be read."""
    reasons = [
        f"{shard.name}: {fault.message}"
        for shard, receipt in shards.items()
        for fault in InventoryInfo.from_receipt(receipt).faults
    ]
    reasons += [f"{count} samples: {fault}" for fault, count in faults.most_common()]
    named = "; ".join(reasons[:SHOWN]) or "the shards are empty"
    more = f"; and {len(reasons) - SHOWN} more reasons" if len(reasons) > SHOWN else ""
    return f"not one sample of {len(shards)} shards can be read: {named}{more}"
