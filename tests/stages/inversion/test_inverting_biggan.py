"""The same stages invert with a BigGAN-deep: in `Z+` and `F2`, as with a StyleGAN2 in its spaces (thesis Fig. 4.4)."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.harness.descent import descend, start_codes
from generators.families.biggan_deep import BigGANDeep
from generators.latents import Codes
from generators.prior import Prior, estimate_prior
from generators.source import GeneratorSource
from stages.base.stage import Record, Sample
from stages.engine.result import Inversion
from stages.engine.schedule import Schedule
from stages.error_maps import ErrorMaps
from stages.inversion.packing import unpack_codes
from stages.invert import Invert
from stages.maps.region import Region
from stages.objective.objective import Objective, prepare_target
from stages.perceptual.backbones import SmallBackbone
from stages.perceptual.distance import Perceptual
from stages.perceptual.source import PerceptualSource
from stages.perceptual.weights import save_small
from tests.generators.biggan_folder import tiny_biggan, write_folder

OBJECTIVE = Objective(lambda_gaussian=1e-6, shrinkage=0.01)


@pytest.fixture(scope="module")
def generator() -> BigGANDeep:
    return tiny_biggan().double()


@pytest.fixture(scope="module")
def prior(generator: BigGANDeep) -> Prior:
    return estimate_prior(generator, samples=500, shrinkage=0.01)


def masks() -> dict[str, Tensor]:
    """The first image uses F2 on the left, the second nowhere."""
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    mask[0, :, :, :4] = 1
    return {"F2": mask}


def inverted(generator: BigGANDeep, prior: Prior, free: set[str] | None = None) -> tuple[Codes, Inversion]:
    torch.manual_seed(2)
    heads = [torch.full((1, 4, 1, 1), 0.25)] * 2
    perceptual = Perceptual(SmallBackbone((4, 4)), heads, name="test", digest="test", min_side_px=2).double()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double() * 2 - 1
    start = start_codes(generator, prior, masks(), 2)
    start = Codes(start.w_plus.double(), {"F2": start.deltas["F2"].double()}, start.masks)
    target, whole, steps = prepare_target(images, perceptual, OBJECTIVE), Region.whole(32), Schedule(steps=15)
    return start, descend(generator, perceptual, prior, target, start, OBJECTIVE, steps, whole, free=free)


def test_an_inversion_starts_from_the_mean_z_and_the_mean_class(generator: BigGANDeep, prior: Prior):
    start = start_codes(generator, prior, {}, 2).w_plus
    assert start.shape == (2, 6, 11)
    assert start[..., :6].abs().max() < 0.2
    of_classes = generator.embeddings.weight.mean(dim=1).float()
    assert (start[..., 6:] - of_classes).abs().max() < 0.1


def test_the_loss_falls_in_z_plus_and_f2(generator: BigGANDeep, prior: Prior):
    start, found = inverted(generator, prior)
    total = found.trace.terms["total"]
    assert (total[-1] < total[0]).all()
    assert not torch.equal(found.codes.w_plus, start.w_plus)
    assert found.codes.deltas["F2"][0].abs().max() > 0
    assert found.codes.deltas["F2"][1].abs().max() == 0


@pytest.mark.parametrize("free", ["Z+", "F2"])
def test_either_space_is_optimised_alone(generator: BigGANDeep, prior: Prior, free: str):
    start, found = inverted(generator, prior, {free})
    assert torch.equal(found.codes.w_plus, start.w_plus) is (free == "F2")
    assert torch.equal(found.codes.deltas["F2"], start.deltas["F2"]) is (free == "Z+")


def test_the_space_of_another_family_is_refused(generator: BigGANDeep, prior: Prior):
    with pytest.raises(ValueError, match=r"must be some of Z\+, F2, got W\+"):
        inverted(generator, prior, {"W+"})


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GeneratorSource | PerceptualSource]:
    folder: Path = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    save_small(folder / "perceptual.safetensors", SmallBackbone((4, 8)))
    return {
        "generator": GeneratorSource(checkpoint=write_folder(folder / "biggan", tiny_biggan()), truncation=0.5),
        "perceptual": PerceptualSource(backbone="small", weights=folder / "perceptual.safetensors"),
    }


def sample(key: str, **records: Record) -> Sample:
    pixels = np.random.default_rng(len(key)).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return Sample(key, "shard", {"png": file.getvalue()}, records)


def test_error_maps_are_of_z_plus_and_f2(sources):
    stage = ErrorMaps(**sources, objective=OBJECTIVE, schedule=Schedule(steps=3))
    (record,) = stage.setup(torch.device("cpu"))([sample("a")])
    assert isinstance(record, Record)
    assert {"psnr_db_z_plus", "psnr_db_f2", "lpips_z_plus", "lpips_f2"} <= record.row.keys()
    assert record.arrays["error_LHW"].shape == (2, 32, 32)


def test_a_segment_in_f2_is_stored_with_one_code_per_block(sources):
    stage = Invert(**sources, objective=OBJECTIVE, schedule=Schedule(steps=3))
    assignment_HW = np.zeros((32, 32), np.uint8)
    assignment_HW[:, :16] = 1
    taken = sample("a", refine_maps=Record("a", {}, {"assignment_HW": assignment_HW}))
    (record,) = stage.setup(torch.device("cpu"))([taken])
    assert isinstance(record, Record)
    assert (record.row["share_z_plus"], record.row["share_f2"]) == (0.5, 0.5)
    assert record.row["w_plus"].shape == (6, 11)
    codes = unpack_codes(record.row["w_plus"], record.arrays)
    loaded = sources["generator"].load(torch.device("cpu"))
    image = loaded.synthesize(codes.w_plus, codes.deltas, codes.masks)
    assert torch.equal(loaded.edit(codes.w_plus, codes.deltas, codes.masks, torch.zeros(11)), image)
