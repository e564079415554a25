"""A viewer shows and measures codes as an inverter does, without what only inverting needs."""

import pytest
import torch

from generators.generator import Generator
from generators.latents import Codes
from generators.prior import draw_w
from generators.source import GeneratorSource
from stages.inversion import stage as inverting
from stages.inversion.viewer import MAX_PSNR_DB
from stages.invert import Invert
from stages.maps.region import Region
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Invert:
    networks = tiny.write_networks(tmp_path_factory.mktemp("networks"))
    return Invert(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        region=Region(top=4, height=24, width=32),
        objective=Objective(shrinkage=1e-3),
        start_samples=8,
    )


def codes_of_draws(viewer):
    start = draw_w(viewer.generator, 2)[:, None].expand(-1, viewer.generator.num_ws, -1)
    deltas = {"F4": torch.randn(2, *viewer.generator.feature_shape("F4"), generator=torch.Generator().manual_seed(0))}
    return Codes(start, deltas, {"F4": torch.ones(2, 1, 16, 16)})


def test_a_viewer_shows_and_measures_what_the_inverter_does(stage):
    viewer, inverter = stage.viewer(CPU), stage.inverter(CPU)
    codes, target = codes_of_draws(viewer), torch.zeros(2, 3, 24, 32)
    image = viewer.picture(codes)
    assert image.shape == target.shape
    assert torch.equal(image, inverter.picture(codes))
    assert torch.equal(viewer.error_map(image, target), inverter.error_map(image, target))
    ours, theirs = viewer.measure(image, target), inverter.measure(image, target)
    assert torch.equal(ours.psnr_db, theirs.psnr_db)
    assert torch.equal(ours.lpips, theirs.lpips)


def test_equal_images_have_the_largest_psnr_and_no_distance(stage):
    viewer = stage.viewer(CPU)
    image = viewer.picture(codes_of_draws(viewer))
    measures = viewer.measure(image, image)
    assert measures.psnr_db.tolist() == [MAX_PSNR_DB] * 2
    assert measures.lpips.tolist() == [0, 0]


def test_a_viewer_loads_each_network_once_and_neither_draws_a_prior_nor_learns_a_start(stage, monkeypatch):
    loads = []
    whole = GeneratorSource.load
    monkeypatch.setattr(GeneratorSource, "load", lambda self, device: loads.append(device) or whole(self, device))
    monkeypatch.setattr(inverting, "cached_prior", lambda *args, **kwargs: pytest.fail("a prior was drawn"))
    monkeypatch.setattr(Generator, "map", lambda *args, **kwargs: pytest.fail("the generator was sampled"))
    viewer = stage.viewer(CPU)
    assert loads == [CPU]
    assert viewer.device == CPU
    assert viewer.spaces == ("W+", "F2", "F4")


def test_a_region_outside_the_canvas_is_refused(stage):
    with pytest.raises(ValueError, match="region"):
        stage.model_copy(update={"region": Region(top=20, height=24, width=32)}).viewer(CPU)
