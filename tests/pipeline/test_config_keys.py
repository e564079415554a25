"""Every key of the configuration is printed, with its default and what it means."""

import pytest
import yaml
from pydantic import BaseModel

from pipeline.config import RunConfig, Section
from pipeline.config_keys import Key, keys_of, meaning_of, nearest

KEYS = list(keys_of(RunConfig))


def paths(values, prefix=""):
    """Yield the paths of all values of a configuration."""
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}.")


def test_every_key_has_a_meaning():
    assert [key.path for key in KEYS if not key.meaning] == []


def test_every_setting_is_a_key():
    config = RunConfig(input="in", output="out", folder="folder", generator={"checkpoint": "g"})
    assert set(paths(config.model_dump(mode="json"))) <= {key.path for key in KEYS}


OTHER = ("invert.method.pivot.", "invert.method.tuning.")  # sections of another method than the default one


def test_defaults_are_those_that_a_configuration_gets():
    config = RunConfig(input="in", output="out", folder="folder", generator={"checkpoint": "g"})
    shown = {key.path: key.default for key in KEYS if key.kind in (None, "superpixels", "mean", "optimise")}
    for path, default in shown.items():
        if default in (None, "required") or path.startswith(
            ("region.", "label.", "edit.", "train_encoder.", "evaluate.", "refine_maps.class_map.", *OTHER)
        ):
            continue
        value = config
        for part in path.split("."):
            value = getattr(value, part)
        if isinstance(value, BaseModel):
            value = value.model_dump(include={"kind"})
        kinds = {str: str, float: float, tuple: lambda text: tuple(yaml.safe_load(text))}
        assert kinds.get(type(value), yaml.safe_load)(default) == value, path


class Inner(Section):
    """What is inside."""

    size: int = 3  # in pixels


class Outer(Section):
    """What is outside."""

    name: str
    """What it is called,
    in two lines."""
    inner: Inner = Inner(size=5)
    other: Inner | None = None  # if there is one


def test_meanings_are_what_stands_next_to_the_fields():
    assert list(keys_of(Outer)) == [
        Key("name", "required", "What it is called, in two lines."),
        Key("inner", None, "What is inside"),
        Key("inner.size", "5", "in pixels"),
        Key("other", "null", "if there is one"),
        Key("other.size", "3", "in pixels"),
    ]
    assert meaning_of(Outer, "nothing") == ""


@pytest.mark.parametrize(
    ("unknown", "meant"), [("size", ["inner.size", "other.size"]), ("inner.siz", ["inner.size"]), ("q", [])]
)
def test_the_nearest_key_is_found_wherever_it_is(unknown, meant):
    assert nearest(Outer, unknown) == meant


def test_the_command_prints_them_all(invertmill):
    code, output, errors = invertmill("config")
    assert (code, errors) == (0, "")
    assert "refine_maps.threshold: 0.225  # tau, in LPIPS" in output
    assert len(output.splitlines()) == len(KEYS)
