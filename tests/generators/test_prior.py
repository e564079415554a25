import numpy as np
import pytest
import torch
import torch.nn.functional as F

from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.prior import Prior, draw_w, estimate_prior, gaussianize, prior_of
from tests.generators.biggan_folder import tiny_biggan
from tests.recipe import golden_generator


def small(c_dim: int = 0) -> StyleGAN2:
    torch.manual_seed(1)
    return StyleGAN2(
        StyleGAN2Config(z_dim=16, w_dim=4, c_dim=c_dim, img_resolution=8, channel_base=32, mapping_layers=2)
    )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_gaussianize_stretches_what_is_negative_five_times():
    assert gaussianize(torch.tensor([-2.0, -0.5, 0.0, 3.0])).tolist() == [-10.0, -2.5, 0.0, 3.0]


def test_gradcheck_of_gaussianize():
    w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gaussianize, w)


def test_statistics_worked_by_hand():
    w_SD = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0], [2.0, -0.6]])
    # ŵ: the last becomes (2, -3); mean (2, 0); sums of squares 2 and 18, of products 0; divided by S - 1 = 3
    prior = prior_of(w_SD)
    assert prior.mean.tolist() == pytest.approx([2, 0], abs=1e-6)
    assert prior.mean_w.tolist() == pytest.approx([2, 0.6])
    torch.testing.assert_close(
        prior.precision, torch.tensor([[1.5, 0], [0, 1 / 6]], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )
    assert {prior.mean.dtype, prior.precision.dtype, prior.mean_w.dtype} == {torch.float64}


def test_the_covariance_of_correlated_draws_is_inverted_whole():
    w_SD = torch.tensor([[1.0, 1.0], [3.0, 2.0], [2.0, 3.0]])  # covariance [[1, .5], [.5, 1]]
    wanted = torch.tensor([[4 / 3, -2 / 3], [-2 / 3, 4 / 3]], dtype=torch.float64)
    torch.testing.assert_close(prior_of(w_SD).precision, wanted, rtol=1e-7, atol=0)


def test_the_published_mean_is_that_of_w_made_gaussian_afterwards():
    w_SD = torch.tensor([[-1.0], [3.0], [1.0]])
    assert prior_of(w_SD).mean.tolist() == pytest.approx([-1 / 3])
    assert prior_of(w_SD, published_mean=True).mean.tolist() == [1.0]


def test_shrinkage_adds_its_share_of_the_mean_eigenvalue_to_every_eigenvalue():
    w_SD = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0], [2.0, -0.6]])  # eigenvalues 2/3 and 6, mean 10/3
    precision = prior_of(w_SD, shrinkage=0.1).precision
    torch.testing.assert_close(precision.diagonal(), torch.tensor([1.0, 3 / 19], dtype=torch.float64))


def test_shrinkage_bounds_the_weight_of_a_direction_that_barely_varies():
    generator = torch.Generator().manual_seed(0)
    w_SD = 5 + torch.randn(1000, 3, generator=generator) * torch.tensor([1e-4, 1.0, 1.0])
    loose, firm = (torch.linalg.eigvalsh(prior_of(w_SD, shrinkage=s).precision)[-1] for s in (0.0, 1e-3))
    assert loose > 1e7
    assert firm < 2e3


def test_the_precision_is_symmetric_and_positive():
    precision = estimate_prior(small(), samples=200).precision
    assert torch.equal(precision, precision.T)
    assert torch.linalg.eigvalsh(precision)[0] > 0


