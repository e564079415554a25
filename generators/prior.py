"""The Gaussian prior on w: statistics of w made Gaussian (thesis Eq. 3.6)."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from generators.errors import GeneratorError
from generators.generator import Generator
from infra.fetching.cache import cache_folder, one_at_a_time
from infra.files import put

FORMAT = "invertmill-prior"
VERSION = 1  # raise it when the same arguments give another prior
RIDGE = 1e-8  # added to the covariance, as in the published statistics


@dataclass(frozen=True, eq=False)
class Prior:
    """What ŵ looks like: ``mean [w_dim]`` and ``precision [w_dim, w_dim]`` (inverse covariance), and the mean w.

    All are float64, because the covariance of a generator has a condition number of 1e8 and more. ``mean_w [w_dim]``
    is not part of Eq. 3.6: it is where an inversion without an encoder starts.
    """

    mean: Tensor
    precision: Tensor
    mean_w: Tensor
    slope: float = 5.0
    """Of `gaussianize`; that of the generator."""

    def to(self, device: torch.device | str) -> Prior:
        """Return the same prior on another device."""
        return Prior(self.mean.to(device), self.precision.to(device), self.mean_w.to(device), self.slope)


def save_prior(prior: Prior, path: Path, **about: str) -> None:
    """Write a prior as safetensors, whole or not at all; `about` gives its origin."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(prior).items()}
    put(path, safetensors.torch.save(tensors, {"format": FORMAT, "sha256": _checksum(tensors), **about}))


def load_prior(path: Path, **about: str) -> Prior:
    """Return a prior that `save_prior` wrote, on the CPU.

    Raises:
        GeneratorError: the file is missing, truncated or altered, holds no prior, or one of something else.
    """
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (OSError, SafetensorError, ValueError) as error:
        raise GeneratorError(f"prior {path} cannot be read: {error}") from error
    side = len(tensors["mean"]) if "mean" in tensors else 0
    wanted = {"mean": [side], "precision": [side, side], "mean_w": [side], "slope": []}
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if metadata.get("format") != FORMAT or found != wanted or any(_is_odd(tensor) for tensor in tensors.values()):
        raise GeneratorError(f"{path} is not a prior: it was not written by save_prior")
    if metadata.get("sha256") != _checksum(tensors):
        raise GeneratorError(f"prior {path} is damaged: its numbers do not match its SHA-256; delete it")
    if different := [name for name, value in about.items() if metadata.get(name) != value]:
        raise GeneratorError(f"prior {path} is of other settings: its {', '.join(different)} is not as expected")
    return Prior(tensors["mean"], tensors["precision"], tensors["mean_w"], float(tensors["slope"]))


def gaussianize(w: Tensor, slope: float = 5.0) -> Tensor:
    """Return ŵ = LeakyReLU(w, slope), which undoes the mapping network's last nonlinearity up to a factor (Eq. 3.6).

    Args:
        w: any shape, floating; the result has the same.
        slope: 5 for StyleGAN2; 1 leaves w, for generators whose codes need no undoing (BigGAN-deep).
    """
    return F.leaky_relu(w, slope)


def estimate_prior(
    generator: Generator,
    samples: int = 10_000,
    seed: int = 0,
    *,
    published_mean: bool = False,
    shrinkage: float = 0.0,
    label: Tensor | None = None,
    batch: int = 2_000,
) -> Prior:
    """Return the prior of a generator from random draws, on the CPU.

    Args:
        generator: whose w is drawn, on any device.
        samples: number of draws; more than ``w_dim``, or the covariance has no inverse without shrinkage.
        seed: of the draws, which do not depend on the device or the batch.
        published_mean: see `prior_of`.
        shrinkage: see `prior_of`.
        label: see `draw_w`.
        batch: draws mapped together; limited by memory.

    Raises:
        ValueError: see `prior_of` and `draw_w`.
    """
    w = draw_w(generator, samples, seed, label=label, batch=batch)
    return prior_of(w, published_mean=published_mean, shrinkage=shrinkage, slope=generator.gaussian_slope)


def cached_prior(
    generator: Generator,
    samples: int = 10_000,
    seed: int = 0,
    *,
    published_mean: bool = False,
    shrinkage: float = 0.0,
    label: Tensor | None = None,
) -> Prior:
    """Return `estimate_prior` of the same arguments, estimated once per machine and then kept in the cache.

    Processes that request it at the same time wait for the first. Without a digest (a generator made in memory) or a
    writable cache, the prior is estimated every time.

    Raises:
        ValueError: see `estimate_prior`.
    """
    identity = {
        "version": VERSION,
        "samples": samples,
        "seed": seed,
        "published_mean": published_mean,
        "shrinkage": shrinkage,
        "label": None if label is None else label.tolist(),
    }
    about = {"generator": generator.digest, "arguments": json.dumps(identity)}
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    folder = _folder() if generator.digest else None
    with one_at_a_time(key) if folder else contextlib.nullcontext():
        if folder:
            with contextlib.suppress(GeneratorError):
                return load_prior(folder / f"{key}.safetensors", **about)
        prior = estimate_prior(
            generator, samples, seed, published_mean=published_mean, shrinkage=shrinkage, label=label
        )
        if folder:
            with contextlib.suppress(OSError):
                save_prior(prior, folder / f"{key}.safetensors", **about)
        return prior


