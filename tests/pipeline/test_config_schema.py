"""The JSON schema that `invertmill schema` prints: editors complete and check a run's YAML file with it."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline.config import RunConfig
from pipeline.config_keys import keys_of
from pipeline.config_schema import schema_of
from tests import tiny

ROOT = Path(__file__).parents[2]
SCHEMA = schema_of(RunConfig)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def errors_in(settings) -> list[str]:
    """Return where settings break the schema."""
    return [error.json_path for error in VALIDATOR.iter_errors(settings)]


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_demo_follows_it():
    assert errors_in(yaml.safe_load((ROOT / "demo.yaml").read_text())) == []


def test_a_configuration_of_the_tests_follows_it(tmp_path):
    networks = {name: tmp_path / name for name in ("generator", "perceptual")}
    assert errors_in(yaml.safe_load(tiny.config(tmp_path, networks).read_text())) == []


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"refine_maps": {"treshold": 0.3}}, "$.refine_maps"),
        ({"refine_maps": {"threshold": -1}}, "$.refine_maps.threshold"),
        ({"refine_maps": {"region": None}}, "$.refine_maps"),
        ({"refine_maps": {"segmentation": {"kind": "labels", "segments": 3}}}, "$.refine_maps.segmentation"),
        ({"invert": {"batch": "many"}}, "$.invert.batch"),
        ({"error_maps": {"schedule": {"steps": 0}}}, "$.error_maps.schedule"),
        ({"error_maps": {"schedule": None}}, "$.error_maps.schedule"),
        ({"invert": {"schedule": "theses"}}, "$.invert.schedule"),
        ({"outptu": "store"}, "$"),
    ],
)
def test_what_a_run_would_refuse_breaks_it(changes, where: str):
    given = {"input": "in", "output": "out", "folder": "folder", "generator": {"checkpoint": "g"}}
    assert errors_in(given) == []
    assert errors_in(given | changes) == [where]


@pytest.mark.parametrize("schedule", ["thesis", None, {"steps": 50}])
def test_a_schedule_is_its_steps_or_a_name(schedule):
    given = {"input": "in", "output": "out", "folder": "folder", "generator": {"checkpoint": "g"}}
    assert errors_in(given | {"invert": {"schedule": schedule}}) == []


def test_every_key_has_its_description():
    models = [("", SCHEMA), *((f"{name}.", model) for name, model in SCHEMA["$defs"].items())]
    described = {
        f"{prefix}{name}": value.get("description")
        for prefix, model in models
        for name, value in model.get("properties", {}).items()
    }
    assert [name for name, text in described.items() if not text] == []
    leaves = {key.path.rpartition(".")[2] for key in keys_of(RunConfig)}
    assert {name.rpartition(".")[2] for name in described} == leaves


def test_the_command_prints_it_as_it_is(invertmill):
    code, output, errors = invertmill("schema")
    assert (code, errors) == (0, "")
    assert json.loads(output) == json.loads(json.dumps(SCHEMA))
