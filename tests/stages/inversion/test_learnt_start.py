"""Learnt start: an inversion begins where pictures that look like its target have their w."""

from statistics import fmean

import pytest
import torch

from benchmarks.harness.descent import invert_all
from generators.prior import draw_w
from generators.source import GeneratorSource
from stages.engine.schedule import Schedule
from stages.error_maps import ErrorMaps
from stages.inversion.inverter import Inverter
from stages.inversion.starts.learnt import LearntStart
from stages.inversion.viewer import Photograph
from stages.maps.region import Region, crop
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny
from tests.generators.biggan_folder import tiny_biggan

CPU = torch.device("cpu")
DRAWS = 256


def stage(tmp_path, **settings) -> ErrorMaps:
    networks = tiny.write_networks(tmp_path)
    return ErrorMaps(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        objective=Objective(shrinkage=1e-3),
        schedule=Schedule(steps=1, learning_rate=0.05),
        **settings,
    )


def first_loss(inverter: Inverter, image_N3HW: torch.Tensor) -> float:
    """Return the mean perceptual loss before the first step."""
    items = [inverter.item(Photograph(image_3HW, image_3HW), {}) for image_3HW in image_N3HW]
    found = invert_all(inverter.loss(), items, len(items))
    return fmean(float(one.trace.terms["lpips"][0]) for one in found)


def draws_and_views(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return w of two numbers, and how pictures of them look: smooth in w, and in twenty numbers."""
    random = torch.Generator().manual_seed(seed)
    w_N2 = torch.rand(count, 2, generator=random)
    waves_2V = torch.randn(2, 20, generator=torch.Generator().manual_seed(0)) * 2
    return w_N2, torch.sin(w_N2 @ waves_2V + 1)


def test_what_lies_between_the_draws_is_found_between_them():
    w_BD, seen_BV = draws_and_views(DRAWS, seed=1)
    wanted_ND, seen_NV = draws_and_views(50, seed=2)
    nearest_ND = w_BD[torch.cdist(seen_NV, seen_BV).argmin(dim=1)]
    learnt_ND = LearntStart(w_BD, seen_BV).predict(seen_NV)
    assert (learnt_ND - wanted_ND).norm() < 0.3 * (nearest_ND - wanted_ND).norm()


def test_the_scale_of_the_distance_does_not_matter():
    w_BD, seen_BV = draws_and_views(DRAWS, seed=1)
    _, seen_NV = draws_and_views(50, seed=2)
    once, thousandfold = (LearntStart(w_BD, scale * seen_BV).predict(scale * seen_NV) for scale in (1, 1000))
    torch.testing.assert_close(thousandfold, once, rtol=0, atol=1e-4)


def test_what_looks_like_no_draw_starts_at_the_mean():
    w_BD, seen_BV = draws_and_views(DRAWS, seed=1)
    found_ND = LearntStart(w_BD, seen_BV).predict(torch.full((1, 20), 100.0))
    torch.testing.assert_close(found_ND[0], w_BD.mean(dim=0))


def test_pictures_that_are_nearly_all_alike_can_be_learnt_from():
    w_BD, seen_BV = draws_and_views(DRAWS, seed=1)
    noise_BV = 1e-7 * torch.randn(DRAWS, 20, generator=torch.Generator().manual_seed(3))
    for alike in (200, DRAWS):
        seen_BV[:alike] = 1 + noise_BV[:alike]
        assert LearntStart(w_BD, seen_BV).predict(seen_BV).isfinite().all()


@pytest.mark.parametrize("count", [1, 2])
def test_few_draws_are_the_start_themselves(count):
    w_BD, seen_BV = draws_and_views(count, seed=1)
    found_ND = LearntStart(w_BD, seen_BV).predict(seen_BV)
    torch.testing.assert_close(found_ND, w_BD, rtol=0, atol=0.02)


@pytest.mark.parametrize("region", [None, Region(top=4, left=0, height=24, width=32)])
def test_pictures_never_seen_start_nearer_to_their_own_w(tmp_path, region):
    inverter = stage(tmp_path, start_samples=DRAWS, region=region).inverter(CPU)
    w_ND = draw_w(inverter.generator, 8, seed=1)
    rows = w_ND[:, None].expand(-1, inverter.generator.num_ws, -1)
    picture = crop(inverter.generator.synthesize(rows, {}, {}), inverter.region)
    photographs = [Photograph(image_3HW, image_3HW) for image_3HW in picture.clamp(-1, 1)]
    started_ND = torch.cat([inverter.item(one, {}).start.w_plus[:, 0] for one in photographs])
    assert (started_ND - w_ND).norm() < 0.9 * (inverter.prior.mean_w - w_ND).norm()


def test_scenes_the_generator_can_draw_start_nearer_than_from_the_mean(tmp_path):
    inverters = [stage(tmp_path / str(count), start_samples=count).inverter(CPU) for count in (0, DRAWS)]
    w_ND = draw_w(inverters[0].generator, 8, seed=1)
    target = inverters[0].generator.synthesize(w_ND[:, None].expand(-1, inverters[0].generator.num_ws, -1), {}, {})
    mean, learnt = (first_loss(one, target.clamp(-1, 1)) for one in inverters)
    assert learnt < 0.9 * mean


def test_what_was_learnt_is_kept_for_the_same_generator_driven_in_the_same_manner_only(tmp_path):
    networks = tiny.write_networks(tmp_path)
    perceptual = stage(tmp_path).inverter(CPU).perceptual

    def learnt(noise: str) -> LearntStart:
        generator = GeneratorSource(checkpoint=networks["generator"], noise=noise).load(CPU)
        return LearntStart.from_draws(generator, perceptual, Objective(), Region.whole(tiny.SIDE_PX), 8)

    const = learnt("const")
    assert learnt("const") is const
    assert learnt("none") is not const


def test_a_truncation_is_a_manner_of_its_own():
    assert len({tiny_biggan(truncation=truncation).manner for truncation in (0.5, 1.0)}) == 2
