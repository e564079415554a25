"""How the memory of the segmenter's training grows with the number of examples; each number in a separate process.

`memory_growth` writes shards and error maps of demo size, made up but in the form that a run commits them, and has
this module train on them: reading, decoding, training and committing are the product's own. Called by
`benchmarks.supervision`.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from infra.receipts import Address, Ledger
from infra.shards.shards import add_member, write_shard
from infra.stores.folder import FolderStore
from pipeline.config import Supervision as Chosen
from pipeline.data.inventory import STAGE as INVENTORY
from pipeline.data.inventory import ListedShard, shard_of
from pipeline.data.records import ARRAYS
from pipeline.data.units import Selection, cut
from pipeline.execution.cluster import WORKER_ENVIRONMENT
from pipeline.jobs.inventory_job import InventoryJob
from pipeline.training.committed_examples import MAPS, Supervision
from pipeline.training.train_job import TrainJob
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember
from stages.maps.region import Region
from stages.segmenter.network import SegmenterNetwork
from stages.train_segmenter import TrainSegmenter

SIDE_PX, SPACES = 64, ("W+", "F2", "F4", "F6")
SHARD_SAMPLES, UNIT_SAMPLES = 1000, 64
DIFFERENT = 50  # pictures and maps, repeated under different keys
STAGE = TrainSegmenter(network=SegmenterNetwork(backbone="light"), epochs=1, batch=32, cache_mb=16)
"""A cache that even the small set fills, so that only the growth of the rest is measured."""
FINGERPRINT = "0123456789abcdef"
_KIB_A_MB = 1024


def memory_growth(small: int, large: int) -> dict[str, Any]:
    """Return the peak resident memory of trainings on two numbers of examples, in MiB, and by how much they differ."""
    peaks_mb = {count: _measured(count) for count in dict.fromkeys((small, large))}
    return {
        "memory_growth_mb": round(peaks_mb[large] - peaks_mb[small], 1),
        "training_memory": {
            "peak_mb": peaks_mb,
            "side_px": SIDE_PX,
            "spaces": SPACES,
            "example_kb": round(SIDE_PX * SIDE_PX * (3 + 2 * len(SPACES)) / 1024, 1),
            "epochs": STAGE.epochs,
            "batch": STAGE.batch,
            "shuffle_window": STAGE.shuffle_window,
            "cache_mb": STAGE.cache_mb,
        },
    }


def _measured(count: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, count)
        command = [sys.executable, "-m", __spec__.name, str(folder)]
        said = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **WORKER_ENVIRONMENT},
        )
    found = json.loads(said.stdout)
    assert found["learnt"] == count, found
    return float(found["peak_mb"])


def main(folder: Path) -> None:
    """Train on the content of a folder; print the number of examples learnt from, and the peak memory in MB."""
    torch.set_num_threads(2)
    ledger = Ledger(FolderStore(folder / "store"))
    inventories = {shard_of(receipt): receipt.unit for receipt in ledger.receipts(INVENTORY, _inventory(ledger))}
    supervision = Supervision(
        ledger=ledger,
        sources=(FolderStore(folder / "shards"),),
        error_maps=FINGERPRINT,
        committed=tuple(unit for shard in inventories for unit in cut(shard, shard.samples, UNIT_SAMPLES)),
        inventories=inventories,
        selection=Selection(Chosen(held_out_share=0.0)),
        image=ImageMember(),
        region=Region.whole(SIDE_PX),
        map_side_px=SIDE_PX,
        spaces=SPACES,
    )
    address = Address(STAGE.name, FINGERPRINT, "segmenter")
    done = TrainJob(stage=STAGE, address=address, supervision=supervision).run(torch.device("cpu"))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_A_MB
    print(json.dumps({"learnt": done.recorded, "peak_mb": round(peak_mb, 1)}))


def _inventory(ledger: Ledger) -> str:
    return next(iter(ledger.store.list(f"receipts/{INVENTORY}/"))).name.split("/")[2]


def _write(folder: Path, count: int) -> None:
    """Write shards, their inventories and error maps."""
    shards, ledger = FolderStore(folder / "shards"), Ledger(FolderStore(folder / "store"))
    shards.check()
    pictures, maps = _pictures(), _maps()
    for first in range(0, count, SHARD_SAMPLES):
        keys = [f"{i:06d}" for i in range(first, min(first + SHARD_SAMPLES, count))]
        named = zip(keys, itertools.cycle(pictures), strict=False)
        samples: list[dict[str, bytes | str]] = [{"__key__": key, "png": picture} for key, picture in named]
        write_shard(shards.root / f"{first:06d}.tar", samples)
    scan = InventoryJob((shards,), ledger).open()
    for entry in shards.list():
        listed = ListedShard(0, entry)
        scan(listed)
        receipt = ledger.receipt(Address(INVENTORY, _inventory(ledger), listed.name))
        assert receipt is not None
        recorded, shard = list(receipt.recorded), shard_of(receipt)
        for unit in cut(shard, len(recorded), UNIT_SAMPLES):
            of_unit = recorded[unit.first : unit.stop]
            attempt = ledger.begin(Address(ErrorMaps.name, FINGERPRINT, unit.name))
            attempt.put(ARRAYS, _tar(dict(zip(of_unit, itertools.cycle(maps), strict=False))))
            attempt.commit(dict.fromkeys(of_unit), {})


def _random_fields(channels: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield coarse noise, enlarged, `[SIDE, SIDE, channels]` uint8."""
    rng = np.random.default_rng(0)
    for _ in range(DIFFERENT):
        coarse = [Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(channels)]
        yield np.stack([np.asarray(one.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)) for one in coarse], -1)


def _pictures() -> list[bytes]:
    sinks = []
    for field_HW3 in _random_fields(3):
        sinks.append(io.BytesIO())
        Image.fromarray(field_HW3).save(sinks[-1], "png")
    return [sink.getvalue() for sink in sinks]


def _maps() -> list[bytes]:
    sinks = []
    for field_HWL in _random_fields(len(SPACES)):
        sinks.append(io.BytesIO())
        maps: dict[str, Any] = {MAPS: (field_HWL.transpose(2, 0, 1) / 510 + 0.01).astype(np.float16)}
        np.savez_compressed(sinks[-1], **maps)
    return [sink.getvalue() for sink in sinks]


def _tar(members: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for key, data in members.items():
            add_member(archive, key, f"{ErrorMaps.name}.npz", data)
    return sink.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
