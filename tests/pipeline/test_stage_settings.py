"""The section of a stage: the fields of its class, without those that a run gives to every stage."""

from typing import ClassVar

import pytest
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import RunConfig
from pipeline.config_keys import Key, keys_of, models_in
from pipeline.plan.graph import GRAPH, Graph
from pipeline.stage_settings import FACTS, Settings, defaults, given, section_of
from stages.base.stage import Stage, Worker
from stages.error_maps import ErrorMaps
from stages.invert import Invert
from stages.maps.region import Region
from stages.refine_maps import RefineMaps
from stages.train_segmenter import TrainSegmenter


class Brighten(Stage):
    """Add light."""

    name: ClassVar[str] = "brighten"
    reads: ClassVar[tuple[str, ...]] = ("invert",)

    region: Region
    amount: float = 0.5  # of light, from 0 to 1

    def setup(self, device: torch.device) -> Worker:
        return lambda samples: iter(())


class WithAnotherStage(RunConfig):
    model_config = ConfigDict(arbitrary_types_allowed=False)

    brighten: Settings[Brighten] | None = None


@pytest.mark.parametrize("stage", GRAPH.stages)
def test_every_field_of_a_stage_is_a_setting_or_given(stage):
    section = section_of(stage)
    assert section.model_fields.keys() | given(stage) == stage.model_fields.keys()
    assert not section.model_fields.keys() & given(stage)


@pytest.mark.parametrize("stage", GRAPH.stages)
def test_a_stage_and_its_section_have_the_same_defaults(stage):
    for name, field in section_of(stage).model_fields.items():
        assert field.is_required() == stage.model_fields[name].is_required(), name
        assert field.get_default(call_default_factory=True) == stage.model_fields[name].get_default(
            call_default_factory=True
        ), name


@pytest.mark.parametrize("stage", [stage for stage in GRAPH.stages if stage.name not in GRAPH.optional])
def test_a_stage_that_every_run_computes_needs_no_settings(stage):
    assert defaults(stage) == section_of(stage)()


@pytest.mark.parametrize("stage", GRAPH.stages)
def test_a_configuration_holds_the_section_of_every_stage(stage):
    assert models_in(RunConfig.model_fields[stage.name].annotation) == [section_of(stage)]


def test_error_maps_have_their_own_number_of_steps_in_stage_and_configuration_alike():
    config = RunConfig(input="in", output="out", folder="folder", generator={"checkpoint": "g"})
    assert config.error_maps.schedule.steps == ErrorMaps.model_fields["schedule"].default.steps == 501
    assert config.invert.schedule.steps == Invert.model_fields["schedule"].default.steps == 1001


def test_a_stage_without_given_fields_is_its_own_section():
    assert section_of(TrainSegmenter) is TrainSegmenter


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0}, {"batch": 0}, {"segmentation": {"kind": "unheard of"}}, {"spaces": ["W+"]}]
)
def test_a_section_refuses_what_its_stage_would_refuse_and_what_is_given(wrong):
    with pytest.raises(ValidationError):
        section_of(RefineMaps)(**wrong)


def test_a_run_gives_every_fact_that_stages_ask_for(committed):
    assert committed.plan().facts.keys() | {"segmenter"} == FACTS


def test_a_stage_is_made_of_its_section_and_what_the_run_gives_it(committed):
    plan = committed.plan("refine_maps.connected_components=true")
    stage = plan.stage(RefineMaps)
    assert (stage.spaces, stage.region) == (plan.spaces, plan.region)
    assert stage.connected_components


def test_one_line_in_the_configuration_adds_a_stage_that_is_off_unless_configured(committed):
    graph = Graph.from_config(WithAnotherStage)
    assert [stage.name for stage in graph.stages][-1] == "brighten"
    assert graph.last is Invert, "what is published stays"
    settings = dict(committed.settings())
    without, configured = (WithAnotherStage.model_construct(**settings, brighten=part) for part in (None, 1))
    assert Brighten not in graph.computed(without)
    assert Brighten in graph.computed(configured)


def test_the_keys_of_a_stage_that_was_added_say_what_they_mean():
    keys = [key for key in keys_of(WithAnotherStage) if key.path.startswith("brighten")]
    assert keys == [Key("brighten", "null", "Add light"), Key("brighten.amount", "0.5", "of light, from 0 to 1")]


def test_a_section_is_a_model_of_its_own():
    assert issubclass(section_of(Brighten), BaseModel)
    assert not issubclass(section_of(Brighten), Stage)
