"""Codes whose stored form `benchmarks.bundles` measures: of scenes, of photographs, of a 512 px generator."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.supervision import scenes
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.generator import Generator
from generators.latents import Codes, masks_of
from generators.source import GeneratorSource
from infra.shards.shards import split_name
from stages.base.stage import Record, Sample
from stages.engine.schedule import Schedule
from stages.inversion.packing import unpack_codes
from stages.inversion.rounding import Packing
from stages.inversion.starts import Learnt, Mean
from stages.inversion.viewer import Viewer
from stages.invert import REFINED, Invert
from stages.maps.region import Region, fit
from stages.objective.objective import Objective
from stages.perceptual import load_perceptual
from stages.perceptual.source import PerceptualSource

SEED = 0
ASSETS = Path(__file__).parents[2] / "pipeline/demo/assets"
SHARES = {"W+": 0.45, "F4": 0.25, "F6": 0.15, "F8": 0.10, "F10": 0.05}
EXTENSIONS = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Case:
    """Codes as found, with the photographs that they are compared with."""

    name: str
    viewer: Viewer
    codes: list[Codes]
    targets: list[Tensor]
    read: int
    """Number of images, these several times, whose reading is compared with synthesis."""


def demo_case(images: int, device: torch.device) -> Case:
    """Return scenes of the demo, inverted in 50 steps with stripes of all spaces, as found up to float16."""
    stage = _stage(Packing(max_loss_db=0), steps=50, start=Learnt(samples=1024))
    viewer = stage.viewer(device)
    samples = scenes(images)
    records = _inverted(stage, samples, device)
    codes = [unpack_codes(None, record.arrays, device) for record in records]
    by_key = {sample.key: stage.image.picture(sample).pixels_HW3 for sample in samples}
    targets = [fit(by_key[record.key], viewer.region)[None].to(device) for record in records]
    return Case("demo, 64 px, inverted", viewer, codes, targets, read=192)


def photographs(folder: Path, most: int) -> list[Sample]:
    """Return photographs of a folder's tars, the first of each tar, then the second, and so on."""
    rounds = itertools.zip_longest(*map(_pictures, sorted(folder.glob("*.tar"))))
    every = (sample for samples in rounds for sample in samples if sample is not None)
    return list(itertools.islice(every, most))


def _pictures(path: Path) -> Iterator[Sample]:
    with tarfile.open(path) as archive:
        for info in archive:
            split = split_name(info.name)
            if split is not None and split[1].rpartition(".")[2].lower() in EXTENSIONS:
                content = archive.extractfile(info)
                assert content is not None
                yield Sample(f"{path.stem}-{split[0]}", path.name, {split[1]: content.read()})


def inverted_photographs(samples: Sequence[Sample], steps: int, device: torch.device) -> list[Record]:
    """Return the records of photographs inverted in the demo's generator, which `Invert` has packed by default."""
    return _inverted(_stage(Packing(), steps=steps, start=Mean()), samples, device)


def _stage(packing: Packing, steps: int, start: Learnt | Mean) -> Invert:
    return Invert(
        generator=GeneratorSource(checkpoint=ASSETS / "generator.safetensors"),
        perceptual=PerceptualSource(backbone="small", weights=ASSETS / "perceptual.safetensors"),
        objective=Objective(lambda_lpips=0.2, lambda_variation=1e-4, lambda_delta=1.0, shrinkage=1e-3),
        schedule=Schedule(steps=steps, learning_rate=0.1),
        start=start,
        bundles=packing,
    )


def _inverted(stage: Invert, samples: Sequence[Sample], device: torch.device) -> list[Record]:
    """Return the records of images with stripes of all spaces; raise if one has none."""
    viewer = stage.viewer(device)
    side, spaces = viewer.generator.resolution, len(viewer.spaces)
    stripes_HW = np.repeat((np.arange(side) * spaces // side).astype(np.uint8)[None], side, axis=0)
    refined = {REFINED: Record("", {}, {"assignment_HW": stripes_HW})}
    records = list(stage.setup(device)([replace(sample, records=refined) for sample in samples]))
    assert all(isinstance(record, Record) for record in records), records
    return [record for record in records if isinstance(record, Record)]


def large_case(images: int, device: torch.device) -> Case:
    """Return random codes of a config-f generator of 512 px with random weights, and noisy pictures of them."""
    torch.manual_seed(SEED)
    config = StyleGAN2Config(z_dim=512, w_dim=512, img_resolution=512)
    generator = StyleGAN2(config).freeze().to(device)
    perceptual = load_perceptual("small", weights=ASSETS / "perceptual.safetensors", device=device)
    viewer = Viewer(generator, perceptual, Region.whole(512), tuple(SHARES))
    codes = [_random_codes(generator, number) for number in range(images)]
    return Case("config-f, 512 px, random weights", viewer, codes, [_noisy(viewer, one) for one in codes], read=images)


def _random_codes(generator: Generator, seed: int) -> Codes:
    drawn = torch.Generator().manual_seed(SEED + seed)
    side, spaces = generator.resolution, tuple(SHARES)
    edges = np.round(np.cumsum(list(SHARES.values())) * side).astype(int)
    assignment_1HW = torch.from_numpy(np.searchsorted(edges, np.arange(side), side="right"))[None, None, :]
    masks = masks_of(assignment_1HW.expand(1, side, side), spaces, generator.feature_shapes)
    device = next(generator.parameters()).device
    w_plus = generator.map(torch.randn(1, generator.z_dim, generator=drawn).to(device))
    deltas = {}
    for space in masks:
        channels, height, width = generator.feature_shape(space)
        scale_C11 = torch.exp(0.7 * torch.randn(channels, 1, 1, generator=drawn))
        uniform = torch.rand(channels, height, width, generator=drawn) - 0.5
        laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.49999))
        deltas[space] = (0.3 * scale_C11 * laplace)[None].to(device)
    return Codes(w_plus, deltas, {space: mask.half().float().to(device) for space, mask in masks.items()})


def _noisy(viewer: Viewer, codes: Codes) -> Tensor:
    picture = viewer.picture(codes)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(SEED)).to(picture.device)
    return (picture + 2 * 10 ** (-23 / 20) * noise).clamp(-1, 1)
