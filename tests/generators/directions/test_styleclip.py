"""Directions by text, end to end with a tiny random CLIP model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from generators import DirectionError
from generators.directions import StyleClip, StyleClipImage
from generators.directions.clip import Clip, ClipModel
from generators.directions.ganspace import components_of
from generators.directions.sampling import random_w, seeded_w
from generators.directions.styleclip import DRAWS, gain, mean_gradient, text_direction
from tests.generators.published import tiny
from tests.generators.tiny_clip import SIDE_PX, write_clip

transformers = pytest.importorskip("transformers")

TEXTS = {"neutral": "a car", "target": "a red sports car"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return ClipModel(folder=folder).load("cpu")


def generator():
    return tiny(32, z_dim=8, w_dim=8, channel_max=8)


def test_embeddings_are_those_of_transformers(folder: Path, clip: Clip):
    model = transformers.CLIPModel.from_pretrained(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        ["a car", "a red sports car"], padding=True, return_tensors="pt"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
    seen = transformers.AutoImageProcessor.from_pretrained(folder)(images=Image.fromarray(pixels), return_tensors="pt")
    with torch.no_grad():
        wanted = model(**tokens, pixel_values=seen["pixel_values"])
        found = clip.images(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
    torch.testing.assert_close(found, wanted.image_embeds, rtol=1e-3, atol=1e-4)
    for i, text in enumerate(("a car", "a red sports car")):
        torch.testing.assert_close(clip.text([text]), wanted.text_embeds[i], rtol=1e-3, atol=1e-4)


def test_a_text_direction_is_the_unit_difference_of_its_texts(clip: Clip):
    found = text_direction(clip, "a car", "a red sports car", ["{}"])
    difference = clip.text(["a red sports car"]) - clip.text(["a car"])
    torch.testing.assert_close(found, difference / difference.norm())
    with pytest.raises(DirectionError, match="does not distinguish 'a car' from 'a car'"):
        text_direction(clip, "a car", "a car", ["{}"])


def test_the_mean_gradient_is_the_slope_of_finite_differences(clip: Clip):
    g = generator()
    w_plus = torch.cat(list(seeded_w(g, range(3))))
    towards = text_direction(clip, *TEXTS.values(), ["{}"])
    gradient = mean_gradient(g, clip, w_plus, towards)
    step = 1e-2 * gradient / gradient.norm()
    both_ways = gain(g, clip, w_plus, step, towards) - gain(g, clip, w_plus, -step, towards)
    assert both_ways / 2 == pytest.approx(1e-2 * float(gradient.norm()), rel=0.05)


def test_a_global_direction_moves_held_out_samples_towards_the_text(folder: Path, clip: Clip):
    g = generator()
    (found,) = StyleClip(clip=ClipModel(folder=folder), **TEXTS, samples=30).fit(g)
    assert (found.name, found.delta.shape, found.delta.dtype) == ("a red sports car", (g.num_ws, 8), torch.float32)
    assert found.provenance.figures["gain"] > 0
    assert len(found.provenance.source_sha256) == 64
    towards = text_direction(clip, *TEXTS.values(), ["{}", "a photo of {}."])
    w_plus = torch.cat(list(seeded_w(g, range(1000, 1020))))
    reached = gain(g, clip, w_plus, found.delta, towards)
    random = torch.Generator().manual_seed(0)
    others = []
    for _ in range(20):
        other = torch.randn(found.delta.shape, generator=random)
        others.append(gain(g, clip, w_plus, other * found.delta.norm() / other.norm(), towards))
    assert reached > max(others)


def test_its_length_is_one_standard_deviation_over_the_rows_that_change(folder: Path):
    g = generator()
    (found,) = StyleClip(clip=ClipModel(folder=folder), **TEXTS, samples=4, keep=0, layers=(2, 5)).fit(g)
    components = components_of(random_w(g, DRAWS, 0), 8)
    coordinates = found.delta.double() @ components.axes.T / components.stdev
    assert coordinates[[0, 1, 6, 7]].abs().max() == 0
    assert float(coordinates[2:6].square().sum(dim=1).mean()) == pytest.approx(1, rel=1e-3)


def test_channels_of_little_relevance_do_not_change(folder: Path):
    g = generator()
    components = components_of(random_w(g, DRAWS, 0), 8)
    changed = []
    for keep in (0.0, 0.5, 0.99):
        (found,) = StyleClip(clip=ClipModel(folder=folder), **TEXTS, samples=4, keep=keep).fit(g)
        coordinates = found.delta.double() @ components.axes.T / components.stdev
        changed.append(int((coordinates.abs() > 1e-4).sum()))
    assert changed[0] > changed[1] > changed[2] == 1


def test_an_image_is_edited_towards_a_text(folder: Path, clip: Clip):
    g = generator()
    settings = {"clip": ClipModel(folder=folder), "target": "a red sports car", "steps": 20}
    (found,) = StyleClipImage(**settings, image_seed=3, l2=0.0).fit(g)
    (w_plus,) = seeded_w(g, [3])
    text = clip.text(["a red sports car"])
    before, after = clip.images(g.synthesize(torch.cat([w_plus, w_plus + found.delta]))) @ text
    assert after > before + 0.05
    assert found.provenance.figures["similarity"] == pytest.approx(float(after), abs=1e-4)
    assert found.provenance.unit == "the whole edit"
    (short,) = StyleClipImage(**settings, image_seed=3, l2=1.0, layers=(0, 1)).fit(g)
    assert short.delta[2:].abs().max() == 0
    assert 0 < short.delta.norm() < found.delta.norm()
    (again,) = StyleClipImage(**settings, image_key="car", l2=0.0).fit(g, lambda _keys: {"car": w_plus[0]})
    torch.testing.assert_close(again.delta, found.delta)


def test_an_image_that_is_not_there_is_refused(folder: Path):
    source = StyleClipImage(clip=ClipModel(folder=folder), target="a car", image_key="car-1", steps=1)
    with pytest.raises(DirectionError, match="the codes of image 'car-1' are unknown: no store is given"):
        source.fit(generator())
    with pytest.raises(DirectionError, match="it was not inverted, or is quarantined"):
        source.fit(generator(), lambda _keys: {})
    with pytest.raises(DirectionError, match=r"has codes \[4, 5\], and the generator's are \[8, 8\]"):
        source.fit(generator(), lambda keys: {key: torch.ones(4, 5) for key in keys})
    with pytest.raises(ValidationError, match="give its image_seed or its image_key"):
        StyleClipImage(clip=ClipModel(folder=folder), target="a car")


def test_a_folder_that_holds_no_clip_model_is_one_error(tmp_path: Path, folder: Path):
    with pytest.raises(DirectionError, match=r"has no config\.json: give a folder of save_pretrained"):
        ClipModel(folder=tmp_path).check()
    for path in folder.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[:-40] if path.suffix == ".safetensors" else data)
    with pytest.raises(DirectionError, match=r"cannot be loaded .*; check the folder"):
        ClipModel(folder=tmp_path).load("cpu")


def test_a_model_of_the_hub_needs_its_commit_and_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValidationError, match="OWNER/NAME of the hub with the commit"):
        ClipModel(hub="someone/clip")
    with pytest.raises(
        DirectionError, match=r"someone/clip@a+ cannot be loaded .*allow it to be fetched with download"
    ):
        ClipModel(hub="someone/clip", revision="a" * 40).load("cpu")
