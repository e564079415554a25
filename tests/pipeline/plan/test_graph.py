"""The table of stages: what each reads decides their order, what they are given, and what is published."""

from typing import ClassVar

import pytest
import torch

from pipeline.config import RunConfig
from pipeline.plan.graph import GRAPH, Graph
from stages.base.stage import GraphStage, Stage, Worker
from stages.error_maps import ErrorMaps
from stages.invert import Invert
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from stages.trade_off import TradeOff
from stages.train_segmenter import TrainSegmenter

CONFIG = RunConfig(input="in", output="out", folder="folder", generator={"checkpoint": "g"})


class Mapping(Stage):
    def setup(self, device: torch.device) -> Worker:
        return lambda samples: iter(())


class Blur(Mapping):
    name: ClassVar[str] = "blur"
    reads: ClassVar[tuple[str, ...]] = ("invert",)


class Compare(Mapping):
    name: ClassVar[str] = "compare"
    reads: ClassVar[tuple[str, ...]] = ("blur", "predict_maps")


class Fit(GraphStage):
    name: ClassVar[str] = "fit"
    reads: ClassVar[tuple[str, ...]] = ("error_maps",)


@pytest.mark.parametrize("given", [GRAPH.stages, tuple(reversed(GRAPH.stages))])
def test_each_stage_comes_after_those_that_it_reads(given: tuple[type[GraphStage], ...]):
    ordered = [stage.name for stage in Graph.from_stages(given).stages]
    for stage in given:
        assert all(ordered.index(read) < ordered.index(stage.name) for read in stage.reads), ordered


def test_a_run_computes_the_stages_in_the_order_of_the_method():
    names = [stage.name for stage in GRAPH.computed(CONFIG)]
    assert names == ["error_maps", "train_segmenter", "predict_maps", "refine_maps", "invert"]


def test_edits_are_made_after_the_inversions_if_they_are_configured():
    edit = {"directions": [{"name": "age", "path": "age.npy"}]}
    configured = RunConfig.model_validate({**CONFIG.model_dump(), "edit": edit})
    assert [stage.name for stage in GRAPH.computed(configured)][-2:] == ["invert", "edit"]


def test_a_stage_that_is_made_on_demand_is_in_the_table_and_not_in_a_run():
    assert TradeOff in GRAPH.stages
    assert TradeOff not in GRAPH.computed(CONFIG)


def test_records_come_from_stages_that_map_samples_and_not_from_a_training():
    assert GRAPH.upstream(PredictMaps) == ()
    assert GRAPH.upstream(RefineMaps) == (PredictMaps,)
    assert GRAPH.upstream(TradeOff) == (PredictMaps, RefineMaps)
    assert GRAPH.upstream(TrainSegmenter) == (ErrorMaps,)


def test_what_is_published_is_the_map_stage_that_no_other_reads():
    assert GRAPH.last is Invert
    assert Graph.from_stages((*GRAPH.stages, Blur), GRAPH.optional).last is Blur
    assert Graph.from_stages((Compare, Blur, *GRAPH.stages), GRAPH.optional).last is Compare


def test_two_ends_of_a_run_are_refused():
    class Other(Mapping):
        name: ClassVar[str] = "other"

    with pytest.raises(ValueError, match=r"exactly one stage must be the last of a run, got \['invert', 'other'\]"):
        _ = Graph.from_stages((*GRAPH.stages, Other), GRAPH.optional).last


def test_a_stage_that_reads_one_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"compare reads \['blur'\]"):
        Graph.from_stages((*GRAPH.stages, Compare))


def test_stages_that_read_each_other_are_refused():
    class Here(Mapping):
        name: ClassVar[str] = "here"
        reads: ClassVar[tuple[str, ...]] = ("there",)

    class There(Mapping):
        name: ClassVar[str] = "there"
        reads: ClassVar[tuple[str, ...]] = ("here",)

    with pytest.raises(ValueError, match=r"read each other in a circle: \['here', 'there'\]"):
        Graph.from_stages((Here, There))


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two stages have one name"):
        Graph.from_stages((Fit, ErrorMaps, Fit))


def test_every_stage_has_its_section_in_the_configuration():
    assert {stage.name for stage in GRAPH.stages} <= RunConfig.model_fields.keys()
