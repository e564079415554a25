"""Write the demo's input: shards of scenes, some of them occluded.

    python -m pipeline.demo.write_shards demo-run/shards

Each sample holds the picture, its exact segment labels, the occluder's mask and a description. Shards of supervision
contain only the occluders that a segmenter may learn from; held-out shards only the others. Held-out samples also hold
their true edits (`pipeline.demo.edits`).
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHARDS = {"supervision-000000": 20, "supervision-000001": 20, "held-out-000000": 24}
"""Number of scenes per shard."""
CLEAN_EVERY = 3
"""One scene in this number has no occluder."""


def demo_samples(
    name: str, count: int, kinds: Mapping[str, Any], seed: int = 0, *, edits: bool = False
) -> Iterator[dict[str, bytes | str]]:
    """Yield the samples of one shard in webdataset's form; with `edits`, each with its true edits."""
    import torch  # takes seconds, and shards are written once

    from pipeline.demo.edits import pixels, true_edits
    from pipeline.demo.occluders import Occluded, paste_occluder
    from pipeline.demo.scenes import Z_DIM, draw_scenes

    random = np.random.default_rng([seed, *name.encode()])
    z = torch.from_numpy(random.standard_normal((count, Z_DIM), dtype=np.float32))
    scenes = draw_scenes(z)
    pictures = pixels(scenes)
    names = list(kinds)
    for i in range(count):
        labels = scenes.labels[i].numpy().astype(np.uint8)
        kind = None if i % CLEAN_EVERY == 0 else names[(i - i // CLEAN_EVERY - 1) % len(names)]
        scene = Occluded(pictures[i], labels, np.zeros(labels.shape, bool))
        if kind is not None:
            scene = paste_occluder(pictures[i], labels, kind, random)
        sample: dict[str, bytes | str] = {
            "__key__": f"{name}-{i:04d}",
            "png": _png(scene.image),
            "seg.png": _png(scene.labels),
            "occluder.png": _png(scene.mask.astype(np.uint8) * 255),
            "json": json.dumps({"occluder": kind, "z": [round(float(v), 6) for v in z[i]]}),
        }
        yield sample | ({"edits.npz": true_edits(z[i], scene)} if edits else {})


def write_demo_shards(folder: Path) -> None:
    """Write the demo's shards into a folder; existing ones stay unchanged."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in SHARDS if not (folder / f"{name}.tar").exists()]
    if not missing:
        return
    from infra.shards.shards import write_shard
    from pipeline.demo.occluders import SEEN, UNSEEN

    for name in missing:
        held_out = name.startswith("held-out")
        samples = demo_samples(name, SHARDS[name], UNSEEN if held_out else SEEN, edits=held_out)
        write_shard(folder / f"{name}.tar", samples)


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
