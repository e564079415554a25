"""Error maps: every image in every space through one optimiser, each item as if alone."""

import pickle

import numpy as np
import pytest
import torch

from generators.source import GeneratorSource
from pipeline.data.fingerprint import settings_of
from stages.base.stage import Record, Rejected, Sample
from stages.engine.adam import step
from stages.engine.schedule import Schedule
from stages.error_maps import ErrorMaps
from stages.images.image_member import pixels_of
from stages.inversion.single import unpack_single
from stages.maps.reduction import fit_reduced
from stages.maps.region import Region, to_uint8
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny

CPU = torch.device("cpu")
STEPS = 6
CLOSE = {"rtol": 2e-3, "atol": 2e-3}  # of float16 maps, after a few steps in float32
SPACES = list(tiny.SPACES)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    networks = tiny.write_networks(tmp_path_factory.mktemp("networks"))
    return {
        "generator": GeneratorSource(checkpoint=networks["generator"]),
        "perceptual": PerceptualSource(backbone="small", weights=networks["perceptual"]),
        "objective": Objective(shrinkage=1e-3),
        "schedule": Schedule(steps=STEPS, learning_rate=0.05),
        "precision": "fp32",  # batches of other widths round differently, in half precision by more than is asked here
    }


def samples(count: int) -> list[Sample]:
    return [Sample(f"s{i}", "shard", {"png": tiny.picture(i)}) for i in range(count)]


def results(sources, taken: list[Sample], **settings) -> list[Record | Rejected]:
    return list(ErrorMaps(**sources, **settings).setup(CPU)(taken))


@pytest.fixture(scope="module")
def alone(sources) -> dict[str, Record]:
    """Each image by itself, each of its spaces by itself."""
    worker = ErrorMaps(**sources, batch=1).setup(CPU)
    return {sample.key: next(worker([sample])) for sample in samples(4)}


@pytest.mark.parametrize("batch", [2, 3, 7, 64])
def test_an_item_does_not_depend_on_its_neighbours(sources, alone, batch):
    for record in results(sources, samples(4), batch=batch):
        single = alone[record.key]
        for space in ("w_plus", "f2", "f4"):
            assert record.row[f"psnr_db_{space}"] == pytest.approx(single.row[f"psnr_db_{space}"], abs=0.01)
            assert record.row[f"lpips_{space}"] == pytest.approx(single.row[f"lpips_{space}"], rel=1e-2)
        np.testing.assert_allclose(record.arrays["error_LHW"], single.arrays["error_LHW"], **CLOSE)
        np.testing.assert_allclose(record.arrays["loss_LK"], single.arrays["loss_LK"], rtol=1e-3)


def test_the_width_changes_what_images_come_to_by_less_than_a_percent(sources):
    """Kernels of another width round differently, and Adam amplifies that.

    That has no bound over many steps: after 30, the mean of these nine losses differed by 4.7 % on one processor.
    """
    settings = {**sources, "schedule": Schedule(steps=15, learning_rate=0.05)}
    losses = [
        np.stack([one.arrays["loss_LK"][:, -1] for one in results(settings, samples(3), batch=batch)])
        for batch in (5, 4, 1)
    ]
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=0.01)


@pytest.mark.parametrize("batch", [2, 5])
def test_neighbours_place_and_number_change_no_digit(sources, batch):
    worker, sample = ErrorMaps(**sources, batch=batch).setup(CPU), samples(1)[0]
    first = next(worker([sample]))
    *_, again = worker([*samples(5)[2:], sample])
    assert first.row == again.row
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name], err_msg=name)


def test_without_a_gpu_the_batch_that_is_chosen_is_the_usual_one(sources):
    chosen, usual = (results(sources, samples(3), batch=batch) for batch in ("auto", 16))
    assert [one.row for one in chosen] == [one.row for one in usual]


