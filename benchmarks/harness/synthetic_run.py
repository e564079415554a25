"""Write the store of a synthetic complete run: shards, inventories, bundles and receipts of many units.

Everything uses the product's own writers and its commit protocol; only the results of stages are made
up, the same for every sample. Pictures, codes and maps fit the demo's generator, so that a report can draw them.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from generators.generator import Generator
from infra.bundles import write_rows
from infra.receipts import Address, Receipt
from infra.shards.shards import ShardSample, add_member, write_shard
from pipeline.config import RunConfig, load_config
from pipeline.data.inventory import committed_samples
from pipeline.data.receipt_info import TrainingInfo, UnitInfo
from pipeline.data.records import ARRAYS, OWN_COLUMNS, ROWS, rows_of
from pipeline.data.stores import Stores
from pipeline.data.trained_networks import CURVE_FILE, PICTURES_FILE, SEGMENTER_FILE
from pipeline.data.units import Unit
from pipeline.jobs.inventory_job import InventoryJob
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep
from stages.base.stage import Record
from stages.error_maps import ErrorMaps
from stages.invert import Invert
from stages.maps.region import Region, fit, psnr_db
from stages.maps.spaces import column
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps

ASSETS = Path(__file__).parents[2] / "pipeline/demo/assets"
UNIT_SAMPLES = 4
SHARD_UNITS = 1000
SUPERVISED = 256
SIDE_PX = 64
PICTURE_SEED = 10
_WRITERS = 4
SETTINGS: dict[str, Any] = {
    "input": "shards/*.tar",
    "output": "store",
    "folder": "out",
    "generator": {"checkpoint": str(ASSETS / "generator.safetensors")},
    "perceptual": {"backbone": "small", "weights": str(ASSETS / "perceptual.safetensors")},
    "unit_samples": UNIT_SAMPLES,
    "supervision": {"samples": SUPERVISED, "held_out_share": 0.1},
    "refine_maps": {"segmentation": {"kind": "superpixels"}},
}


def write_run(folder: Path, units: int) -> None:
    """Write shards and a run's configuration into a folder, and commit everything up to the index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    _write_shards(folder / "shards", units)
    commit_all(config_in(folder))


def add_shard(folder: Path, units: int) -> None:
    """Add a shard that sorts after all others, and commit its units."""
    _write_shard(folder / "shards" / "zz-new.tar", units * UNIT_SAMPLES)
    commit_all(config_in(folder))


def config_in(folder: Path) -> RunConfig:
    """Return the configuration of the run in a folder."""
    return load_config(folder / "run.yaml")


def commit_all(config: RunConfig) -> None:
    """Commit every inventory and bundle that the store lacks."""
    plan = Plan(config, Stores.from_config(config))
    plan.ledger.store.check()
    scan = InventoryJob(plan.sources, plan.ledger).open()
    for listed in plan.missing_inventories():
        scan(listed)
    plan.choose_supervision(plan.inventories())
    made_up = _MadeUp(plan)
    made_up.commit(plan.error_maps())
    address = plan.train_segmenter()
    receipt = plan.ledger.receipt(address) or made_up.train(address)
    for step in plan.map_steps(receipt):
        made_up.commit(step)


class _MadeUp:
    """The records of a run's stages, with the same values for every sample."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.shards = plan, plan.inventories()
        self.records = _records(plan)
        self.npz = {stage: _npz(record.arrays) for stage, record in self.records.items()}

    def commit(self, step: MapStep) -> None:
        """Commit the units that a step lacks."""
        todo = self.plan.remaining(step, self.plan.units(self.shards, step.selection))
        by_shard: dict[str, list[Unit]] = {}
        for unit in todo:
            by_shard.setdefault(self.shards[unit.shard].unit, []).append(unit)
        with ThreadPoolExecutor(_WRITERS) as writers:
            for inventory, units in by_shard.items():
                name = units[0].shard.name
                listed = committed_samples(self.plan.ledger, inventory)
                chosen = [sample for sample in listed if step.selection.includes(name, sample.key)]
                list(writers.map(self._writer(step, chosen), units))

    def train(self, address: Address) -> Receipt:
        """Commit a training's bundle."""
        attempt = self.plan.ledger.begin(address)
        attempt.put(SEGMENTER_FILE, b"no checkpoint: nothing here loads it")
        spaces = dict.fromkeys(self.plan.spaces, 0.5)
        epoch = {"epoch": 0, "mean_loss": 1.0, "train_loss": 0.5, "val_loss": 0.5, "correlation": spaces, "kept": True}
        attempt.put(CURVE_FILE, json.dumps([epoch]).encode())
        attempt.put(PICTURES_FILE, _png(0))
        now = time.time()
        info = TrainingInfo(device="cpu", started=now, finished=now, target="root")
        return attempt.commit({f"{i:06d}": None for i in range(SUPERVISED)}, info.plain())

    def _writer(self, step: MapStep, chosen: Sequence[ShardSample]) -> Callable[[Unit], None]:
        stage, record = step.stage.name, self.records[step.stage.name]

        def write(unit: Unit) -> None:
            keys = [sample.key for sample in chosen[unit.first : unit.stop]]
            rows = rows_of([{"key": key, "shard": unit.shard.name} for key in keys], [record] * len(keys))
            attempt = self.plan.ledger.begin(Address(stage, step.fingerprint, unit.name))
            origin = {"stage": stage, "fingerprint": step.fingerprint}
            attempt.put(ROWS, write_rows(rows, origin, {**OWN_COLUMNS, **_stated(step, record)}))
            attempt.put(ARRAYS, _tar(dict.fromkeys(keys, self.npz[stage]), stage))
            now = time.time()
            info = UnitInfo(shard=unit.shard.name, device="cpu", started=now, computed_s=1.0, finished=now)
            attempt.commit(dict.fromkeys(keys), info.plain())

        return write


