"""Nearest start: an inversion begins where a random draw already looks like its target."""

import pytest
import torch

from generators.prior import draw_w
from stages.error_maps import ErrorMaps
from stages.objective import Objective, prepare_target
from stages.region import Region, crop
from stages.schedule import Schedule
from stages.sources import GeneratorSource, PerceptualSource
from tests import tiny

CPU = torch.device("cpu")
DRAWS = 24


def stage(tmp_path, **settings) -> ErrorMaps:
    networks = tiny.write_networks(tmp_path)
    return ErrorMaps(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        objective=Objective(shrinkage=1e-3),
        schedule=Schedule(steps=1, learning_rate=0.05),
        **settings,
    )


@pytest.mark.parametrize("region", [None, Region(top=4, left=0, height=24, width=32)])
def test_a_draws_own_picture_leads_to_that_draw(tmp_path, region):
    inverter = stage(tmp_path, start_samples=DRAWS, region=region).inverter(CPU)
    assert inverter.nearest is not None
    w_ND = draw_w(inverter.generator, DRAWS)[[7, 0, 23]]
    codes = inverter.invert(torch.zeros(3, 3, inverter.region.height, inverter.region.width), {}).codes
    picture = crop(inverter.generator.synthesize(w_ND[:, None].expand_as(codes.w_plus), {}, {}), inverter.region)
    target = prepare_target(picture.clamp(-1, 1), inverter.perceptual, inverter.objective)
    torch.testing.assert_close(inverter.nearest.nearest(inverter.perceptual, target), w_ND)


def test_scenes_the_generator_can_draw_start_nearer_than_from_the_mean(tmp_path):
    inverters = [stage(tmp_path / str(count), start_samples=count).inverter(CPU) for count in (0, 256)]
    w_ND = draw_w(inverters[0].generator, 8, seed=1)
    target = inverters[0].generator.synthesize(w_ND[:, None].expand(-1, inverters[0].generator.num_ws, -1), {}, {})
    mean, nearest = (one.invert(target.clamp(-1, 1), {}).trace.terms["lpips"][0].mean() for one in inverters)
    assert nearest < 0.9 * mean
