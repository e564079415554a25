"""Writes the demo's input: shards of scenes, some of them occluded.

    python -m pipeline.demo.write_shards demo-run/shards

Each sample holds the picture, its exact segment labels, the occluder's mask and a description. Shards of supervision
show only the occluders that a segmenter may learn from; held-out shards only others.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from infra.shards import write_shard
from pipeline.demo.occluders import SEEN, UNSEEN, Occluded, paste_occluder
from pipeline.demo.scenes import Z_DIM, draw_scenes

SHARDS = {"supervision-000000": (20, SEEN), "supervision-000001": (20, SEEN), "held-out-000000": (24, UNSEEN)}
CLEAN_EVERY = 3
"""One scene in so many shows no occluder."""


def demo_samples(name: str, count: int, kinds: Mapping[str, Any], seed: int = 0) -> Iterator[dict[str, bytes | str]]:
    """Yield the samples of one shard in webdataset's form."""
    random = np.random.default_rng([seed, *name.encode()])
    z = torch.from_numpy(random.standard_normal((count, Z_DIM), dtype=np.float32))
    scenes = draw_scenes(z)
    pictures = ((scenes.image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    names = list(kinds)
    for i in range(count):
        labels = scenes.labels[i].numpy().astype(np.uint8)
        kind = None if i % CLEAN_EVERY == 0 else names[(i - i // CLEAN_EVERY - 1) % len(names)]
        scene = Occluded(pictures[i], labels, np.zeros(labels.shape, bool))
        if kind is not None:
            scene = paste_occluder(pictures[i], labels, kind, random)
        yield {
            "__key__": f"{name}-{i:04d}",
            "png": _png(scene.image),
            "seg.png": _png(scene.labels),
            "occluder.png": _png(scene.mask.astype(np.uint8) * 255),
            "json": json.dumps({"occluder": kind, "z": [round(float(v), 6) for v in z[i]]}),
        }


def write_demo_shards(folder: Path) -> None:
    """Write the demo's shards into a folder; one that is there already is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (count, kinds) in SHARDS.items():
        path = folder / f"{name}.tar"
        if not path.exists():
            write_shard(path, demo_samples(name, count, kinds))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


def main() -> None:
    """Write the shards from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write_demo_shards(parser.parse_args().folder)


if __name__ == "__main__":
    main()
