"""A study's settings: one YAML file, validated whole."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from pipeline.config import RunConfig, Section, Share, load_config
from pipeline.errors import ConfigError

Task = Literal["inversion", "edits"]
Pair = tuple[str, str]

QUESTIONS: dict[Task, str] = {
    "inversion": "Which of the two pictures is the better, more realistic copy of the photograph?",
    "edits": "The photograph was edited as stated. Which of the two results looks more realistic?",
}


class Method(Section):
    """One of the methods compared: the results of a run, committed before."""

    config: Path | None = None  # configuration of its run; None is the study's `config`
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings to override, by key, as {invert.method: {kind: optimise, spaces: W+}}."""
    evaluated: str | None = None
    """Name of a method in the section `evaluate` of the configuration, whose images `invertmill evaluate` inverted."""


class Attention(Section):
    """Tasks with a known answer, by which inattentive annotators are found; numbers are per form."""

    degraded: NonNegativeInt = 2  # the photograph itself against a heavily degraded copy of it
    repeated: NonNegativeInt = 2  # comparisons of the form shown again, with their sides swapped
    wrong: NonNegativeInt = 0  # largest number of wrong answers to the former
    inconsistent: Share = 0.5  # largest share of the latter that are answered differently


class Study(Section):
    """Everything that a study depends on."""

    config: Path  # configuration of the run whose images are judged
    task: Task = "inversion"  # what is judged: reconstructions, or edited images
    methods: Annotated[dict[str, Method], Field(min_length=2)]  # by name; each overrides settings of `config`
    against: str | None = None  # method that is compared with each other one; None compares all pairs
    edits: tuple[str, ...] = ()  # of a study of edits: names with magnitude, as age.2; empty takes all configured
    images: PositiveInt = 500  # number of images, chosen by hash, held-out ones first
    annotators: PositiveInt = 3  # different annotators who judge each pair
    comparisons: PositiveInt = 50  # largest number on one page, without attention checks
    attention: Attention = Attention()
    question: str | None = None  # None is the usual one of the task
    seed: NonNegativeInt = 0  # of order, sides, and the choice of repeated pairs

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if self.against is not None and self.against not in self.methods:
            raise ValueError(f"against is {self.against!r}, and the methods are {', '.join(self.methods)}")
        if self.edits and self.task != "edits":
            raise ValueError("edits are chosen, and task is inversion: set task: edits, or remove edits")
        return self

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of methods that are compared."""
        if self.against is None:
            return list(itertools.combinations(self.methods, 2))
        return [(self.against, other) for other in self.methods if other != self.against]

    @property
    def asked(self) -> str:
        """The question."""
        return self.question or QUESTIONS[self.task]


def load_study(path: Path) -> Study:
    """Return the settings in a YAML file; relative paths are the file's.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is invalid; the message gives both.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the study {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "\n".join(_explained(one) for one in error.errors())) from error
    folder = path.resolve().parent
    methods = {
        name: method.model_copy(update={"config": method.config and folder / method.config})
        for name, method in study.methods.items()
    }
    return study.model_copy(update={"config": folder / study.config, "methods": methods})


def config_of(study: Study, name: str) -> RunConfig:
    """Return the configuration of a method's run."""
    method = study.methods[name]
    try:
        return load_config(
            method.config or study.config, [f"{key}={json.dumps(value)}" for key, value in method.set.items()]
        )
    except ConfigError as error:
        raise ConfigError(f"methods.{name}: {error}") from error


def _explained(error: Any) -> str:  # noqa: ANN401  # pydantic's description of an error
    where = ".".join(map(str, error["loc"])) or "the study"
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}: the keys of a study are {', '.join(Study.model_fields)}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where}: {error['msg']}, got {error['input']!r}"
