"""The README's example of reading a result runs unchanged on its own store."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.maps.region import Region, fit, psnr_db
from tests import tiny
from tests.pipeline.publish.test_index import rows

ROOT = Path(__file__).parents[2]
KEEP = """
import numpy as np
np.save("image.npy", images[2:3].numpy())
print(batch.keys[2])
"""


@pytest.fixture
def example() -> str:
    text = (ROOT / "README.md").read_text()
    return re.search("## What you get\n.*?```python\n(.*?)```", text, re.DOTALL)[1]


def test_the_example_ends_with_the_images_of_its_batch(committed, example):
    folder = committed.folder
    for link, target in {
        "demo-run/store": folder / "store",
        "pipeline/demo/assets/generator.safetensors": folder / "networks/generator.safetensors",
    }.items():
        (folder / link).parent.mkdir(parents=True, exist_ok=True)
        (folder / link).symlink_to(target)
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[0] = {str(ROOT)!r}\n{example}{KEEP}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (row,) = [row for row in rows(committed) if row["key"] == ran.stdout.strip()]
    image_1CHW = torch.from_numpy(np.load(folder / "image.npy"))
    number = int(row["key"].rpartition("-")[2])
    with Image.open(io.BytesIO(tiny.picture(number))) as photograph:
        target_1CHW = fit(np.asarray(photograph.convert("RGB")), Region.whole(tiny.SIDE_PX))[None]
    assert float(psnr_db(image_1CHW.clamp(-1, 1), target_1CHW)) == pytest.approx(row["invert.psnr_db"], abs=1e-3)