def test_spaces_differ_and_each_space_moves_its_own_delta_only(sources, alone):
    losses = alone["s0"].arrays["loss_LK"]
    np.testing.assert_allclose(losses[:, 0], losses[0, 0], rtol=1e-5)  # all start from mean w and zero deltas
    assert len({round(float(loss), 6) for loss in losses[:, -1]}) == len(SPACES)


def test_all_spaces_of_an_image_take_one_pass_a_step(sources, monkeypatch):
    passes = []

    def watched(*arguments):
        passes.append(arguments)
        return step(*arguments)

    monkeypatch.setattr("stages.engine.slots.step", watched)
    for batch, most in ((16, STEPS + 2), (1, 3 * STEPS)):  # the first spaces may begin before the last
        passes.clear()
        results(sources, samples(1), batch=batch)
        assert STEPS <= len(passes) <= most


def test_a_record_keeps_the_loss_curve_of_every_space(alone):
    arrays = alone["s1"].arrays
    assert arrays["spaces"].tolist() == SPACES
    assert arrays["loss_LK"].shape == (len(SPACES), STEPS)
    assert arrays["loss_LK"].dtype == np.float32
    assert arrays["loss_step"].tolist() == list(range(STEPS))
    assert (arrays["loss_LK"][:, -1] < arrays["loss_LK"][:, 0]).all()


def test_a_long_loss_curve_is_thinned(sources):
    settings = {**sources, "schedule": Schedule(steps=150)}
    (record,) = results(settings, samples(1))
    steps = record.arrays["loss_step"]
    assert len(steps) == 51
    assert (steps[0], steps[-1]) == (0, 149)
    assert record.arrays["loss_LK"].shape == (len(SPACES), 51)


def test_a_row_says_which_networks_measured(sources, alone):
    generator, perceptual = sources["generator"].load(CPU), sources["perceptual"].load(CPU)
    row = alone["s0"].row
    assert (row["generator"], row["perceptual"], row["perceptual_digest"]) == (
        generator.digest,
        perceptual.name,
        perceptual.digest,
    )


def test_maps_are_of_the_region_and_images_are_kept_on_request(sources):
    region = Region(top=8, height=20, width=32)
    (record,) = results(sources, samples(1), region=region, keep_images=True)
    assert record.arrays["error_LHW"].shape == (3, 20, 32)
    assert record.arrays["image_LHW3"].shape == (3, 20, 32, 3)


def test_maps_are_made_at_their_own_size_from_the_photograph_and_the_inversion_reduced(sources):
    region = Region(top=8, height=24, width=32)
    large = [Sample("large", "shard", {"png": tiny.picture(3, 96, 128)})]
    settings = {"region": region, "keep_images": True, "map_side_px": 16}
    (record,) = results(sources, large, **settings)
    assert record.arrays["error_LHW"].shape == (3, 12, 16)
    inverter = ErrorMaps(**sources, **settings).inverter(CPU)
    image_L3HW = torch.from_numpy(record.arrays["image_LHW3"]).permute(0, 3, 1, 2) / 127.5 - 1
    photograph = fit_reduced(pixels_of(large[0]), region, 16).expand(3, -1, -1, -1)
    wanted = inverter.perceptual.map(torch.nn.functional.avg_pool2d(image_L3HW, 2), photograph)
    np.testing.assert_allclose(record.arrays["error_LHW"], wanted, rtol=0.02, atol=0.01)  # images kept are of 8 bits
    (whole,) = results(sources, large, **{**settings, "map_side_px": None})
    assert whole.arrays["error_LHW"].shape == (3, 24, 32)
    assert whole.row == {**record.row, "auroc": whole.row["auroc"]}, "measures are of the region at any size of maps"


def test_an_occluder_is_looked_for_at_the_size_of_the_maps(sources):
    mask = np.zeros((tiny.SIDE_PX, tiny.SIDE_PX), np.uint8)
    mask[10:20, 10:20] = 255
    taken = [Sample("a", "shard", {"png": tiny.picture(0), "occluder.png": tiny.png(mask)})]
    (record,) = results(sources, taken, truth="occluder.png", map_side_px=16)
    assert record.row["occluded"] is True
    assert 0 <= record.row["auroc"] <= 1


