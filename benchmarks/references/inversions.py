"""Whole inversions against the authors' loop: gradients before the first step, the first steps, all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.harness.descent import descend
from benchmarks.references.comparison import GRADIENTS, Arrays, Row, Setting, guarded
from benchmarks.references.sam import FEATURES, FOLDER, published_prior, recipe_generator, recipe_vgg
from generators.generator import Generator
from generators.latents import W_PLUS, Codes, zero_deltas
from generators.prior import Prior
from stages.engine.schedule import Schedule
from stages.maps.region import Region, crop
from stages.objective.objective import Objective, Target, losses, prepare_target
from stages.perceptual.distance import Perceptual

FIRST = 5
TERMS = {"mse": "mse", "lpips": "lpips", "gaussian": "mvg", "variation": "delta", "delta": "frec", "total": "total"}
TOLERANCES = {"total": 5e-3, "delta": 5e-2}
TERM, W_MOST, W_USUAL, W_UNUSUAL, IMAGE_MEAN = 2e-2, 2e-3, 2e-4, 0.005, 0.01
"""The reference data's own: the loop is chaotic, and an element with hardly any gradient may step either way."""

NOT_COMPARED = {
    f"{FOLDER}/inversion_*/final_W+|final_F*": "chaotic: a change of 1e-6 moves the final image by 0.035",
    f"{FOLDER}/inversion_*/grad1_*|W+_after_step1": "step 0 has rate 0, so grad1 is grad0",
}


class Opening(Schedule):
    """The first steps of a longer schedule."""

    of: int

    def rate(self, step: int) -> float:
        """Return the rate of the longer schedule."""
        return Schedule(steps=self.of).rate(step)


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The start and the result of an inversion by the authors' code."""

    wanted: Arrays
    parts: tuple[Generator, Perceptual, Prior, Target, Codes, Objective]
    region: Region

    @classmethod
    def read(cls, setting: Setting, name: str, vgg: Perceptual) -> Inversion:
        """Return the square case or the case of cars."""
        square = name == "square"
        wanted = setting.arrays(f"{FOLDER}/inversion_{name}_const_noise.npz")
        if square:
            statistics = setting.arrays(f"{FOLDER}/mvg_stats_w512.npz")
            wanted |= {key: statistics[key] for key in ("mean_v", "inv_cov_v")}
        generator = recipe_generator(setting, "G256_w512" if square else "G512_cars")
        objective = Objective() if square else Objective(lambda_gaussian=1e-5)
        region = Region.whole(256) if square else Region(top=64, height=384, width=512)
        masks = {space: wanted[f"mask_{space}"] for space in FEATURES}
        codes = Codes(wanted["wp_init"], zero_deltas(masks, generator.feature_shapes, setting.device), masks)
        target = prepare_target(wanted["target_u8"] / 127.5 - 1, vgg, objective)
        return cls(wanted, (generator, vgg, published_prior(wanted), target, codes, objective), region)


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the comparisons: before the first step, after the first few, and after all unless quick."""
    vgg = recipe_vgg(setting)
    for name in ("square", "cars"):
        top = f"{FOLDER}/inversion_{name}"
        inversion = Inversion.read(setting, name, vgg)
        yield from guarded(top, _first_gradients(setting, top, inversion))
        yield from guarded(top, _first_steps(setting, top, inversion))
        if not setting.quick:
            yield from guarded(top, _all_steps(setting, top, inversion))


def _first_gradients(setting: Setting, top: str, inversion: Inversion) -> Iterator[Row]:
    generator, vgg, prior, target, codes, objective = inversion.parts
    leaves = {W_PLUS: codes.w_plus, **codes.deltas}
    leaves = {k: leaf.clone().requires_grad_() for k, leaf in leaves.items() if f"grad0_{k}" in inversion.wanted}
    deltas = {space: leaves.get(space, delta) for space, delta in codes.deltas.items()}
    now = Codes(leaves[W_PLUS], deltas, codes.masks)
    image = crop(generator.synthesize(now.w_plus, now.deltas, now.masks), inversion.region)
    loss = losses(image, now, target, vgg, prior, objective).sum()
    for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        wanted = inversion.wanted[f"grad0_{name}"]
        found = gradient if wanted.ndim else gradient.norm()  # of the largest deltas, only the norm was kept
        yield setting.row(f"{top}/grad0_{name}", found, wanted, GRADIENTS)


def _first_steps(setting: Setting, top: str, inversion: Inversion) -> Iterator[Row]:
    wanted = inversion.wanted
    found = descend(*inversion.parts, Opening(steps=FIRST, of=len(wanted["trace_lr"])), inversion.region)
    yield from _traces(setting, f"{top}/first {FIRST} steps", found.trace.terms, wanted)
    difference = (found.codes.w_plus - wanted["W+_after_step4"]).abs()
    yield Row(f"{top}/W+_after_step4 largest", float(difference.max()), W_MOST * setting.factor, "absolute")
    unusual = float((difference > W_USUAL * setting.factor).double().mean())
    yield Row(f"{top}/W+_after_step4 share beyond {W_USUAL}", unusual, W_UNUSUAL, "share of the elements")


def _all_steps(setting: Setting, top: str, inversion: Inversion) -> Iterator[Row]:
    generator, wanted = inversion.parts[0], inversion.wanted
    steps = len(wanted["trace_lr"])
    found = descend(*inversion.parts, Schedule(steps=steps), inversion.region)
    yield from _traces(setting, f"{top}/all {steps} steps", found.trace.terms, wanted)
    with torch.no_grad():
        image = generator.synthesize(found.codes.w_plus, found.codes.deltas, found.codes.masks)
    name = "final_rec_stride2" if "final_rec_stride2" in wanted else "final_rec_cropped64_stride4"
    image = crop(image, inversion.region)
    step = image.shape[-1] // wanted[name].shape[-1]
    difference = (image[..., ::step, ::step] - wanted[name]).abs().mean()
    yield Row(f"{top}/{name} mean", float(difference), IMAGE_MEAN * setting.factor, "mean absolute difference")


def _traces(setting: Setting, top: str, terms: Any, wanted: Arrays) -> Iterator[Row]:  # noqa: ANN401  # by name
    for ours, theirs in TERMS.items():
        found = terms[ours][:, 0]
        tolerance = TOLERANCES.get(ours, TERM)
        yield setting.row(f"{top}/trace_{theirs}", found, wanted[f"trace_{theirs}"][: len(found)], tolerance)