@torch.no_grad()
def draw_w(
    generator: Generator, samples: int, seed: int = 0, *, label: Tensor | None = None, batch: int = 2_000
) -> Tensor:
    """Return w of random z, ``[samples, w_dim]`` on the CPU.

    Args:
        generator: whose mapping is used, without truncation; of each code the first row is returned.
        samples: number of draws.
        seed: of z, and of the classes where those are drawn.
        label: ``[label_dim]``, for all draws; without one, a conditional generator gets a random class for each draw.
        batch: draws mapped together.

    Raises:
        ValueError: the label does not fit the generator.
    """
    random = torch.Generator().manual_seed(seed)
    z_Sz = torch.randn(samples, generator.z_dim, generator=random)
    labels_Sl = _labels(generator, samples, label, random)
    weight = next(generator.parameters())
    drawn = []
    for first in range(0, samples, batch):
        part = slice(first, first + batch)
        labels = None if labels_Sl is None else labels_Sl[part].to(weight)
        drawn.append(generator.map(z_Sz[part].to(weight), labels)[:, 0].cpu())
    return torch.cat(drawn)


# Thesis Eq. 3.6 prints Σ; the intended Mahalanobis distance, as in the authors' code, needs Σ⁻¹.
def prior_of(w_SD: Tensor, *, published_mean: bool = False, shrinkage: float = 0.0, slope: float = 5.0) -> Prior:
    """Return the prior of the given draws of w.

    Args:
        w_SD: ``[S, w_dim]`` floating, S independent draws of w.
        published_mean: take LeakyReLU(mean of w) for the mean, as the authors' code does, instead of the mean of ŵ;
            the two differ wherever w takes both signs, by up to 0.65 in the network that was measured.
        shrinkage: how far to move the covariance towards the sphere: this share of the mean eigenvalue is added to each
            eigenvalue. 0 leaves the covariance as it is, which is right for trained generators of 512 dimensions;
            a small generator whose ŵ barely varies in some directions (eigenvalues from 1e-5 to 60) needs about 1e-3,
            since otherwise those directions alone decide the prior.
        slope: see `gaussianize`.

    Raises:
        ValueError: too few draws, a negative shrinkage, or a covariance that cannot be inverted.
    """
    _check_draws(w_SD, shrinkage)
    w = w_SD.double()
    w_hat = gaussianize(w, slope)
    covariance = torch.cov(w_hat.T).reshape(w.shape[1], w.shape[1])
    ridge = RIDGE + shrinkage * covariance.diagonal().mean()  # the mean of the diagonal is that of the eigenvalues
    root, failed = torch.linalg.cholesky_ex(covariance + ridge * torch.eye(len(covariance), dtype=w.dtype))
    if bool(failed) or not bool(torch.isfinite(root).all()):
        raise ValueError(
            f"the covariance of {len(w)} draws of w has no inverse: check that the generator's w is finite "
            "and varies, or set shrinkage above 0"
        )
    mean_w = w.mean(dim=0)
    mean = gaussianize(mean_w, slope) if published_mean else w_hat.mean(dim=0)
    return Prior(mean, torch.cholesky_inverse(root), mean_w, slope)


def _folder() -> Path | None:
    with contextlib.suppress(OSError):
        return cache_folder() / "priors"
    return None


def _tensors(prior: Prior) -> Mapping[str, Tensor]:
    slope = torch.tensor(prior.slope, dtype=torch.float64)
    return {"mean": prior.mean, "precision": prior.precision, "mean_w": prior.mean_w, "slope": slope}


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of the numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _is_odd(tensor: Tensor) -> bool:
    return tensor.dtype != torch.float64 or not bool(tensor.isfinite().all())


def _check_draws(w_SD: Tensor, shrinkage: float) -> None:
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage must be at least 0, got {shrinkage}")
    if w_SD.ndim != 2 or len(w_SD) < 2:
        raise ValueError(f"expected at least 2 draws of w, [S, w_dim], got {list(w_SD.shape)}")
    if len(w_SD) <= w_SD.shape[1] and shrinkage == 0:
        raise ValueError(
            f"{len(w_SD)} draws do not determine the covariance of {w_SD.shape[1]} dimensions: "
            f"draw more than {w_SD.shape[1]} samples (10,000 are usual), or set shrinkage above 0"
        )


def _labels(generator: Generator, samples: int, label: Tensor | None, random: torch.Generator) -> Tensor | None:
    if label is not None:
        if list(label.shape) != [generator.label_dim]:
            raise ValueError(f"label must be [{generator.label_dim}], got {list(label.shape)}")
        return label.float().expand(samples, -1)
    if generator.label_dim == 0:
        return None
    classes_S = torch.randint(generator.label_dim, (samples,), generator=random)
    return F.one_hot(classes_S, generator.label_dim).float()