def _stated(step: MapStep, record: Record) -> dict[str, type[bool] | type[float] | type[str]]:
    return {name: kind for name, kind in step.stage.columns.items() if name in record.row}


def _records(plan: Plan) -> dict[str, Record]:
    """Return a record of each stage."""
    rng, generator, spaces = np.random.default_rng(0), plan.generator, plan.spaces
    maps = rng.uniform(0.01, 0.4, (len(spaces), SIDE_PX, SIDE_PX)).astype(np.float16)
    labels_HW = (np.arange(SIDE_PX * SIDE_PX, dtype=np.int32) // 512).reshape(SIDE_PX, SIDE_PX)
    assignment_HW = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    steps, loss = np.arange(8), np.linspace(1, 0.1, 8, dtype=np.float32)
    figures = {f"psnr_db_{column(s)}": 30.0 for s in spaces} | {f"lpips_{column(s)}": 0.1 for s in spaces}
    shares = {f"share_{column(s)}": 1 / len(spaces) for s in spaces}
    networks = {"generator": generator.digest, "perceptual": "small"}
    fitted = {"w_plus": _w_plus(generator)[0].numpy(), "loss": 0.1, "steps": 8}
    rows: dict[str, dict[str, Any]] = {
        ErrorMaps.name: figures | {"occluded": False, "auroc": None} | networks | {"perceptual_digest": "0" * 64},
        PredictMaps.name: {f"error_{column(s)}": 0.1 for s in spaces} | {"auroc": None},
        RefineMaps.name: shares | {"error": 0.1},
        Invert.name: {"psnr_db": made_up_psnr_db(generator), "lpips": 0.08, **shares, **networks, **fitted},
    }
    arrays: dict[str, dict[str, Any]] = {
        ErrorMaps.name: {"error_LHW": maps, "loss_LK": np.stack([loss] * len(spaces)), "loss_step": steps},
        PredictMaps.name: {"error_LHW": maps},
        RefineMaps.name: {"assignment_HW": assignment_HW, "labels_HW": labels_HW},
        Invert.name: {"assignment_HW": assignment_HW, "trace_step": steps, "trace_loss": loss},
    }
    return {stage: Record("", rows[stage], arrays[stage]) for stage in rows}


def _write_shards(folder: Path, units: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, units, SHARD_UNITS)):
        _write_shard(folder / f"{number:06d}.tar", min(SHARD_UNITS, units - first) * UNIT_SAMPLES)


def _write_shard(path: Path, samples: int) -> None:
    picture = _png(PICTURE_SEED)
    write_shard(path, ({"__key__": f"{path.stem}-{i:06d}", "png": picture} for i in range(samples)))


def made_up_psnr_db(generator: Generator) -> float:
    """Return the PSNR of every sample's made-up codes, which verification measures again."""
    pixels_HW3 = np.array(Image.open(io.BytesIO(_png(PICTURE_SEED))))
    with torch.no_grad():
        image_13HW = generator.synthesize(_w_plus(generator).float(), {}, {})
    return float(psnr_db(image_13HW.clamp(-1, 1), fit(pixels_HW3, Region.whole(SIDE_PX))[None]))


def _w_plus(generator: Generator) -> Tensor:
    return generator.map(torch.zeros(1, generator.z_dim)).half()


def _png(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX)).save(sink, "png")
    return sink.getvalue()


def _npz(arrays: Mapping[str, Any]) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def _tar(members: Mapping[str, bytes], stage: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for key, data in members.items():
            add_member(archive, key, f"{stage}.npz", data)
    return sink.getvalue()
