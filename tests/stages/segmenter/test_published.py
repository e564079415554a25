"""The segmenter that the method's authors published loads as a segmenter and predicts what theirs predicted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.base.errors import WeightsError
from stages.segmenter.deeplab_v3_plus import DeepLabV3Plus
from stages.segmenter.network import SegmenterNetwork, load_segmenter, new_segmenter, save_segmenter
from tests.generators.archives import archive_of
from tests.generators.hostile import HOSTILE, text
from tests.recipe import segmenter_tensor

PUBLISHED = SegmenterNetwork(backbone="deeplabv3_plus_resnet101")
SPACES = ("W+", "F4", "F6", "F8", "F10")
KEYS = "golden/keys/sam_invertibility_deeplab_resnet101_os16_nc8.json"
COUNTER = "num_batches_tracked"


def picture(height: int = 48, width: int = 64) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def head(widths: dict[str, tuple[int, ...]], space: str) -> dict[str, Tensor]:
    """Return a head by the golden's recipe, whose last bias is positive."""
    tensors = {name: drawn(f"head.{space}.{name}", shape) for name, shape in widths.items()}
    return tensors | {"m.3.bias": tensors["m.3.bias"].abs() + 0.2}


def drawn(key: str, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64) if key.endswith(COUNTER) else segmenter_tensor(key, shape)


@pytest.fixture(scope="module")
def golden_file(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = json.loads((shared / KEYS).read_text())
    content: dict[str, Any] = {"sd_base": {key: drawn(key, tuple(shape)) for key, shape in keys["sd_base"].items()}}
    widths = {key: tuple(shape) for key, shape in keys["layer_head"].items()}
    content |= {space: head(widths, space) for space in reversed(SPACES)}
    path: Path = tmp_path_factory.mktemp("published") / "segmenter.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("size", ["B2_64x64", "B1_96x128"])
def test_the_published_segmenter_predicts_what_it_predicted(shared: Path, golden_file: Path, size: str):
    golden = np.load(shared / "golden/2_sam/invertibility_recipe_outputs.npz")
    segmenter = load_segmenter(golden_file)
    assert segmenter.spaces == SPACES
    with torch.no_grad():
        error_NLHW = segmenter(torch.from_numpy(golden[f"in_u8_{size}"]) / 127.5 - 1).numpy()
        features = segmenter.backbone(torch.from_numpy(golden[f"in_u8_{size}"])[:1] / 127.5 - 1).numpy()
    base = golden[f"base_{size}"]
    assert np.abs(features - base).max() / np.abs(base).max() < 1e-3
    for i, space in enumerate(SPACES):
        reference = golden[f"{space}_{size}"][:, 0]
        assert np.abs(error_NLHW[:, i] - reference).max() / np.abs(reference).max() < 1e-3


def test_the_backbone_has_exactly_the_tensors_of_the_published_one(shared: Path):
    with torch.device("meta"):
        network = DeepLabV3Plus(8)
    published = json.loads((shared / KEYS).read_text())["sd_base"]
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == published


def test_a_published_segmenter_is_saved_as_one_of_ours(tmp_path: Path):
    made = new_segmenter(PUBLISHED, SPACES[:2], seed=1).eval()
    heads = {name.removeprefix("heads."): tensor for name, tensor in made.state_dict().items() if "heads." in name}
    content: dict[str, Any] = {"sd_base": made.backbone.state_dict()}
    for i, space in enumerate(SPACES[:2]):
        each = {f"m.{name}": tensor.chunk(2)[i] for name, tensor in heads.items() if tensor.ndim}
        turned = {name: t.transpose(0, 1).flip(2, 3) if t.ndim == 4 else t for name, t in each.items()}
        content[space] = {name: tensor.contiguous() for name, tensor in turned.items()}
    torch.save(content, tmp_path / "published.pt")
    published = load_segmenter(tmp_path / "published.pt")
    (tmp_path / "ours.safetensors").write_bytes(save_segmenter(published, "a test"))
    with torch.no_grad():
        torch.testing.assert_close(published(picture()), made(picture()))
        torch.testing.assert_close(load_segmenter(tmp_path / "ours.safetensors")(picture()), made(picture()))


def small(**changes: Any) -> dict[str, Any]:
    """Return the smallest content that looks like a segmenter."""
    content = {"sd_base": {"decoder.last_conv.8.weight": torch.zeros(8, 256, 1, 1)}, "W+": {"m.3.bias": torch.zeros(1)}}
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


WRONG = {
    "of training": (small(sd_base=None), "without 'sd_base'"),
    "without heads": ({"sd_base": small()["sd_base"]}, "no head"),
    "another network": (small(sd_base={"x": torch.zeros(1)}), "not a DeepLabV3"),
    "of missing tensors": (small(), "does not fit a segmenter as published"),
    "of odd features": (small(sd_base={"decoder.last_conv.8.weight": torch.zeros(7, 256, 1, 1)}), "odd number"),
    "of heads that differ": (small(F4={"m.0.bias": torch.zeros(4)}), "segmenter's head F4"),
    "of NaN": (small(sd_base={"x": torch.full((2,), torch.nan)}), "sd_base.x' with 2 of 2"),
    "of integers": (small(sd_base={"x": torch.zeros(2, dtype=torch.int64)}), "int64"),
    "of a list": (small(sd_base=[1]), "sd_base is a list"),
    "of a tensor": (torch.zeros(2), "a StoredTensor"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_torch_file_that_is_not_such_a_segmenter_is_refused(tmp_path: Path, name: str):
    content, message = WRONG[name]
    torch.save(content, tmp_path / "segmenter.pt")
    with pytest.raises(WeightsError, match=rf"segmenter\.pt .*{message}"):
        load_segmenter(tmp_path / "segmenter.pt")


@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_in_such_a_file_is_executed(tmp_path: Path, attack: str):
    sentinel = tmp_path / "sentinel"
    hostile = b"\x80\x02}" + text("sd_base") + HOSTILE[attack](str(sentinel)) + b"s."
    (tmp_path / "segmenter.pt").write_bytes(archive_of({"archive/data.pkl": hostile}))
    with pytest.raises(WeightsError):
        load_segmenter(tmp_path / "segmenter.pt")
    assert not sentinel.exists()
