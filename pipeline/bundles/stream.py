"""The images of bundles as a stream for training, on webdataset: processes and workers share the units."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_expander

from infra.receipts import Ledger
from pipeline.bundles.files import npz_of, whole_file
from pipeline.bundles.reader import Batch, Image, ReadRows, rows_of

_ROWS_KEPT = 2
"""Units whose rows are kept: the present one, and the last while a buffer still mixes both."""

Source = Iterable[dict[str, Any]]


def stream(
    ledger: Ledger, units: Sequence[tuple[str, str]], batch: int | None, shuffle: int, seed: int
) -> wds.DataPipeline:
    """Return the stream of `Bundles.dataset`.

    Args:
        ledger: of the store.
        units: the files with codes and with rows of each.
        batch: size of batches; None for single images.
        shuffle: size of the buffer that images are drawn from; 0 keeps their order.
        seed: of the shuffling.
    """
    records, names = dict(units), [arrays for arrays, _ in units]
    if shuffle:
        random.Random(seed).shuffle(names)
    stages: list[Callable[[Source], Iterator[Any]] | Any] = [
        wds.SimpleShardList(names),
        wds.split_by_node,
        wds.split_by_worker,
        functools.partial(_opened, ledger),
        tar_file_expander,
        group_by_keys,
        functools.partial(_images, ledger, records),
    ]
    stages += [wds.detshuffle(shuffle, seed=seed)] if shuffle else []
    stages += [functools.partial(_batches, batch)] if batch else []
    return wds.DataPipeline(*stages)


def _opened(ledger: Ledger, shards: Source) -> Iterator[dict[str, Any]]:
    """Yield each tar whole, once its checksum was compared: a stream would take a cut between members for the end."""
    for shard in shards:
        yield {**shard, "stream": io.BytesIO(whole_file(ledger, shard["url"]))}


def _images(ledger: Ledger, records: dict[str, str], samples: Source) -> Iterator[Image]:
    rows: ReadRows = functools.lru_cache(_ROWS_KEPT)(functools.partial(rows_of, ledger))
    for sample in samples:
        key, name = sample["__key__"], sample["__url__"]
        npz = next(content for filename, content in sample.items() if filename.endswith(".npz"))
        yield Image(key, name, npz_of(name, key, npz), functools.partial(dict, rows(records[name])[key]))


def _batches(size: int, images: Iterable[Image]) -> Iterator[Batch]:
    some: list[Image] = []
    for image in images:
        some.append(image)
        if len(some) == size:
            yield Batch(some)
            some = []
    if some:
        yield Batch(some)
