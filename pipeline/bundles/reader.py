"""`open_bundles`: the images of a run's result, one by key, all in order, or in batches on a device.

for batch in open_bundles("s3://latents/cars").batches(32, device="cuda"):
    images = generator.synthesize(batch.w_plus, batch.deltas, batch.masks)  # of tuned ones: batch.pictures(generator)
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from infra.bundles import read_files, read_rows
from infra.receipts import Ledger
from infra.stores.storage import AnyOptions
from pipeline.bundles.catalogue import Catalogue, Entry, open_catalogue
from pipeline.bundles.files import npz_of, read_range, readable, whole_file
from pipeline.publish.pointer import Pointer
from stages.inversion.packing import CodesError, unpack_batch, unpack_codes
from stages.inversion.tuned import is_tuned, tuned_generator

if TYPE_CHECKING:
    from webdataset import DataPipeline

_AHEAD = 2
"""Units that are read and decompressed ahead of the batches."""
_UNITS_KEPT = 4
"""Units whose rows are kept for images that are requested one by one."""

Rows = Mapping[str, Mapping[str, Any]]
ReadRows = Callable[[str], Rows]
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Image:
    """One inverted image, as stored."""

    key: str
    source: str
    """Name of the tar that holds its codes."""
    arrays: Arrays
    """Of its npz (`docs/bundle-format.md`)."""
    read_row: Callable[[], Mapping[str, Any]]

    @property
    def row(self) -> dict[str, Any]:
        """Its row: metrics, shares, `w_plus`; read when it is first requested, unless it came with its unit."""
        return dict(self.read_row())

    @functools.cached_property
    def codes(self) -> Codes:
        """Its codes on the CPU, a batch of one."""
        return unpacked([self], "cpu")

    @property
    def assignment(self) -> NDArray[np.uint8]:
        """The space that each pixel was inverted in, `[H, W]` index into the run's spaces."""
        return np.asarray(self.arrays["assignment_HW"], np.uint8)

    def generator(self, original: Generator) -> Generator:
        """Return the generator that its codes belong to: the run's, or a copy that was tuned to it (`pivotal`).

        Raises:
            ArgumentError: `original` is not the generator that the image was inverted with.
        """
        return tuned_generator(original, self.arrays)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images whose codes are unpacked on a device when they are first used; small until then."""

    images: Sequence[Image]
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def keys(self) -> list[str]:
        """The keys of the images."""
        return [image.key for image in self.images]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the images."""
        return [image.row for image in self.images]

    @functools.cached_property
    def codes(self) -> Codes:
        """Their codes on the device."""
        return unpacked(self.images, self.device)

    @property
    def w_plus(self) -> Tensor:
        """`[N, num_ws, w_dim]` float32 on the device."""
        return self.codes.w_plus

    @property
    def deltas(self) -> Mapping[str, Tensor]:
        """By feature space, `[N, C, h, w]` float32 on the device; zero where an image does not use the space."""
        return self.codes.deltas

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """By feature space, `[N, 1, h, w]` float32 in [0, 1] on the device."""
        return self.codes.masks

    @property
    def assignments(self) -> NDArray[np.uint8]:
        """The space of each pixel, `[N, H, W]`."""
        return np.stack([image.assignment for image in self.images])

    def pictures(self, generator: Generator) -> Tensor:
        """Return the pictures of the images, `[N, 3, R, R]`, unclamped, about [-1, 1].

        Images whose method tuned the generator are formed one by one, each by its own (`Image.generator`): from the
        codes alone, `generator.synthesize` gives the pictures before tuning.
        """
        if not any(is_tuned(image.arrays) for image in self.images):
            return generator.synthesize(self.w_plus, self.deltas, self.masks)
        parts = [(image.generator(generator), unpacked([image], self.device)) for image in self.images]
        return torch.cat([own.synthesize(codes.w_plus, codes.deltas, codes.masks) for own, codes in parts])

    def to(self, device: torch.device | str) -> Batch:
        """Return this batch for another device."""
        return Batch(self.images, device)


