"""`.pt`: w_plus of all images as one tensor `[N, num_ws, w_dim]` float32, as e4e writes its latents and others read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from infra.files import partial_file, publish
from pipeline.export.format import Format
from pipeline.export.npy import write_npy, write_table
from pipeline.export.published import PublishedCodes


def _write(codes: PublishedCodes, target: Path) -> str:
    with partial_file(target.with_suffix(".npy")) as array, partial_file(target) as partial:
        write_npy(codes, array)
        torch.save(torch.from_numpy(np.load(array, mmap_mode="r+")), partial)  # its pages come from the file
        table = write_table(codes, target)
        publish(partial, target)
    return f"w_plus of {codes.images} images {[codes.images, *codes.shape]} in {target}, their keys in {table}"


FORMAT = Format("latents.pt", _write, "e4e, StyleCLIP and ReStyle")
