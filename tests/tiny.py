"""A tiny run: random networks and shards of a few pictures, so that whole runs take seconds."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from generators.checkpoints import save_generator
from infra.shards.shards import write_shard
from stages.perceptual.backbones import SmallBackbone
from stages.perceptual.weights import save_small
from tests.generators.published import tiny

SIDE_PX = 32
SPACES = ("W+", "F2", "F4")


def write_networks(folder: Path) -> dict[str, Path]:
    """Write a random generator of 32 px and a random perceptual backbone; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"generator": folder / "generator.safetensors", "perceptual": folder / "perceptual.safetensors"}
    aligned = {"z_dim": 8, "w_dim": 8, "channel_max": 8}  # else MKL adds rows up in an order of their place
    save_generator(tiny(SIDE_PX, **aligned), paths["generator"], about="random, for tests")
    torch.manual_seed(0)
    save_small(paths["perceptual"], SmallBackbone((4, 8)))
    return paths


def picture(seed: int, height: int = SIDE_PX, width: int = SIDE_PX) -> bytes:
    """Return a PNG with smooth colours, different for each seed."""
    return png(pixels_of(seed, height, width))


def pixels_of(seed: int, height: int = SIDE_PX, width: int = SIDE_PX) -> np.ndarray:
    """Return the pixels of that picture, `[height, width, 3]` uint8."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def png(pixels: np.ndarray) -> bytes:
    """Return pixels as PNG."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


def samples(name: str, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Return samples in webdataset's form, every second with an occluder in its middle."""
    made = []
    for i in range(first, first + count):
        mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        mask[10:20, 10:20] = 255 * (i % 2)
        labels = np.arange(SIDE_PX * SIDE_PX, dtype=np.uint8).reshape(SIDE_PX, SIDE_PX) // 64
        made.append(
            {"__key__": f"{name}-{i:03d}", "png": picture(i), "seg.png": png(labels), "occluder.png": png(mask)}
        )
    return made


def write_shards(folder: Path, counts: dict[str, int]) -> None:
    """Write one shard with this number of samples for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in counts.items():
        write_shard(folder / f"{name}.tar", samples(name, count))


def config(folder: Path, networks: dict[str, Path], **changes: Any) -> Path:
    """Write the configuration of a tiny run in a folder and return its path."""
    fast = {"schedule": {"steps": 4, "learning_rate": 0.1}, "batch": 4}
    settings: dict[str, Any] = {
        "input": "shards/*.tar",
        "output": "store",
        "folder": "out",
        "generator": {"checkpoint": str(networks["generator"])},
        "perceptual": {"backbone": "small", "weights": str(networks["perceptual"])},
        "truth": "occluder.png",
        "unit_samples": 4,
        "supervision": {"shards": "train*", "held_out_shards": "held*"},
        "error_maps": {**fast, "keep_images": True, "objective": {"shrinkage": 0.001}},
        "train_segmenter": {"epochs": 2, "batch": 4},
        "refine_maps": {"segmentation": {"kind": "labels"}},
        "invert": {**fast, "objective": {"shrinkage": 0.001}},
        "compute": {"workers": 2},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def truncated(path: Path, share: float) -> None:
    """Cut a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's content."""
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def broken_samples(name: str, count: int) -> Sequence[dict[str, Any]]:
    """Return samples of which the second is not a picture."""
    made = samples(name, count)
    made[1]["png"] = b"\x89PNG\r\n\x1a\n" + b"rot" * 50
    return made
