"""The benchmark of cheaper supervision: variants differ in nothing but their settings, and are judged alike."""

import json

import numpy as np
import pytest

from benchmarks import cheap_supervision
from benchmarks.harness import demo_supervision as demo
from benchmarks.harness.edited_scenes import DEMO
from pipeline.config import load_config


def test_the_figures_of_a_variant_are_written(tmp_path):
    name = next(iter(cheap_supervision.VARIANTS))
    assert cheap_supervision.main(["--quick", "--json", str(tmp_path / "figures.json"), "--only", name]) == 0
    report = json.loads((tmp_path / "figures.json").read_text())
    found = report[name]
    assert found["scenes"] == 6
    assert found["error_maps_s"] > 0
    assert found["training_s"] > 0
    assert 0 <= found["auroc"] <= 1
    for reference in ("reference", "converged"):
        assert list(found[reference]["correlation"]) == list(demo.SPACES)
        assert all(value >= 0 for value in found[reference]["calibration"].values())
    assert found["sam"]["psnr_db_occluded"] > 0


@pytest.mark.parametrize("variant", cheap_supervision.VARIANTS.values(), ids=cheap_supervision.VARIANTS)
def test_every_variant_is_a_configuration_of_the_demo(variant):
    load_config(DEMO, variant.settings)


def test_perfect_maps_agree_with_what_was_achieved():
    scenes = demo.scenes_of("held-out", 3)
    random = np.random.default_rng(0)
    maps = {scene.key: random.random((4, 64, 64), np.float32) for scene in scenes}
    found = demo.quality(maps, maps, scenes)
    assert found.correlation_per_segment == dict.fromkeys(demo.SPACES, pytest.approx(1))
    assert demo.calibration_error(found) == dict.fromkeys(demo.SPACES, 0)


def test_examples_keep_the_scenes_of_a_unit_together():
    scenes = demo.scenes_of("supervision", 3)
    maps = {scene.key: np.full((4, 64, 64), 0.1, np.float32) for scene in scenes}
    examples = demo.Examples(scenes, maps, in_a_unit=4)
    assert [len(examples.read(unit, lambda _key: True)) for unit in examples.units] == [4, 2]
    assert [one.key for one in examples.read("0", scenes[1].key.__eq__)] == [scenes[1].key]


def test_the_auroc_of_the_occluders_own_masks_is_one():
    scenes = demo.scenes_of("held-out", 3)
    maps = {scene.key: np.stack([demo.occluder_of(scene)] * 4).astype(np.float32) for scene in scenes}
    assert demo.auroc_of(maps, scenes) == 1
