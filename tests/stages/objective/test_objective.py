import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from generators.latents import Codes
from generators.prior import Prior
from stages.maps.reduction import reduced
from stages.objective.objective import (
    TERMS,
    Objective,
    delta_term,
    gaussian_term,
    losses,
    prepare_target,
    reconstruction,
    variation_term,
)
from stages.perceptual.backbones import SmallBackbone
from stages.perceptual.distance import Perceptual


def prior(mean: list[float], precision: list[list[float]]) -> Prior:
    mean_D = torch.tensor(mean, dtype=torch.float64)
    return Prior(mean_D, torch.tensor(precision, dtype=torch.float64), torch.zeros_like(mean_D))


def random_prior(w_dim: int) -> Prior:
    root = torch.randn(w_dim, w_dim, dtype=torch.float64)
    return Prior(torch.randn(w_dim, dtype=torch.float64), root @ root.T, torch.zeros(w_dim, dtype=torch.float64))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    torch.manual_seed(0)
    heads = [torch.full((1, 4, 1, 1), 0.25)] * 2
    return Perceptual(SmallBackbone((4, 4)), heads, name="test", digest="test", min_side_px=2)


def test_gaussian_term_worked_by_hand():
    # rows (1, 2) and (-1, 0): ŵ = (1, 2), (-5, 0); minus (1, 0): (0, 2), (-6, 0); 4·3 and 36·2
    w_plus = torch.tensor([[[1.0, 2.0], [-1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    term_N = gaussian_term(w_plus, prior([1.0, 0.0], [[2.0, 0.5], [0.5, 3.0]]))
    assert term_N.tolist() == [84.0, 0.0]
    assert term_N.dtype == torch.float64


def test_images_may_have_the_means_of_their_own_priors():
    # ŵ = (1, 2) in both; minus (1, 0): (0, 2), 4·3; minus (0, 2): (1, 0), 2
    w_plus = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]])
    means = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    term_N = gaussian_term(w_plus, prior([9.0, 9.0], [[2.0, 0.5], [0.5, 3.0]]), means)
    assert term_N.tolist() == [12.0, 2.0]


def test_gaussian_term_weighs_directions_together():
    w_plus = torch.tensor([[[1.0, 2.0]]])
    assert gaussian_term(w_plus, prior([0.0, 0.0], [[2.0, 0.5], [0.5, 3.0]])).tolist() == [2 + 2 * 0.5 * 2 + 12]


def test_variation_term_worked_by_hand():
    # rows 1 and 2 are (3, 4) and (0, 1) from row 0: lengths 5 and 1
    w_plus = torch.tensor([[[1.0, 1.0], [4.0, 5.0], [1.0, 2.0]], [[7.0, 7.0], [7.0, 7.0], [7.0, 7.0]]])
    assert variation_term(w_plus).tolist() == [6.0, 0.0]
    assert variation_term(w_plus, squared=True).tolist() == [26.0, 0.0]


@pytest.mark.parametrize("squared", [False, True])
def test_rows_that_are_equal_have_no_gradient(squared):
    w_plus = torch.randn(2, 1, 4).repeat(1, 5, 1)
    w_plus[1, 3] += 1
    w_plus.requires_grad_()
    variation_term(w_plus, squared=squared).sum().backward()
    assert torch.equal(w_plus.grad[0], torch.zeros(5, 4))
    assert w_plus.grad[1].isfinite().all()
    assert w_plus.grad[1, 1:3].abs().max() == 0
    assert w_plus.grad[1, 3].abs().min() > 0


def test_one_row_does_not_vary():
    assert variation_term(torch.randn(2, 1, 4)).tolist() == [0.0, 0.0]


def test_delta_term_worked_by_hand():
    # F4: mean of (1, 4, 9, 16)/… per image; F6: 4 and 0; layers count alike, whatever their size
    deltas = {
        "F4": torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 2.0]]).reshape(2, 1, 2, 2),
        "F6": torch.tensor([2.0, 0.0]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4),
    }
    assert delta_term(deltas).tolist() == [7.5 + 4, 1.0]


def test_gradchecks_of_the_regularisers():
    w_plus = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    delta = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    some_prior = random_prior(4)
    assert torch.autograd.gradcheck(lambda w: gaussian_term(w, some_prior), w_plus)
    assert torch.autograd.gradcheck(variation_term, w_plus)
    assert torch.autograd.gradcheck(lambda w: variation_term(w, squared=True), w_plus)
    assert torch.autograd.gradcheck(lambda d: delta_term({"F4": d, "F6": 2 * d}), delta)


