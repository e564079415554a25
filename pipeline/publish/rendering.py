"""Reconstructions of published images from their codes as stored."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.files import put
from infra.receipts import Address, Ledger
from infra.stores.os_errors import explained
from pipeline.config import RunConfig
from pipeline.data.records import read_records
from pipeline.data.stores import Stores
from pipeline.errors import CommandError, RunError
from pipeline.plan.graph import GRAPH
from pipeline.plan.plan import Plan
from pipeline.publish.pointer import address_in, read_pointer
from pipeline.publish.rows import IndexRows
from pipeline.publish.settings import with_settings
from stages.base.device import process_device
from stages.base.stage import Record
from stages.editing.editor import Editor
from stages.images.encoding import encoded
from stages.inversion.packing import unpack_codes
from stages.inversion.tuned import tuned_generator
from stages.maps.region import to_uint8

_COLUMNS = ("key", "outcome", "reason", "unit")


@dataclass(frozen=True)
class Rendering:
    """Published images to render: their keys by unit, and the name of each file without its extension."""

    ledger: Ledger
    fingerprint: str  # of the inversions
    editor: Editor
    images: Mapping[str, Mapping[str, str]]  # name by key, by unit

    @classmethod
    def from_published(cls, config: RunConfig, stores: Stores, keys: Sequence[str] = ()) -> Rendering:
        """Return the rendering of some published images, or of all; settings are those of the published result.

        Files are named after keys; if all images are rendered, or several have one key, after unit and key.

        Raises:
            RunError: nothing is published.
            CommandError: a key is unknown, or its image was quarantined.
        """
        ledger = stores.ledger
        pointer = read_pointer(ledger)
        receipt = None if pointer is None else ledger.receipt(address_in(ledger, pointer.receipt))
        if pointer is None or receipt is None:
            raise RunError(f"{ledger.store.url} holds no published result: `invertmill run` comes first")
        images = _chosen(IndexRows(ledger, receipt), keys)
        plan = Plan(with_settings(config, pointer.settings), stores)
        device = process_device()
        editor = Editor(plan.generator_source.load(device), plan.region)
        return cls(ledger, pointer.stages[GRAPH.last.name], editor, images)

    def write(self, folder: Path) -> int:
        """Write the images as PNG into a folder, and return how many there are."""
        count = 0
        for name, record in self._records():
            path = folder / f"{name}.png"
            if not path.resolve().is_relative_to(folder.resolve()):
                raise CommandError(f"the key {record.key!r} leads out of the folder {folder}: rename the sample")
            with explained(folder, "write to"):
                put(path, self.png(record))
            count += 1
        return count

    def png(self, record: Record) -> bytes:
        """Return the reconstruction of an image as PNG.

        Raises:
            RunError: it was inverted with another generator.
        """
        generator, w_plus = self.editor.generator, record.row["w_plus"]
        if record.row["generator"] != generator.digest:
            raise RunError(
                f"{record.key} was inverted with the generator of SHA-256 {record.row['generator']}, got "
                f"{generator.digest}: name the former as generator.checkpoint"
            )
        assert isinstance(w_plus, np.ndarray)
        editor = replace(self.editor, generator=tuned_generator(generator, record.arrays))
        picture = editor.reconstruction(unpack_codes(w_plus, record.arrays))
        return encoded(to_uint8(picture.image_N3HW)[0], "png")

    def _records(self) -> Iterator[tuple[str, Record]]:
        for unit, names in self.images.items():
            receipt = self.ledger.required(Address(GRAPH.last.name, self.fingerprint, unit))
            for key, record in read_records(self.ledger.read_file, receipt, names).items():
                yield names[key], record


def _chosen(rows: IndexRows, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the name of each image's file by key, by unit."""
    units, quarantined, some_key = defaultdict[str, list[str]](list), dict[str, str](), ""
    for table in rows.tables(_COLUMNS):
        some_key = some_key or (table.column("key")[0].as_py() if table.num_rows else "")
        wanted = table.filter(pc.is_in(table.column("key"), pa.array(keys, pa.string()))) if keys else table
        for row in wanted.to_pylist():
            if row["outcome"] == "recorded":
                units[row["unit"]].append(row["key"])
            else:
                quarantined[row["key"]] = row["reason"]
    count = Counter(key for of_unit in units.values() for key in of_unit)
    for key in keys:
        if key in count:
            continue
        if key in quarantined:
            raise CommandError(f"there is no image {key!r}: it was quarantined ({quarantined[key]})")
        raise CommandError(f"the published index has no key {key!r}; its keys are like {some_key!r}")
    alone = {key for key in keys if count[key] == 1}
    return {unit: {key: key if key in alone else f"{unit}/{key}" for key in of_unit} for unit, of_unit in units.items()}
