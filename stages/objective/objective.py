"""The objective of an inversion, one value per image (thesis Eq. 3.5 to 3.8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt
from torch import Tensor

from generators.latents import Codes
from generators.prior import Prior, gaussianize
from stages.maps.reduction import reduced

if TYPE_CHECKING:
    from stages.perceptual.distance import Features, Perceptual

TERMS = ("mse", "lpips", "gaussian", "variation", "delta")


class Objective(BaseModel):
    """The weights of the terms of Eq. 3.8, and the choices that thesis and authors' code leave open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lambda_lpips: NonNegativeFloat = 1.0  # weight of the perceptual distance
    lambda_gaussian: NonNegativeFloat = 1e-8  # weight of the prior of w_plus
    lambda_variation: NonNegativeFloat = 1e-3  # weight of how far the layers of w_plus differ
    lambda_delta: NonNegativeFloat = 5.0  # weight of the size of the deltas
    squared_variation: bool = False  # square ‖w_n − w_0‖, as printed in Eq. 3.6; the weight above goes with the root
    published_mean: bool = False  # mean of the prior: LeakyReLU(mean of w), as in the authors' code
    shrinkage: NonNegativeFloat = 0.0  # shrinkage of the prior's covariance; see `generators.prior.prior_of`
    clamp: bool = True  # clamp images to [-1, 1] before they are compared
    side_px: PositiveInt = 256  # reduce images with a longer side to this before they are compared


@dataclass(frozen=True, eq=False)
class Target:
    """What is computed once for a batch of targets: images ``[N, 3, h, w]`` at the size of the loss, and features.

    ``prior_mean`` is the mean of each image's prior where classes have their own, ``[N, w_dim]`` float64.

    It is indexed by image throughout, so that one image's part can be replaced while its neighbours continue.
    """

    image: Tensor
    features: Features
    prior_mean: Tensor | None = None

    def __getitem__(self, image: int) -> Target:
        """Return the target of one image, a batch of 1."""
        part, features = slice(image, image + 1), self.features
        shape = (1, *features.image_shape[1:])
        layers = tuple(layer[part] for layer in features.layers)
        mean = None if self.prior_mean is None else self.prior_mean[part]
        return Target(self.image[part], replace(features, layers=layers, image_shape=shape), mean)


def prepare_target(image_N3HW: Tensor, perceptual: Perceptual, objective: Objective) -> Target:
    """Return the targets in the objective's form.

    Args:
        image_N3HW: ``[N, 3, H, W]`` floating in [-1, 1], of the active region or already reduced.
        perceptual: the distance that the inversion will use.
        objective: gives the size.

    Raises:
        ValueError: the images are of another shape, or too small for the perceptual network.
    """
    image_N3hw = reduced(image_N3HW, objective.side_px)
    return Target(image_N3hw, perceptual.features(image_N3hw))


# Eq. 3.8: L_rec + λ_W L_W + λ_F L_F
def losses(  # noqa: PLR0917 - the arguments of Eq. 3.8
    image_N3HW: Tensor,
    codes: Codes,
    target: Target,
    perceptual: Perceptual,
    prior: Prior | None,
    objective: Objective,
) -> Tensor:
    """Return the weighted terms of every image, ``[len(TERMS), N]`` float64 in the order of `TERMS`.

    An image's loss is the sum of its column. A term whose weight is 0 is not computed.

    Args:
        image_N3HW: ``[N, 3, H, W]``, the picture of the codes, active region, unclamped.
        codes: the codes of the same images.
        target: of `prepare_target`.
        perceptual: the distance that made the target.
        prior: on the device of the codes; None only if ``lambda_gaussian`` is 0.
        objective: weights and choices.

    Raises:
        ValueError: image and target do not fit, or the prior is missing.
    """
    zeros_N = torch.zeros(len(image_N3HW), dtype=torch.float64, device=image_N3HW.device)
    mse_N, lpips_N = reconstruction(image_N3HW, target, perceptual, objective)
    gaussian_N = variation_N = delta_N = zeros_N
    if objective.lambda_gaussian:
        if prior is None:
            raise ValueError("lambda_gaussian is not 0, so a prior is needed: estimate it, or set lambda_gaussian to 0")
        gaussian_N = objective.lambda_gaussian * gaussian_term(codes.w_plus, prior, target.prior_mean)
    if objective.lambda_variation:
        variation_N = objective.lambda_variation * variation_term(codes.w_plus, squared=objective.squared_variation)
    if objective.lambda_delta and codes.deltas:
        delta_N = objective.lambda_delta * delta_term(codes.deltas)
    terms = (mse_N, zeros_N if lpips_N is None else lpips_N, gaussian_N, variation_N, delta_N)
    return torch.stack([term.double() for term in terms])