def test_draws_depend_on_the_seed_and_not_on_the_batch():
    generator = small()
    whole = draw_w(generator, 50, seed=3)
    assert whole.shape == (50, 4)
    assert whole.requires_grad is False
    torch.testing.assert_close(draw_w(generator, 50, seed=3, batch=7), whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(draw_w(generator, 50, seed=4), whole)


def test_a_conditional_generator_draws_a_class_for_each_unless_one_is_given():
    generator = small(c_dim=3)
    label = torch.tensor([0.0, 1.0, 0.0])
    z = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        of_class_1 = generator.map(z, label.expand(20, -1))[:, 0]
    given = draw_w(generator, 20, label=label)
    torch.testing.assert_close(given, of_class_1)
    same = (draw_w(generator, 20) - given).abs().amax(dim=1) < 1e-6
    assert 0 < same.sum() < 20


def test_estimating_is_drawing_then_statistics():
    generator = small()
    prior = estimate_prior(generator, samples=30, seed=5, published_mean=True, shrinkage=0.5)
    wanted = prior_of(draw_w(generator, 30, 5), published_mean=True, shrinkage=0.5)
    torch.testing.assert_close(prior.mean, wanted.mean)
    torch.testing.assert_close(prior.precision, wanted.precision)


def test_codes_of_a_biggan_deep_are_gaussian_as_they_are():
    generator = tiny_biggan()
    prior = estimate_prior(generator, samples=20_000)
    assert prior.slope == 1
    assert torch.equal(prior.mean, prior.mean_w)
    torch.testing.assert_close(prior.mean[:6], torch.zeros(6, dtype=torch.float64), rtol=0, atol=0.03)
    torch.testing.assert_close(prior.precision[:6, :6], torch.eye(6, dtype=torch.float64), rtol=0, atol=0.05)
    of_classes = generator.embeddings.weight.double()
    torch.testing.assert_close(prior.mean[6:], of_classes.mean(dim=1), rtol=0, atol=0.03)
    wanted = torch.cov(of_classes, correction=0)
    torch.testing.assert_close(torch.linalg.inv(prior.precision)[6:, 6:], wanted, rtol=0, atol=0.05)


def test_a_prior_moves_whole():
    prior = prior_of(torch.randn(10, 2), slope=1.0).to("meta")
    assert prior.slope == 1
    assert {prior.mean.device.type, prior.precision.device.type, prior.mean_w.device.type} == {"meta"}


@pytest.mark.parametrize(
    ("w_SD", "shrinkage", "message"),
    [
        (torch.randn(4, 4), 0.0, "draw more than 4 samples"),
        (torch.randn(1, 4), 1.0, "at least 2 draws"),
        (torch.randn(2, 4, 4), 0.0, r"\[S, w_dim\], got \[2, 4, 4\]"),
        (torch.randn(9, 4), -1.0, "at least 0, got -1"),
        (torch.randn(9, 4), float("nan"), "at least 0, got nan"),
        (torch.full((9, 4), float("nan")), 0.0, "no inverse"),
    ],
)
def test_draws_that_make_no_prior_are_refused(w_SD, shrinkage, message):
    with pytest.raises(ValueError, match=message):
        prior_of(w_SD, shrinkage=shrinkage)


def test_a_label_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"label must be \[3\], got \[2\]"):
        draw_w(small(c_dim=3), 5, label=torch.zeros(2))


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden/2_sam/mvg_stats_w512.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="module")
def published(shared) -> Prior:
    return estimate_prior(golden_generator(shared, "G256_w512"), samples=5000, published_mean=True)


def test_draws_are_those_of_the_golden_statistics(golden):
    z = torch.randn(5000, 512, generator=torch.Generator().manual_seed(int(golden["seed"])))
    assert torch.equal(z[:8], golden["first8_z"])


def test_means_reach_the_golden_ones(golden, published):
    torch.testing.assert_close(published.mean_w.float(), golden["mean_w"], rtol=0, atol=1e-5)
    torch.testing.assert_close(published.mean.float(), golden["mean_v"], rtol=0, atol=1e-5)


def test_covariance_and_precision_reach_the_golden_ones(golden, published):
    covariance, wanted = torch.linalg.inv(published.precision), torch.linalg.inv(golden["inv_cov_v"])
    assert relative(covariance, wanted) < 1e-5
    assert relative(published.precision, golden["inv_cov_v"]) < 1e-3


def test_the_mean_of_w_hat_is_far_from_the_published_mean(shared, golden):
    w = draw_w(golden_generator(shared, "G256_w512"), 5000)
    mean = F.leaky_relu(w.double(), 5.0).mean(dim=0)
    assert 0.6 < float((mean - golden["mean_v"]).abs().max()) < 0.7
