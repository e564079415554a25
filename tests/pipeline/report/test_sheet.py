"""`invertmill view`: one image on a sheet."""

import numpy as np
from PIL import Image

from pipeline.report.sheet import sheet
from pipeline.report.summary import Picture

SPACES = ("W+", "F4")


def picture(**changes) -> Picture:
    random = np.random.default_rng(0)
    values = {
        "key": "000123",
        "shard": "a.tar",
        "role": None,
        "image_HW3": np.full((32, 48, 3), 255, np.uint8),
        "predicted_LHW": random.uniform(0, 0.5, (2, 32, 48)).astype(np.float32),
        "assignment_HW": np.zeros((32, 48), np.uint8),
        "sam_HW3": np.zeros((32, 48, 3), np.uint8),
        "error_HW": np.zeros((32, 48), np.float32),
        "psnr_db": 20.0,
        "lpips": 0.1,
    }
    return Picture(**(values | changes))


def test_a_sheet_has_input_maps_assignment_reconstruction_and_error(tmp_path):
    path = tmp_path / "sheet.png"
    path.write_bytes(sheet(picture(), SPACES))
    pixels = np.asarray(Image.open(path).convert("RGB"))
    tile, gap = 192, 8
    assert pixels.shape[1] == gap + (tile + gap) * 6
    middle = pixels[pixels.shape[0] - 60]
    columns = [middle[gap + (tile + gap) * i + tile // 2] for i in range(6)]
    assert columns[0].tolist() == [255, 255, 255]
    assert columns[4].tolist() == [0, 0, 0]
    assert columns[3].tolist() != columns[5].tolist()


def test_the_command_writes_the_sheet_of_a_key_and_names_an_unknown_one(committed, invertmill, tmp_path):
    out = tmp_path / "sheet.png"
    code, output, _ = invertmill("view", committed.folder / "run.yaml", "held-b-001", "--out", out)
    assert (code, output.strip()) == (0, f"wrote {out}")
    with Image.open(out) as shown:
        assert shown.size[0] > 6 * 192
    code, _, errors = invertmill("view", committed.folder / "run.yaml", "nobody")
    assert code == 2
    assert "the published index has no key 'nobody'" in errors