# Eq. 3.5: ℓ2(x, x̂) + λ_LPIPS L_LPIPS(x, x̂)
def reconstruction(
    image_N3HW: Tensor, target: Target, perceptual: Perceptual, objective: Objective
) -> tuple[Tensor, Tensor | None]:
    """Return the mean squared error and the weighted perceptual distance of each image, ``[N]`` each.

    The distance is None if its weight is 0. Images are reduced to the loss's size, then clamped to [-1, 1].

    Args:
        image_N3HW: ``[N, 3, H, W]``, about [-1, 1].
        target: of the same number of images of the same region.
        perceptual: the distance that made the target.
        objective: weight, size, clamping.

    Raises:
        ValueError: the image at the loss's size differs in shape from the target.
    """
    image_N3hw = reduced(image_N3HW, objective.side_px)
    if image_N3hw.shape != target.image.shape:
        raise ValueError(
            f"images at the size of the loss are {list(image_N3hw.shape)}, their targets "
            f"{list(target.image.shape)}: fit the targets to the active region, one per image"
        )
    if objective.clamp:
        image_N3hw = image_N3hw.clamp(-1, 1)
    mse_N = (image_N3hw - target.image).square().mean(dim=(1, 2, 3))
    if not objective.lambda_lpips:
        return mse_N, None
    return mse_N, objective.lambda_lpips * perceptual.distance(image_N3hw, target.features)


# Eq. 3.6, first term: Σ_n (ŵ_n − μ)ᵀ Σ⁻¹ (ŵ_n − μ)
def gaussian_term(w_plus_NRD: Tensor, prior: Prior, mean_ND: Tensor | None = None) -> Tensor:
    """Return how improbable each image's rows are under the prior, summed over rows: ``[N]`` float64.

    Args:
        w_plus_NRD: ``[N, num_ws, w_dim]`` floating.
        prior: on the same device.
        mean_ND: means of the images' own priors, ``[N, w_dim]`` float64; None is that of the prior.

    Source: thesis Eq. 3.6 with the inverse covariance. The authors' code mixes the images of a batch; this does not.
    """
    mean = prior.mean if mean_ND is None else mean_ND[:, None]
    deviation_NRD = gaussianize(w_plus_NRD, prior.slope).double() - mean
    return (deviation_NRD @ prior.precision * deviation_NRD).sum(dim=(1, 2))


# Eq. 3.6, second term: Σ_n ‖w_n − w_0‖, squared as printed or not
def variation_term(w_plus_NRD: Tensor, *, squared: bool = False) -> Tensor:
    """Return the distance of each image's rows from its first, summed over rows: ``[N]``.

    If a row equals the first, its gradient is 0.

    Args:
        w_plus_NRD: ``[N, num_ws, w_dim]`` floating.
        squared: as printed in the thesis; not squared, as in the authors' code.
    """
    difference_NRD = w_plus_NRD[:, 1:] - w_plus_NRD[:, :1]
    if squared:
        return difference_NRD.square().sum(dim=(1, 2))
    distance_NR: Tensor = torch.linalg.vector_norm(difference_NRD, dim=2)
    return distance_NR.sum(dim=1)


# Eq. 3.7: Σ_Δf ‖Δf‖²
def delta_term(deltas: Mapping[str, Tensor]) -> Tensor:
    """Return the size of each image's deltas: the mean square over a layer, summed over spaces, ``[N]``.

    The deltas count before their masks, as in the authors' code. A space that an image does not use has
    a zero delta there and adds nothing, whatever its neighbours use.

    Args:
        deltas: ``[N, C, h, w]`` floating by feature space, at least one.

    Source: thesis Eq. 3.7, which prints the sum over the layer; the published weight goes with the mean.
    """
    sizes = (delta_NChw.square().mean(dim=(1, 2, 3)) for delta_NChw in deltas.values())
    return reduce(torch.add, sizes)  # one by one: another space of zeros must not change the rounding
