"""The SAM encoder's networks, what they are shown, and the term of known codes."""

import pytest
import torch
from pydantic import ValidationError

from generators.latents import Codes
from stages.encoder.examples import as_batch, flipped
from stages.encoder.fitting import Known, codes_term, masked, shown
from stages.encoder.network import EncoderNetwork, SamEncoder, new_encoder
from stages.maps.region import Region
from tests.generators.published import tiny
from tests.stages.encoder.pictures import NETWORK, examples

SPACES, SHAPES = ("W+", "F2", "F4"), {"F2": (7, 8, 8), "F4": (7, 16, 16)}


@pytest.fixture(scope="module")
def encoder() -> SamEncoder:
    """An encoder in which every layer acts."""
    made = new_encoder(NETWORK, tiny(32), SPACES, torch.arange(5.0), seed=0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(parameter.numel())))
    return made.requires_grad_(False)


def inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 32, 32, generator=draws) * 2 - 1, torch.rand(count, 3, 32, 32, generator=draws)


def test_a_new_encoder_gives_the_mean_w_and_deltas_of_zero():
    generator = tiny(32)
    codes = new_encoder(NETWORK, generator, SPACES, torch.arange(5.0), seed=0)(*inputs(2))
    torch.testing.assert_close(codes.w_plus, torch.arange(5.0).expand(2, generator.num_ws, 5))
    assert {space: tuple(delta.shape) for space, delta in codes.deltas.items()} == {
        space: (2, *generator.feature_shape(space)) for space in SPACES[1:]
    }
    assert not any(delta.any() for delta in codes.deltas.values())


def test_an_image_s_codes_do_not_depend_on_its_neighbours(encoder):
    image_N3HW, map_NLHW = inputs(4)
    together, alone = encoder(image_N3HW, map_NLHW), encoder(image_N3HW[2:3], map_NLHW[2:3])
    torch.testing.assert_close(together.w_plus[2:3], alone.w_plus)
    for space, delta in alone.deltas.items():
        torch.testing.assert_close(together.deltas[space][2:3], delta)


def test_all_codes_depend_on_the_image_and_on_its_map(encoder):
    image_N3HW, map_NLHW = inputs(1)
    whole = encoder(image_N3HW, map_NLHW)
    for changed in (encoder(-image_N3HW, map_NLHW), encoder(image_N3HW, 1 - map_NLHW)):
        assert not torch.allclose(changed.w_plus, whole.w_plus)
        assert not any(torch.allclose(changed.deltas[space], whole.deltas[space]) for space in whole.deltas)


def test_a_map_of_another_size_is_refused(encoder):
    image_N3HW, map_NLHW = inputs(2)
    with pytest.raises(ValueError, match=r"maps \[N, 3, H, W\] of W\+, F2, F4, got \[2, 3, 32, 32\] and \[2, 3, 16"):
        encoder(image_N3HW, map_NLHW[..., :16, :])


@pytest.mark.parametrize("side_px", [8, 48])
def test_a_side_that_is_not_a_power_of_two_or_too_small_is_refused(side_px):
    with pytest.raises(ValidationError, match="side_px must be a power of 2 and at least 16"):
        EncoderNetwork(side_px=side_px)


def test_encoders_see_the_canvas_with_zeros_outside_the_region():
    region = Region(top=4, left=0, height=8, width=16)
    image, maps = shown(torch.ones(1, 3, 8, 16), torch.full((1, 8, 16), 2, dtype=torch.uint8), 3, region, 16)
    inside = torch.zeros(16, 16)
    inside[4:12] = 1
    torch.testing.assert_close(image, inside.expand(1, 3, 16, 16))
    torch.testing.assert_close(maps[0], torch.stack([inside * 0, inside * 0, inside]))


def test_an_image_has_no_delta_in_a_space_that_it_does_not_use_and_its_gradient_is_zero():
    canvas_NHW = torch.zeros(2, 32, 32, dtype=torch.uint8)
    canvas_NHW[1, :8] = 2
    deltas = {space: torch.ones(2, *shape, requires_grad=True) for space, shape in SHAPES.items()}
    codes = masked(Codes(torch.zeros(2, 8, 5), deltas), canvas_NHW, SPACES, SHAPES)
    assert [bool(codes.deltas[space][i].any()) for space in SHAPES for i in range(2)] == [False, False, False, True]
    assert not codes.masks["F2"].any()
    sum(delta.sum() for delta in codes.deltas.values()).backward()
    assert not deltas["F2"].grad.any()
    assert deltas["F4"].grad[1].all()


def test_known_codes_count_where_both_masks_act_and_only_for_images_that_have_them():
    def codes(w: float, delta: float, mask: float) -> Codes:
        deltas = {"F2": torch.full((2, 7, 8, 8), delta)}
        return Codes(torch.full((2, 8, 5), w), deltas, {"F2": torch.full((2, 1, 8, 8), mask)})

    known = Known(codes(1.0, 0.0, 0.25), torch.tensor([1.0, 0.0]))
    term_N = codes_term(codes(3.0, 2.0, 1.0), known)  # (3 - 1)² + (2 - 0)² · min(1, 1/4)
    torch.testing.assert_close(term_N, torch.tensor([5.0, 0.0]))


def test_a_mirrored_image_has_its_assignment_mirrored_and_its_codes_are_no_longer_known():
    batch = as_batch(examples(2, Codes(torch.zeros(1, 8, 8))), torch.device("cpu"))
    turned = flipped(batch, torch.tensor([True, False]))
    torch.testing.assert_close(turned.image_N3HW[0], batch.image_N3HW[0].flip(2))
    assert torch.equal(turned.assignment_NHW[0], batch.assignment_NHW[0].flip(1))
    assert torch.equal(turned.image_N3HW[1], batch.image_N3HW[1])
    assert turned.known.known_N.tolist() == [0.0, 1.0]
