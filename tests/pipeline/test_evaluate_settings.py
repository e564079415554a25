"""The section `evaluate`: each method is the run's sections with differences, checked whole."""

from pathlib import Path

import pytest
import yaml

from pipeline.config import load_config
from pipeline.errors import ConfigError
from stages.inversion.starts import Learnt, Mean

ROOT = Path(__file__).parents[2]
BASE = {
    "input": "in",
    "output": "out",
    "folder": "folder",
    "generator": {"checkpoint": "g"},
    "invert": {
        "schedule": {"steps": 50},
        "start": {"kind": "learnt", "samples": 7},
        "objective": {"lambda_lpips": 0.2},
    },
    "refine_maps": {"threshold": 0.1, "segmentation": {"kind": "labels"}},
}


def load(tmp_path, *methods, **changes):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(BASE | changes | {"evaluate": {"methods": list(methods)}}))
    return load_config(path)


def test_a_method_is_the_runs_own_sections_with_its_differences(tmp_path):
    config = load(
        tmp_path,
        {"name": "SAM"},
        {
            "name": "other",
            "invert": {"objective": {"lambda_delta": 0}},
            "refine_maps": {"segmentation": {"kind": "pixels"}},
        },
    )
    same, other = config.evaluate.methods
    assert (same.invert, same.refine_maps) == (config.invert, config.refine_maps)
    assert other.invert.objective.lambda_delta == 0
    assert other.invert.objective.lambda_lpips == 0.2
    assert other.invert.schedule.steps == 50
    assert other.refine_maps.segmentation.kind == "pixels"
    assert other.refine_maps.threshold == 0.1


def test_another_kind_replaces_and_the_same_kind_is_changed(tmp_path):
    config = load(
        tmp_path,
        {"name": "mean", "invert": {"start": {"kind": "mean"}}},
        {"name": "same", "invert": {"start": {"kind": "learnt"}}},
        {"name": "short", "invert": {"start_samples": 9}},
    )
    assert [method.invert.start for method in config.evaluate.methods] == [Mean(), Learnt(samples=7), Learnt(samples=9)]


def test_paths_of_a_method_are_those_of_the_file(tmp_path):
    method = {"kind": "encode", "encoder": {"checkpoint": "e4e.pt"}}
    config = load(tmp_path, {"name": "e4e", "invert": {"method": method, "start": {"kind": "mean"}}})
    assert config.evaluate.methods[0].invert.method.encoder.checkpoint == tmp_path / "e4e.pt"


WRONG = {
    "unknown key": ([{"name": "a", "invert": {"schedul": {}}}], "did you mean"),
    "two of one name": ([{"name": "a"}, {"name": "a"}], "two methods have one name: a"),
    "no methods": ([], "methods"),
    "contradiction": (
        [{"name": "a", "invert": {"method": {"kind": "hybrid", "encoder": {"checkpoint": "e"}}}}],
        "both say where inversions start",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_method_is_refused_before_any_work(tmp_path, name):
    methods, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, *methods)


def test_the_table_of_the_demo_shares_everything_before_inversion_with_the_demo():
    table, demo = (yaml.safe_load((ROOT / name).read_text()) for name in ("demo-table.yaml", "demo.yaml"))
    shared = ("input", "output", "generator", "perceptual", "truth", "unit_samples", "supervision", "error_maps")
    for name in (*shared, "train_segmenter", "refine_maps"):
        assert table[name] == demo[name], name
