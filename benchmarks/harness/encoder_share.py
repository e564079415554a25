"""How fast the encoder regime is, relative to its networks alone."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.timing import median_ratio, seconds_of
from benchmarks.supervision import ASSETS, OBJECTIVE, SEED, scenes
from generators import load_encoder
from generators.encoders.networks import EncoderNetwork, NetworkConfig
from generators.encoders.published import TYPES
from generators.generator import Generator
from generators.latents import W_PLUS, Codes
from generators.source import GeneratorSource
from infra.receipts import Address, Ledger
from infra.shards.shards import write_shard
from infra.stores.folder import FolderStore
from pipeline.data import inventory
from pipeline.data.records import put_records, rows_of
from pipeline.data.units import Selection, Unit, cut
from pipeline.execution.hosts import IN_FLIGHT
from pipeline.jobs.inventory_job import InventoryJob
from pipeline.jobs.map_job import MapJob
from stages.base.stage import Record, Sample
from stages.images.image_member import pixels_of
from stages.invert import Invert
from stages.maps.region import Region, fit
from stages.perceptual.source import PerceptualSource
from stages.refine_maps import RefineMaps

ENCODER = "Encoder4Editing"
ENCODER_FILE = "encoder.pt"
WIDTH = 16
"""Channels of the trunk's first layer, a quarter of the published: a cheaper network hides less."""
UNIT_SAMPLES = 32
SIDE_PX = 64


def encoder_shares(count: int, turns: int, device: torch.device) -> dict[str, Any]:
    """Return images per second of `encode`, in memory and from shard to bundle, over those of its bare networks."""
    made = scenes(min(count, 32))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage = _stage(folder)
        assignment_HW = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        samples = [
            Sample(
                f"{number:06d}",
                "shard",
                made[number % len(made)].members,
                {RefineMaps.name: Record(f"{number:06d}", {}, {"assignment_HW": assignment_HW})},
            )
            for number in range(count)
        ]
        bare, worker = _bare(stage, folder / ENCODER_FILE, samples, device), stage.setup(device)

        def work() -> None:
            assert sum(isinstance(record, Record) for record in worker(samples)) == count

        sides = {"bare": bare, "worker": work, "committed": _actor(stage, samples, folder)}
        bare()  # the first pass is slower
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(turns):
            for side, run in sides.items():
                seconds[side].append(seconds_of(run, device))
    shares = {side: median_ratio(seconds["bare"], seconds[side]) for side in ("worker", "committed")}
    return {
        "share_of_bare_forward": shares["worker"],
        "share_of_bare_forward_committed": shares["committed"],
        "encode": {
            "images": count,
            "batch": stage.batch,
            "network": f"{ENCODER} of width {WIDTH}, random weights",
            **{f"{side}_images_per_second": round(count / statistics.median(s), 2) for side, s in seconds.items()},
        },
    }


def _stage(folder: Path) -> Invert:
    source = GeneratorSource(checkpoint=ASSETS / "generator.safetensors")
    path = folder / ENCODER_FILE
    torch.save(_published(source.load(torch.device("cpu"))), path)
    return Invert.model_validate(
        {
            "generator": source,
            "perceptual": PerceptualSource(backbone="small", weights=ASSETS / "perceptual.safetensors"),
            "objective": OBJECTIVE,
            "precision": "fp32",  # that of the bare networks
            "method": {"kind": "encode", "encoder": {"checkpoint": path}},
        }
    )


def _published(generator: Generator) -> dict[str, Any]:
    """Return the content of a file of e4e with random weights, which cost as much as trained ones."""
    torch.manual_seed(SEED)
    shape = NetworkConfig(**TYPES[ENCODER][1], num_ws=generator.num_ws, w_dim=generator.w_dim, width=WIDTH)
    state = EncoderNetwork(shape).state_dict()
    for name, tensor in state.items():
        if name.endswith(("linear.weight", "linear.bias")):  # not set when a network is made
            tensor.normal_()
    names = {name: f"encoder.{name.removeprefix('trunk.').removeprefix('head.')}" for name in state}
    return {
        "state_dict": {names[name]: tensor for name, tensor in state.items()},
        "latent_avg": torch.zeros(generator.num_ws, generator.w_dim),
        "opts": {"encoder_type": ENCODER, "start_from_latent_avg": True},
    }


def _bare(stage: Invert, encoder_file: Path, samples: Sequence[Sample], device: torch.device) -> Callable[[], None]:
    """Return the forward passes alone, of images on the device, in the worker's batches and measured one by one."""
    viewer, batch = stage.viewer(device), stage.batch
    assert isinstance(batch, int)
    encoder = load_encoder(encoder_file, device)
    batches = torch.stack([fit(pixels_of(sample), viewer.region) for sample in samples]).to(device).split(batch)

    @torch.no_grad()
    def run() -> None:
        for images_N3HW in batches:
            for image, w_plus in zip(images_N3HW.split(1), encoder(images_N3HW).split(1), strict=True):
                viewer.measure(viewer.picture(Codes(w_plus)), image)

    return run


def _actor(stage: Invert, samples: Sequence[Sample], folder: Path) -> Callable[[], None]:
    """Return an actor's work: units of a shard are read, encoded and committed, again at every call."""
    shards, ledger = FolderStore(folder / "shards"), Ledger(FolderStore(folder / "store"))
    shards.root.mkdir()
    write_shard(shards.root / "scenes.tar", [{"__key__": sample.key, **sample.members} for sample in samples])
    InventoryJob((shards,), ledger).open()(inventory.ListedShard(0, next(iter(shards.list()))))
    receipt = next(ledger.receipts(inventory.STAGE, inventory.FINGERPRINT))
    units = list(cut(inventory.shard_of(receipt), len(samples), UNIT_SAMPLES))
    for unit in units:
        _commit_maps(ledger, unit, samples[unit.first : unit.stop])
    upstream = {RefineMaps.name: "given"}
    job = MapJob(stage, "", (shards,), ledger, upstream, {units[0].shard: receipt.unit}, Selection())
    turns = itertools.count()

    def run() -> None:
        run_unit = replace(job, fingerprint=f"turn-{next(turns)}").open()
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            assert sum(done.recorded for done in threads.map(run_unit, units)) == len(samples)

    return run


def _commit_maps(ledger: Ledger, unit: Unit, samples: Sequence[Sample]) -> None:
    """Commit the assignments of a unit."""
    records = [sample.records[RefineMaps.name] for sample in samples]
    attempt = ledger.begin(Address(RefineMaps.name, "given", unit.name))
    rows = rows_of([{"key": sample.key, "shard": sample.shard} for sample in samples], records)
    put_records(attempt, RefineMaps(spaces=(W_PLUS,), region=Region.whole(SIDE_PX)), rows, records)
    attempt.commit({sample.key: None for sample in samples}, {})
