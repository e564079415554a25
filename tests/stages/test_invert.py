"""Inverting in assigned spaces: every image as if alone, and what is recorded of it."""

import pickle
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from generators.checkpoints import save_generator
from generators.source import GeneratorSource
from stages.base.stage import Record, Rejected, Sample
from stages.engine.schedule import Schedule
from stages.error_maps import ErrorMaps
from stages.inversion.viewer import MAX_PSNR_DB
from stages.invert import Invert
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    networks = tiny.write_networks(tmp_path_factory.mktemp("networks"))
    return {
        "generator": GeneratorSource(checkpoint=networks["generator"]),
        "perceptual": PerceptualSource(backbone="small", weights=networks["perceptual"]),
        "objective": Objective(shrinkage=1e-3),
    }


def sample(number: int, error: float) -> Sample:
    """Return a sample of which image `number` has stripes of all spaces, and that was predicted to be so hard."""
    assignment_HW = np.repeat(np.arange(tiny.SIDE_PX, dtype=np.uint8)[None] % 3, tiny.SIDE_PX, axis=0)
    refined = Record(f"s{number}", {"error": error}, {"assignment_HW": assignment_HW})
    return Sample(f"s{number}", "shard", {"png": tiny.picture(number)}, {"refine_maps": refined})


def run(sources, samples: list[Sample], steps: int = 20, **settings) -> list[Record]:
    stage = Invert(**sources, schedule=Schedule(steps=steps, learning_rate=0.1), **settings)
    records = list(stage.setup(torch.device("cpu"))(samples))
    assert all(isinstance(record, Record) for record in records)
    return records


def assert_equal(one: Record, other: Record) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)
    assert one.row.keys() == other.row.keys()
    for name, value in one.row.items():
        np.testing.assert_array_equal(value, other.row[name], err_msg=name)


def test_every_image_takes_every_step(sources):
    for record in run(sources, [sample(0, 0.01), sample(1, 0.5)], steps=7):
        assert record.row["steps"] == 7
        assert record.arrays["trace_step"].tolist() == list(range(7))


def test_steps_by_need_are_refused_with_what_to_do(sources):
    with pytest.raises(ValidationError, match=r"finish: steps by need were removed.*lower invert\.schedule\.steps"):
        Invert(**sources, finish={"window": 2, "improvement": 0.05})
    with pytest.raises(ValidationError, match="finish and budget: steps by need were removed"):
        Invert(**sources, finish={}, budget={})
    assert Invert(**sources, finish=None, budget=None) == Invert(**sources)


@pytest.fixture(scope="module")
def white_sources(sources, tmp_path_factory):
    """A generator whose pictures are all so bright that they are clamped to white, whatever its codes."""
    generator = sources["generator"].load(CPU)
    for name, parameter in generator.named_parameters():
        if name.endswith("torgb.bias"):
            parameter.add_(1000)
    path = tmp_path_factory.mktemp("white") / "generator.safetensors"
    save_generator(generator, path, about="white, for tests")
    return {**sources, "generator": GeneratorSource(checkpoint=path)}


def white() -> Sample:
    pixels = np.full((tiny.SIDE_PX, tiny.SIDE_PX, 3), 255, np.uint8)
    return replace(sample(0, 0.1), members={"png": tiny.png(pixels)})


def test_a_perfect_inversion_is_recorded_with_the_largest_psnr_there_is(white_sources):
    (found,) = run(white_sources, [white()], steps=2)
    assert (found.row["psnr_db"], found.row["lpips"]) == (MAX_PSNR_DB, 0)
    (mapped,) = ErrorMaps(**white_sources, schedule=Schedule(steps=2)).setup(CPU)([white()])
    assert isinstance(mapped, Record)
    assert mapped.row["psnr_db_w_plus"] == mapped.row["psnr_db_f4"] == MAX_PSNR_DB


def test_codes_that_do_not_fit_float16_are_rejected_by_name(sources):
    stage = Invert(**sources, schedule=Schedule(steps=2, learning_rate=1e7, ramp_up=0))
    (found,) = stage.setup(CPU)([sample(0, 0.1)])
    assert isinstance(found, Rejected)
    assert "do not fit float16; lower the learning rate" in found.reason
    assert "w_plus" in found.reason


def test_shares_and_masks_are_of_the_chosen_spaces(sources):
    assigned = sample(0, 0.1)
    refined = assigned.records["refine_maps"]
    halves_HW = (refined.arrays["assignment_HW"] == 2).astype(np.uint8)
    halves = replace(assigned, records={"refine_maps": replace(refined, arrays={"assignment_HW": halves_HW})})
    (found,) = run(sources, [halves], steps=2, spaces=("W+", "F4"))
    assert found.row["share_f4"] == pytest.approx(halves_HW.mean())
    assert "share_f2" not in found.row
    assert {name.partition(".")[0] for name in found.arrays if "." in name} == {"F4"}


def test_a_stage_survives_pickling(sources):
    stage = Invert(**sources, start={"kind": "learnt", "samples": 8})
    assert pickle.loads(pickle.dumps(stage)) == stage


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_the_same_images_are_found_and_measured_in_full(sources, precision):
    samples = [sample(number, 0.1) for number in range(3)]
    whole, half = (run(sources, samples, steps=40, precision=computed) for computed in ("fp32", precision))
    for ours, theirs in zip(half, whole, strict=True):
        assert ours.row["psnr_db"] != theirs.row["psnr_db"], "it was not computed in half precision"
    for column, near in (("psnr_db", {"abs": 0.3}), ("loss", {"rel": 0.1})):
        means = [fmean(float(record.row[column]) for record in records) for records in (half, whole)]
        assert means[0] == pytest.approx(means[1], **near)
