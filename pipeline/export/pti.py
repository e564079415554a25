"""`pti`: a folder `KEY/0.pt` per image, each w_plus `[1, num_ws, w_dim]` float32, as PTI keeps its pivots."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from infra.files import staged
from pipeline.errors import CommandError
from pipeline.export.format import Format
from pipeline.export.published import PublishedCodes


def _write(codes: PublishedCodes, target: Path) -> str:
    count = Counter(image.key for image in codes)
    for image in codes:
        name = image.key if count[image.key] == 1 else f"{image.shard}/{image.key}"
        path = target / name / "0.pt"
        if not path.resolve().is_relative_to(target.resolve()):
            raise CommandError(f"the key {image.key!r} leads out of the folder {target}: rename the sample")
        with staged(path) as partial:
            torch.save(torch.from_numpy(image.w_plus)[None], partial)
    return f"w_plus of {codes.images} images {[1, *codes.shape]} as {target}/KEY/0.pt"


FORMAT = Format("pivots", _write, "PTI")
