"""A prior is estimated once per machine, and a cached prior is never confused with others."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from generators import GeneratorError, load_generator
from generators import prior as module
from generators.checkpoints import save_generator
from generators.generator import Generator
from generators.prior import Prior, cached_prior, estimate_prior, load_prior, prior_of, save_prior
from tests.generators.published import tiny
from tests.recipe import golden_generator

QUICK = {"samples": 50}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INVERTMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every prior that was estimated."""
    made = []
    monkeypatch.setattr(module, "estimate_prior", lambda *a, **k: made.append(1) or estimate_prior(*a, **k))
    return made


def loaded(folder: Path, seed: int = 0, **shape) -> Generator:
    path = folder / f"{seed}-{len(shape)}.safetensors"
    save_generator(tiny(seed=seed, **shape), path, about="random")
    return load_generator(path)


def same(a: Prior, b: Prior) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("mean", "precision", "mean_w"))


def test_a_saved_prior_is_loaded_bit_by_bit(tmp_path):
    prior = prior_of(torch.randn(20, 3))
    save_prior(prior, tmp_path / "prior", seed="7")
    assert same(load_prior(tmp_path / "prior", seed="7"), prior)
    assert same(load_prior(tmp_path / "prior"), prior)


def test_a_prior_about_something_else_is_refused(tmp_path):
    save_prior(prior_of(torch.randn(20, 3)), tmp_path / "prior", seed="7")
    with pytest.raises(GeneratorError, match="is of other settings: its seed is not as expected"):
        load_prior(tmp_path / "prior", seed="8")


def test_what_is_not_a_prior_is_refused(tmp_path):
    path = tmp_path / "prior"
    with pytest.raises(GeneratorError, match=r"cannot be read: .*No such file"):
        load_prior(path)
    path.write_bytes(b"\x80pickle")
    with pytest.raises(GeneratorError, match="cannot be read"):
        load_prior(path)
    good = {name: torch.ones(3, dtype=torch.float64) for name in ("mean", "mean_w")} | {"precision": torch.eye(3)}
    for tensors in ({}, {"mean": good["mean"]}, good, good | {"precision": torch.full((3, 3), torch.nan).double()}):
        save_file(tensors, path, {"format": module.FORMAT})
        with pytest.raises(GeneratorError, match="was not written by save_prior"):
            load_prior(path)


def test_a_prior_is_estimated_once(tmp_path, estimates):
    generator = loaded(tmp_path)
    first, second = cached_prior(generator, **QUICK), cached_prior(generator, **QUICK)
    assert len(estimates) == 1
    assert same(first, second)
    assert same(first, estimate_prior(generator, **QUICK))


def test_the_same_weights_share_a_prior_and_others_do_not(tmp_path, estimates):
    first, other = loaded(tmp_path), loaded(tmp_path, seed=1)
    shutil.copy(tmp_path / "0-0.safetensors", tmp_path / "copy")
    for generator in (first, load_generator(tmp_path / "copy"), other):
        cached_prior(generator, **QUICK)
    assert len(estimates) == 2


@pytest.mark.parametrize(
    "change", [{"samples": 60}, {"seed": 1}, {"published_mean": True}, {"shrinkage": 0.1}, {"label": torch.eye(3)[1]}]
)
def test_every_argument_has_a_prior_of_its_own(tmp_path, estimates, change):
    generator = loaded(tmp_path, c_dim=3)
    usual, other = cached_prior(generator, **QUICK), cached_prior(generator, **QUICK | change)
    assert len(estimates) == 2
    assert not same(usual, other)
    assert same(other, estimate_prior(generator, **QUICK | change))


def test_processes_that_ask_together_estimate_once(tmp_path, estimates):
    generator = loaded(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        priors = list(pool.map(lambda _: cached_prior(generator, **QUICK), range(4)))
    assert len(estimates) == 1
    assert all(same(prior, priors[0]) for prior in priors)


def test_a_damaged_prior_is_estimated_again(tmp_path, estimates, cache):
    generator = loaded(tmp_path)
    wanted = cached_prior(generator, **QUICK)
    (path,) = (cache / "priors").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert same(cached_prior(generator, **QUICK), wanted)
    assert same(cached_prior(generator, **QUICK), wanted)
    assert len(estimates) == 2


def test_a_prior_with_one_flipped_bit_is_estimated_again(tmp_path, estimates, cache):
    generator = loaded(tmp_path)
    wanted = cached_prior(generator, **QUICK)
    (path,) = (cache / "priors").iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(GeneratorError, match="is damaged: its numbers do not match its SHA-256"):
        load_prior(path)
    assert same(cached_prior(generator, **QUICK), wanted)
    assert same(load_prior(path), wanted)
    assert len(estimates) == 2


def test_a_generator_made_in_memory_is_never_kept(estimates, cache):
    cached_prior(tiny(), **QUICK)
    cached_prior(tiny(), **QUICK)
    assert len(estimates) == 2
    assert not cache.exists()


@pytest.mark.parametrize("chosen", ["file", None])
def test_without_a_cache_the_prior_is_estimated_as_ever(tmp_path, estimates, monkeypatch, chosen):
    (tmp_path / "file").write_bytes(b"")
    if chosen:
        monkeypatch.setenv("INVERTMILL_CACHE", str(tmp_path / chosen))
    else:
        monkeypatch.delenv("INVERTMILL_CACHE")
        monkeypatch.setattr(Path, "home", classmethod(lambda _: (_ for _ in ()).throw(RuntimeError("no home"))))
    generator = loaded(tmp_path)
    assert same(cached_prior(generator, **QUICK), cached_prior(generator, **QUICK))
    assert len(estimates) == 2


def test_a_kept_prior_reaches_the_golden_statistics(shared: Path):
    generator = golden_generator(shared, "G256_w512")
    generator.digest = "golden"
    arguments = {"samples": 5000, "published_mean": True}
    cached_prior(generator, **arguments)
    prior = cached_prior(generator, **arguments)
    with np.load(shared / "golden/2_sam/mvg_stats_w512.npz") as golden:
        wanted = {key: torch.from_numpy(golden[key]) for key in ("mean_v", "mean_w", "inv_cov_v")}
    torch.testing.assert_close(prior.mean.float(), wanted["mean_v"], rtol=0, atol=1e-5)
    torch.testing.assert_close(prior.mean_w.float(), wanted["mean_w"], rtol=0, atol=1e-5)
    covariance, reference = torch.linalg.inv(prior.precision), torch.linalg.inv(wanted["inv_cov_v"])
    assert (covariance - reference).norm() / reference.norm() < 1e-5
    assert (prior.precision - wanted["inv_cov_v"]).norm() / wanted["inv_cov_v"].norm() < 1e-3