class Bundles:
    """The inverted images that one published index lists. Everything is read when it is used, none of it twice."""

    def __init__(self, ledger: Ledger, pointer: Pointer, catalogue: Catalogue) -> None:
        self._ledger, self._catalogue = ledger, catalogue
        self.pointer = pointer
        self._rows: ReadRows = functools.lru_cache(_UNITS_KEPT)(functools.partial(rows_of, ledger))
        self._earlier = functools.lru_cache(1)(functools.partial(_arrays_of, ledger))

    def __len__(self) -> int:
        return len(self._catalogue)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and any(True for _ in self._catalogue.entries(key))

    def __getitem__(self, key: str) -> Image:
        """Return the image with a key; raise `KeyError` as `image`."""
        return self.image(key)

    def __iter__(self) -> Iterator[Image]:
        """Yield all images in the order of the index; each unit's tar is read once, and compared with its checksum."""
        units = self._catalogue.units()
        with ThreadPoolExecutor(_AHEAD, "units") as readers:
            ahead: deque[Future[list[Image]]] = deque()
            for arrays, records in units:
                ahead.append(readers.submit(images_of, self._ledger, arrays, records))
                if len(ahead) > _AHEAD:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()

    def keys(self) -> list[str]:
        """Return the keys of all images, in the order of the index."""
        return self._catalogue.keys()

    def image(self, key: str, unit: str | None = None) -> Image:
        """Return one image by one ranged read of its codes; those of version 1 need the tar of its unit.

        Args:
            key: of its sample.
            unit: of the image, where several have the key.

        Raises:
            KeyError: no image has the key, or several have it.
            BundleError: its codes are missing or damaged; the message names the unit and the remedy.
        """
        entry = self._catalogue.find(key, unit)
        return Image(key, entry.arrays, self._arrays(entry), lambda: self._rows(entry.records)[key])

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Yield all images in batches of `size`, the last one smaller, with codes on a device."""
        images = iter(self)
        while some := list(itertools.islice(images, size)):
            yield Batch(some, device)

    def dataset(self, batch: int | None = None, *, shuffle: int = 0, seed: int = 0) -> DataPipeline:
        """Return a PyTorch `IterableDataset` of images, or of batches, for a `DataLoader` with `batch_size=None`.

        Units are divided among the processes of `torch.distributed` and the workers of the loader.

        Args:
            batch: size of batches; None for single images.
            shuffle: size of the buffer that images are drawn from, after the units were shuffled; 0 keeps the order.
            seed: of both.
        """
        from pipeline.bundles.stream import stream  # webdataset is imported where it is used

        return stream(self._ledger, list(self._catalogue.units()), batch, shuffle, seed)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns of the index, or all: one row per sample of the input, also of quarantined ones."""
        return pa.concat_tables(self._catalogue.rows.tables(columns), promote_options="default")

    def _arrays(self, entry: Entry) -> Arrays:
        if entry.offset is None or entry.size is None:
            return self._earlier(entry.arrays)[entry.key]
        return npz_of(entry.arrays, entry.key, read_range(self._ledger, entry.arrays, entry.offset, entry.size))


def open_bundles(address: str | Path, options: AnyOptions | None = None) -> Bundles:
    """Open the images that a run published.

    Args:
        address: of a run's `output`: a folder, `s3://BUCKET/PREFIX`, or a copy of either; or of one published version,
            the pointer to it (`STORE/published.json`).
        options: how object storage is reached, such as `S3Options(endpoint_url=...)`; credentials come from boto3's
            usual chain.

    Raises:
        BundleError: nothing is published there, or it is damaged.
        StoreError: the store is unavailable.
    """
    return Bundles(*open_catalogue(str(address), options))


def unpacked(images: Sequence[Image], device: torch.device | str) -> Codes:
    """Return the codes of images as a batch on a device; raise `BundleError` with unit and key if they do not fit."""
    stored = [(_w_plus(image), image.arrays) for image in images]
    try:
        return unpack_batch(stored, device)
    except CodesError:
        for image, (w_plus, arrays) in zip(images, stored, strict=True):
            with readable(image.source, image.key):
                unpack_codes(w_plus, arrays)
        raise


def images_of(ledger: Ledger, arrays: str, records: str) -> list[Image]:
    """Return the images of a unit from its two files."""
    rows = rows_of(ledger, records)
    of_images = _arrays_of(ledger, arrays).items()
    return [Image(key, arrays, of_image, functools.partial(dict, rows[key])) for key, of_image in of_images]


def rows_of(ledger: Ledger, records: str) -> Rows:
    """Return the rows of a unit by key."""
    return {row["key"]: row for row in read_rows(whole_file(ledger, records))}


def _arrays_of(ledger: Ledger, name: str) -> dict[str, Arrays]:
    """Return the arrays of a unit's images by key."""
    found = dict[str, Arrays]()
    for key, files in read_files(whole_file(ledger, name)):
        for filename, content in files.items():
            if filename.endswith(".npz"):
                found[key] = npz_of(name, key, content)
    return found


def _w_plus(image: Image) -> NDArray[np.generic] | None:
    if "w_plus" in image.arrays:
        return None
    return np.asarray(image.row["w_plus"])
