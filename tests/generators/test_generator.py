"""Image formation and editing against the authors' own, run on a generator of 256 px."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recipe import golden_generator, normal


def binary(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {space: (mask > 0.5).float() for space, mask in masks.items()}


class Forward:
    """The reference of the authors' image formation and editing, and what it was made from."""

    def __init__(self, shared: Path) -> None:
        with np.load(shared / "golden/2_sam/forward_edit.npz") as arrays:
            self.wanted = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.generator = golden_generator(shared, "G256_w512")
        self.w = self.wanted["lat_W+"]
        self.deltas = {space: self.wanted[f"lat_{space}"] for space in ("F4", "F6")}
        for space in ("F8", "F10"):
            numbers = 0.4 * normal(f"forward:{space}", (1, *self.generator.feature_shape(space)))
            self.deltas[space] = torch.from_numpy(numbers.astype(np.float32))
        self.masks = {space: self.wanted[f"mask_{space}"] for space in self.deltas}

    def distance(self, image: Tensor, name: str) -> float:
        wanted = self.wanted[name]
        step = image.shape[-1] // wanted.shape[-1]
        found = image[:, : wanted.shape[1], ::step, ::step]
        return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.fixture(scope="module")
def forward(shared: Path) -> Forward:
    return Forward(shared)


def test_all_spaces_together_form_the_image_of_the_reference(forward: Forward, monkeypatch: pytest.MonkeyPatch):
    generator, w, deltas, masks = forward.generator, forward.w, forward.deltas, forward.masks
    assert forward.distance(generator.synthesize(w, deltas, masks), "img_multi_const") < 1e-5
    assert forward.distance(generator.synthesize(w, deltas, binary(masks)), "img_multi_binmask_const") < 1e-5
    monkeypatch.setattr(generator, "noise", "none")
    assert forward.distance(generator.synthesize(w, deltas, masks), "img_multi_none") < 1e-5


@pytest.mark.parametrize("space", ["W+", "F4", "F6", "F8", "F10"])
def test_each_space_alone_forms_the_image_of_the_reference(forward: Forward, space: str):
    deltas = {space: forward.deltas[space]} if space != "W+" else {}
    image = forward.generator.synthesize(forward.w, deltas)
    assert forward.distance(image, f"img_single_{space}_const") < 1e-5


def test_features_on_the_way_equal_the_reference(forward: Forward):
    generator = forward.generator
    state = generator.begin(forward.w)
    for index, space in enumerate(generator.block_spaces):
        state = generator.run_block(index, state, forward.w)
        if space is not None:
            state = type(state)(state.feature + forward.masks[space] * forward.deltas[space], state.image)
            name = f"partial_{space}_const"
            assert forward.distance(state.feature, name if space in ("F4", "F6") else f"{name}_first4ch") < 1e-5


@pytest.mark.parametrize(
    ("name", "direction", "scale"),
    [
        ("img_edit_const", "edit_dir", 1),
        ("img_edit_all_x2_const", "edit_dir_all", 2),
        ("img_edit_zero_const", "edit_dir", 0),
    ],
)
def test_the_published_edit_equals_the_reference_for_soft_masks(forward: Forward, name, direction, scale):
    change = scale * forward.wanted[direction]
    image = forward.generator.edit(forward.w, forward.deltas, forward.masks, change, published=True)
    assert forward.distance(image, name) < 1e-5


def test_the_published_edit_equals_the_reference_for_binary_masks(forward: Forward):
    masks = binary(forward.masks)
    image = forward.generator.edit(forward.w, forward.deltas, masks, forward.wanted["edit_dir"], published=True)
    assert forward.distance(image, "img_edit_binmask_const") < 1e-5


def test_a_zero_edit_misses_the_reconstruction_by_as_much_as_the_reference_says(forward: Forward):
    arguments = (forward.w, forward.deltas, forward.masks)
    image, zero = forward.generator.synthesize(*arguments), torch.zeros(512)
    theirs = forward.generator.edit(*arguments, zero, published=True)
    wanted = float(forward.wanted["edit_zero_minus_recon_maxabs"])
    assert float((theirs - image).abs().max()) == pytest.approx(wanted, rel=1e-4)
    assert torch.equal(forward.generator.edit(*arguments, zero), image)