def test_an_occluder_too_thin_for_a_pixel_of_a_map_occludes_its_image(sources):
    mask = np.zeros((tiny.SIDE_PX, tiny.SIDE_PX), np.uint8)
    mask[10, 10:20] = 255  # a map of half the size takes the odd rows
    taken = [Sample("a", "shard", {"png": tiny.picture(0), "occluder.png": tiny.png(mask)})]
    (record,) = results(sources, taken, truth="occluder.png", map_side_px=16)
    assert record.row["occluded"] is True
    assert record.row["auroc"] is None


def test_an_image_is_inverted_in_the_chosen_spaces_only_and_as_it_is_among_all(sources, alone):
    (record,) = results(sources, samples(1), spaces=("W+", "F4"), batch=1)
    assert record.arrays["spaces"].tolist() == ["W+", "F4"]
    assert not [name for name in record.row if name.endswith("f2")]
    np.testing.assert_array_equal(record.arrays["error_LHW"], alone["s0"].arrays["error_LHW"][[0, 2]])
    assert record.row["psnr_db_f4"] == alone["s0"].row["psnr_db_f4"]


@pytest.mark.parametrize("spaces", [("F2", "W+"), ("F2",), ("W+", "F10")])
def test_spaces_that_the_generator_does_not_have_in_this_order_are_refused(sources, spaces):
    with pytest.raises(ValueError, match="W\\+"):
        ErrorMaps(**sources, spaces=spaces).setup(CPU)


def test_a_bad_picture_is_rejected_and_its_neighbours_are_not(sources):
    taken = samples(3)
    taken[1] = Sample("s1", "shard", {"png": b"no picture"})
    found = results(sources, taken)
    assert [type(one) for one in found] == [Record, Rejected, Record]
    assert [one.key for one in found] == ["s0", "s1", "s2"]


def test_an_inversion_that_becomes_infinite_rejects_its_image(sources):
    (rejected,) = results({**sources, "schedule": Schedule(steps=20, learning_rate=1e30)}, samples(1))
    assert isinstance(rejected, Rejected)
    assert "W+" in rejected.reason


def test_no_samples_give_no_records(sources):
    assert results(sources, []) == []


def test_a_stage_can_be_pickled(sources):
    stage = ErrorMaps(**sources)
    assert pickle.loads(pickle.dumps(stage)) == stage


def test_kept_codes_form_the_pictures_that_were_measured(sources):
    taken = samples(2)
    for record in results(sources, taken, keep_codes=True, keep_images=True):
        codes = unpack_single(record.arrays)
        assert list(codes) == SPACES
        viewer = ErrorMaps(**sources).viewer(CPU)
        for place, space in enumerate(SPACES):
            assert set(codes[space].deltas) == ({space} if place else set())
            image_HW3 = to_uint8(viewer.picture(codes[space]))[0].astype(int)
            assert abs(image_HW3 - record.arrays["image_LHW3"][place]).max() <= 2  # stored in half precision


def test_codes_are_kept_only_if_asked_for_and_then_change_the_fingerprint(sources):
    (record,) = results(sources, samples(1))
    assert unpack_single(record.arrays) == {}
    plain, keeping = (settings_of(ErrorMaps(**sources, keep_codes=keep)) for keep in (False, True))
    assert "keep_codes" not in plain  # stores made before there were kept codes stay complete
    assert keeping == plain | {"keep_codes": True}


def test_a_loss_is_compiled_if_much_is_left_for_the_worker_or_it_is_asked_for(sources):
    def compiles(**settings) -> bool:
        return ErrorMaps(**sources, **settings).inverter(torch.device("cpu")).compiles

    assert not compiles()
    assert compiles(samples_ahead=100_000)
    assert not compiles(samples_ahead=1_000), "three spaces, six steps, 32 px"
    assert compiles(compile=True)
    assert not compiles(compile=False, samples_ahead=100_000)
