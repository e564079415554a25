"""A sweep of thresholds, from equal starts or from the neighbour's codes; nothing is inverted needlessly."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch

from generators.latents import Codes
from generators.source import GeneratorSource
from stages.base.stage import Record, Rejected, Sample
from stages.engine.schedule import Schedule
from stages.images.image_member import pixels_of
from stages.inversion.inverter import Inverter
from stages.inversion.viewer import Photograph
from stages.maps.region import fit
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from stages.trade_off import Inverted, Mapped, Sweep, TradeOff, warm_schedule, warm_start
from tests import tiny

CPU = torch.device("cpu")
SIDE = tiny.SIDE_PX
THRESHOLDS = (0.9, 0.5, 0.35, 0.15)  # descending
STILL = Schedule(steps=1)  # whose only step has the rate 0


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> TradeOff:
    networks = tiny.write_networks(tmp_path_factory.mktemp("networks"))
    return TradeOff(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        objective=Objective(shrinkage=1e-3, lambda_lpips=0.1, lambda_delta=0.1),
        schedule=Schedule(steps=12, learning_rate=0.05),
        warm=Schedule(steps=4, learning_rate=0.05),
        thresholds=THRESHOLDS,
    )


@pytest.fixture(scope="module")
def inverter(stage) -> Inverter:
    return stage.inverter(CPU)


def maps(*hard: float) -> list[Mapped]:
    """Images whose left half is as hard as given in W+ and half as hard in F2, and whose right half is easy."""
    labels_HW = np.zeros((SIDE, SIDE), np.int32)
    labels_HW[:, SIDE // 2 :] = 1
    found = []
    for one in hard:
        error_LHW = np.full((3, SIDE, SIDE), 0.01, np.float32)
        error_LHW[:, labels_HW == 0] = np.array([one, one / 2, 0.0], np.float32)[:, None]
        found.append(Mapped(error_LHW, labels_HW))
    return found


def samples(*hard: float) -> list[Sample]:
    made = []
    for i, one in enumerate(maps(*hard)):
        records = {
            "predict_maps": Record(f"s{i}", {}, {"error_LHW": one.error_LHW}),
            "refine_maps": Record(f"s{i}", {}, {"labels_HW": one.labels_HW}),
        }
        made.append(Sample(f"s{i}", "shard", {"png": tiny.picture(i)}, records))
    return made


HARD = (0.95, 0.4, 0.02)
# of the left half, at each threshold: F2 F2 F4 F4; W+ W+ F2 F4; always W+


def sweep_all(inverter, images, maps, warm) -> list[tuple[Inverted, ...]]:
    """Return the images at each threshold, all of them in one engine."""
    sweep = Sweep(inverter, inverter.engine(len(images)), THRESHOLDS, warm)
    with ThreadPoolExecutor(len(images)) as waiting:
        return list(zip(*waiting.map(sweep, [Photograph(one, one) for one in images], maps), strict=True))


@pytest.fixture(scope="module")
def images(inverter) -> torch.Tensor:
    return torch.stack([fit(pixels_of(sample), inverter.region) for sample in samples(*HARD)])


@pytest.fixture(scope="module")
def points(stage, inverter, images):
    return sweep_all(inverter, images, maps(*HARD), stage.warm)


def test_the_editable_area_falls_with_the_threshold(points):
    area = [[one.share_L[0] for one in images] for images in points]
    assert area == [[0.5, 1, 1], [0.5, 1, 1], [0.5, 0.5, 1], [0.5, 0.5, 1]]
    assert all(one.share_L.sum() == 1 for images in points for one in images)


def test_only_reassigned_images_are_inverted_again(points):
    moved = [[one is not other for one, other in zip(*two, strict=True)] for two in pairwise(points)]
    assert moved == [[False, False, False], [True, True, False], [False, True, False]]
    for before, after in pairwise(points):
        for one, other in zip(before, after, strict=True):
            assert (one is other) == bool((one.assignment_HW == other.assignment_HW).all())


def test_other_images_in_the_batch_change_nothing(stage, inverter, images, points):
    for i in range(len(HARD)):
        alone = sweep_all(inverter, images[i : i + 1], maps(HARD[i]), stage.warm)
        for (mine,), beside in zip(alone, points, strict=True):
            assert mine.psnr_db == pytest.approx(beside[i].psnr_db, abs=1e-3)
            torch.testing.assert_close(mine.codes.w_plus, beside[i].codes.w_plus, rtol=1e-3, atol=1e-3)


def test_a_threshold_starts_from_the_codes_of_the_one_before(inverter, images, points):
    still = sweep_all(inverter, images, maps(*HARD), STILL)
    for before, after in pairwise(still):
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one.codes.w_plus, other.codes.w_plus)
    first, last = still[1][1], still[2][1]  # from W+ to F2, where nothing acts yet
    assert set(last.codes.deltas) == {"F2"}
    assert not last.codes.deltas["F2"].any()
    assert torch.equal(inverter.picture(first.codes), inverter.picture(last.codes))
    assert (first.psnr_db, first.lpips) == (last.psnr_db, last.lpips)


def test_continuing_under_more_faithful_spaces_brings_images_closer(points):
    _, w_plus, f2, _ = points
    assert f2[1].psnr_db > w_plus[1].psnr_db


def test_a_delta_is_kept_where_it_still_acts_and_is_zero_elsewhere(inverter):
    shapes = inverter.generator.feature_shapes
    left, right = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    left[..., :5], right[..., 3:] = 0.5, 1.0
    delta = torch.randn(1, *shapes["F2"], generator=torch.Generator().manual_seed(0))
    w_plus = torch.randn(2, 1, inverter.generator.num_ws, inverter.generator.w_dim)
    before = [Codes(w_plus[0], {"F2": delta}, {"F2": left}), Codes(w_plus[1])]
    new = {"F2": torch.cat([right, right]), "F4": torch.ones(2, 1, 16, 16)}
    start = warm_start(before, new, shapes)
    assert torch.equal(start.w_plus, w_plus[:, 0])
    assert start.masks == new
    assert torch.equal(start.deltas["F2"][0, :, :, 3:5], delta[0, :, :, 3:5])
    assert not start.deltas["F2"][0, :, :, :3].any()
    assert not start.deltas["F2"][0, :, :, 5:].any()
    assert not start.deltas["F2"][1].any()
    assert start.deltas["F4"].shape == (2, *shapes["F4"])
    assert not start.deltas["F4"].any()


def test_from_equal_starts_a_threshold_gives_what_it_gives_alone(inverter, images):
    together = sweep_all(inverter, images, maps(*HARD), None)
    for number, threshold in enumerate(THRESHOLDS):
        sweep = Sweep(inverter, inverter.engine(1), (threshold,))
        for image, mapped, found in zip(images, maps(*HARD), together[number], strict=True):
            (alone,) = sweep(Photograph(image, image), mapped)
            assert found.psnr_db == pytest.approx(alone.psnr_db, abs=1e-3)
            assert (found.steps, alone.steps) == (12, 12)
            torch.testing.assert_close(found.codes.w_plus, alone.codes.w_plus, rtol=1e-3, atol=1e-3)


def test_the_stage_starts_equally_unless_it_is_told_to_continue(stage):
    equal, warm = stage.model_copy(update={"warm": None}), stage
    assert (equal.steps_of_a_sample(3), warm.steps_of_a_sample(3)) == (12 + 3 * 12, 12 + 3 * 4)
    (first,), (second,) = (list(one.setup(CPU)(samples(0.4))) for one in (equal, warm))
    assert (first.row["equal_starts"], second.row["equal_starts"]) == (True, False)
    assert (first.row["steps"].tolist(), second.row["steps"].tolist()) == ([12, 0, 12, 12], [12, 0, 4, 4])


def test_continuing_is_a_share_of_the_schedule_and_gentler():
    warm = warm_schedule(Schedule(steps=1001, learning_rate=0.05), 0.25)
    assert (warm.steps, warm.learning_rate, warm.ramp_up) == (250, 0.025, 0.3)
    assert warm_schedule(Schedule(steps=1), 0.25).steps == 1


def test_the_stage_records_a_figure_a_threshold_whatever_the_batch(stage, points):
    records = list(stage.model_copy(update={"batch": 2}).setup(CPU)(samples(*HARD)))
    assert [record.key for record in records] == ["s0", "s1", "s2"]
    for i, record in enumerate(records):
        np.testing.assert_array_equal(record.row["threshold"], THRESHOLDS)
        np.testing.assert_array_equal(record.row["share"], [images[i].share_L for images in points])
        np.testing.assert_allclose(record.row["psnr_db"], [images[i].psnr_db for images in points], atol=1e-3)
        np.testing.assert_allclose(record.row["lpips"], [images[i].lpips for images in points], rtol=1e-3)
    assert [record.row["steps"].tolist() for record in records] == [[12, 0, 4, 0], [12, 0, 4, 4], [12, 0, 0, 0]]


def test_a_sample_that_does_not_decode_is_rejected_alone(stage):
    good, bad = samples(0.4, 0.4)
    broken = Sample(bad.key, bad.shard, {"png": b"rot"}, bad.records)
    first, second = stage.setup(CPU)([broken, good])
    assert isinstance(first, Rejected)
    assert isinstance(second, Record)


def test_an_inversion_that_diverges_is_rejected_with_its_threshold(stage):
    wild = stage.model_copy(update={"warm": Schedule(steps=4, learning_rate=1e30, ramp_up=0)})
    moved, never = wild.setup(CPU)(samples(0.4, 0.02))
    assert isinstance(moved, Rejected)
    assert "at threshold 0.35 became non-finite" in moved.reason
    assert isinstance(never, Record)


def test_the_stage_survives_pickling_and_an_empty_batch(stage):
    copy = pickle.loads(pickle.dumps(stage))
    assert copy == stage
    assert list(copy.setup(CPU)([])) == []