def test_reconstruction_worked_by_hand_without_a_perceptual_weight(perceptual):
    objective = Objective(lambda_lpips=0, side_px=4)
    target = prepare_target(torch.zeros(2, 3, 4, 4), perceptual, objective)
    image = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 3.0)])
    mse_N, lpips_N = reconstruction(image, target, perceptual, objective)
    assert mse_N.tolist() == [0.25, 1.0]
    assert lpips_N is None
    loose = Objective(lambda_lpips=0, side_px=4, clamp=False)
    assert reconstruction(image, target, perceptual, loose)[0].tolist() == [0.25, 9.0]


def test_reconstruction_compares_at_the_reduced_size(perceptual):
    objective = Objective(side_px=4, lambda_lpips=2)
    target_N3HW, image_N3HW = torch.rand(2, 1, 3, 6, 8)
    target = prepare_target(target_N3HW, perceptual, objective)
    mse_N, lpips_N = reconstruction(image_N3HW, target, perceptual, objective)
    x, y = F.avg_pool2d(image_N3HW, 2), F.avg_pool2d(target_N3HW, 2)
    torch.testing.assert_close(mse_N, F.mse_loss(x, y)[None])
    torch.testing.assert_close(lpips_N, 2 * perceptual(x, y))


def test_a_target_that_comes_reduced_is_the_same_target(perceptual):
    objective = Objective(side_px=4)
    whole = torch.rand(1, 3, 8, 8)
    assert torch.equal(
        prepare_target(whole, perceptual, objective).image,
        prepare_target(F.avg_pool2d(whole, 2), perceptual, objective).image,
    )


def test_gradcheck_of_reconstruction(perceptual):
    double = Perceptual(SmallBackbone((4, 4)), [torch.full((1, 4, 1, 1), 0.25)] * 2, name="", digest="", min_side_px=2)
    double.double()
    objective = Objective(side_px=4)
    image = (torch.rand(1, 3, 8, 8, dtype=torch.float64) - 0.5).requires_grad_()
    target = prepare_target(torch.rand(1, 3, 8, 8, dtype=torch.float64), double, objective)
    assert torch.autograd.gradcheck(lambda x: reconstruction(x, target, double, objective), image)


def test_the_target_is_the_images_minimum(perceptual):
    objective = Objective()
    image = torch.rand(2, 3, 8, 8)
    mse_N, lpips_N = reconstruction(image, prepare_target(image, perceptual, objective), perceptual, objective)
    assert mse_N.tolist() == [0, 0]
    assert lpips_N.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("size", "side_px", "wanted"),
    [
        ((64, 64), 256, (64, 64)),  # never enlarged
        ((256, 256), 256, (256, 256)),
        ((384, 512), 256, (192, 256)),
        ((512, 384), 256, (256, 192)),
        ((1024, 1024), 256, (256, 256)),
        ((300, 500), 256, (154, 256)),
        ((1, 600), 256, (1, 256)),
    ],
)
def test_only_images_with_a_longer_side_are_reduced(size, side_px, wanted):
    image = torch.rand(1, 3, *size)
    smaller = reduced(image, side_px)
    assert smaller.shape[2:] == wanted
    if all(before % after == 0 for before, after in zip(size, wanted, strict=True)):
        torch.testing.assert_close(smaller, F.interpolate(image, size=wanted, mode="area"))
    torch.testing.assert_close(smaller.mean(), image.mean())  # every pixel counts as much


def parts(perceptual: Perceptual, objective: Objective, count: int = 3):
    target = prepare_target(torch.rand(count, 3, 8, 8), perceptual, objective)
    codes = Codes(torch.randn(count, 3, 4), {"F4": torch.randn(count, 2, 4, 4)})
    return torch.rand(count, 3, 8, 8), codes, target, perceptual, random_prior(4), objective


def test_losses_are_the_weighted_terms(perceptual):
    objective = Objective(lambda_lpips=2, lambda_gaussian=3, lambda_variation=5, lambda_delta=7)
    image, codes, target, _, some_prior, _ = arguments = parts(perceptual, objective)
    terms = dict(zip(TERMS, losses(*arguments), strict=True))
    torch.testing.assert_close(terms["mse"].float(), (image - target.image).square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(terms["lpips"].float(), 2 * perceptual(image, target.image))
    torch.testing.assert_close(terms["gaussian"], 3 * gaussian_term(codes.w_plus, some_prior))
    torch.testing.assert_close(terms["variation"].float(), 5 * variation_term(codes.w_plus))
    torch.testing.assert_close(terms["delta"].float(), 7 * delta_term(codes.deltas))


def test_losses_of_an_image_do_not_depend_on_its_neighbours(perceptual):
    objective = Objective(lambda_gaussian=1.0)
    image, codes, target, _, some_prior, _ = arguments = parts(perceptual, objective)
    alone = losses(
        image[1:2],
        Codes(codes.w_plus[1:2], {"F4": codes.deltas["F4"][1:2]}),
        prepare_target(target.image[1:2], perceptual, objective),
        perceptual,
        some_prior,
        objective,
    )
    torch.testing.assert_close(losses(*arguments)[:, 1:2], alone, rtol=1e-5, atol=1e-7)


def test_terms_without_weight_or_deltas_are_zero_and_need_no_prior(perceptual):
    objective = Objective(lambda_lpips=0, lambda_gaussian=0, lambda_variation=0, lambda_delta=5)
    image, codes, target, *_ = parts(perceptual, objective)
    terms = losses(image, Codes(codes.w_plus), target, perceptual, None, objective)
    assert terms.shape == (len(TERMS), 3)
    assert (terms[0] > 0).all()
    assert (terms[1:] == 0).all()


def test_a_missing_prior_is_named(perceptual):
    image, codes, target, *_ = parts(perceptual, Objective())
    with pytest.raises(ValueError, match="set lambda_gaussian to 0"):
        losses(image, codes, target, perceptual, None, Objective())


def test_images_of_another_region_than_their_targets_are_refused(perceptual):
    _, codes, target, _, some_prior, objective = parts(perceptual, Objective())
    with pytest.raises(ValueError, match=r"are \[3, 3, 8, 6\], their targets \[3, 3, 8, 8\]"):
        losses(torch.rand(3, 3, 8, 6), codes, target, perceptual, some_prior, objective)


@pytest.mark.parametrize("field", [{"lambda_lpips": -1}, {"side_px": 0}, {"lambda_f": 5}])
def test_an_objective_that_is_none_is_refused(field):
    with pytest.raises(ValidationError):
        Objective(**field)


@pytest.fixture(scope="module")
def golden(shared):
    arrays = {}
    for name in ("losses", "mvg_stats_w512"):
        with np.load(shared / f"golden/2_sam/{name}.npz") as file:
            arrays |= {key: torch.from_numpy(file[key]) for key in file.files}
    return arrays


def golden_prior(arrays: dict[str, torch.Tensor], prefix: str = "", space: str = "_v") -> Prior:
    mean = arrays[f"{prefix}mean_v"].double()
    return Prior(mean, arrays[f"{prefix}inv_cov{space}"], torch.zeros_like(mean))


@pytest.mark.parametrize("batch", ["b1", "b3"])
def test_the_gaussian_term_reaches_the_golden_one(golden, batch):
    term_N = gaussian_term(golden[f"wp_{batch}"], golden_prior(golden, space="_v"))
    torch.testing.assert_close(term_N.mean(), golden[f"b_mvg_{batch}"], rtol=1e-7, atol=0)


def test_the_gaussian_term_of_a_first_image_is_the_published_one_and_of_others_their_own(golden):
    mixed = golden["mvg_wp_b3_official_quirk_first_sample_only"]  # the published code crosses the images of a batch
    term_N = gaussian_term(golden["wp_b3"], golden_prior(golden))
    torch.testing.assert_close(term_N, mixed.diagonal(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("batch", ["b1", "b3"])
def test_the_variation_term_reaches_the_golden_one(golden, batch):
    mean = variation_term(golden[f"wp_{batch}"]).mean()
    torch.testing.assert_close(mean, golden[f"delta_{batch}"], rtol=1e-6, atol=0)


def test_both_terms_reach_the_golden_synthetic_case(golden):
    w_plus = golden["small_wp"]
    term_N = gaussian_term(w_plus, golden_prior(golden, prefix="small_", space=""))
    assert term_N.item() == pytest.approx(golden["small_mvg"].item(), rel=1e-6)
    assert variation_term(w_plus).item() == pytest.approx(golden["small_delta"].item(), rel=1e-6)


def test_gradients_reach_the_golden_ones(golden):
    w_plus = golden["wp_b1"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian_term(w_plus, golden_prior(golden)).sum(), w_plus)
    wanted = golden["grad_mvg_wp_b1"]
    assert (gradient - wanted).abs().max() < 1e-6 * wanted.abs().max()
    (gradient,) = torch.autograd.grad(variation_term(w_plus).sum(), w_plus)
    torch.testing.assert_close(gradient, golden["grad_delta_b1"], rtol=1e-6, atol=1e-6)
    equal = golden["wp_b1"][:, :1].repeat(1, 14, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(variation_term(equal).sum(), equal)
    assert torch.equal(gradient, golden["grad_delta_at_all_equal"])


def test_infinite_codes_give_an_infinite_loss_and_no_error():
    assert math.isinf(variation_term(torch.tensor([[[0.0], [math.inf]]])).item())
