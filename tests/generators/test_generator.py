"""The contract of a generator, held by every one of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from generators import load_generator
from generators.generator import Generator
from tests.generators.published import tiny
from tests.recipe import golden_generator, normal

GOLDEN = ("sg2ada_r64", "sg2ada_r64_cond10", "sg3repo_stylegan2_r64")
MADE = {
    "8 px": lambda: tiny(8),
    "16 px": lambda: tiny(16),
    "64 px": lambda: tiny(64),
    "64 px with labels": lambda: tiny(64, c_dim=3),
    "256 px": lambda: tiny(256, channel_max=5),
}


@pytest.fixture(scope="module", params=[*MADE, *GOLDEN])
def generator(request: pytest.FixtureRequest) -> Generator:
    if request.param in MADE:
        return MADE[request.param]()
    shared: Path = request.getfixturevalue("shared")
    return load_generator(shared / "golden/1_stylegan2" / request.param / "network-snapshot.pkl")


@pytest.fixture
def spacious(generator: Generator) -> Generator:
    if len(generator.spaces) == 1:
        pytest.skip("this generator is too small for a feature space")
    return generator


def inputs(generator: Generator, count: int = 2) -> tuple[Tensor, Tensor | None]:
    torch.manual_seed(0)
    label = torch.eye(generator.label_dim)[:count] if generator.label_dim else None
    return torch.randn(count, generator.z_dim), label


def codes(generator: Generator, count: int = 2) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return w, and a delta and a soft mask for every feature space."""
    w = generator.map(*inputs(generator, count))
    w = w + 0.1 * torch.randn(w.shape)
    shapes = generator.feature_shapes
    deltas = {space: torch.randn(count, *shape) for space, shape in shapes.items()}
    masks = {space: torch.rand(count, 1, *shape[1:]) for space, shape in shapes.items()}
    return w, deltas, masks


def binary(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {space: (mask > 0.5).float() for space, mask in masks.items()}


def states(generator: Generator, w_of_block: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    state = generator.begin(w_of_block[0])
    for index, w in enumerate(w_of_block):
        state = generator.run_block(index, state, w)
        yield index, state


def test_shapes_are_those_it_promises(generator: Generator):
    w = generator.map(*inputs(generator))
    assert w.shape == (2, generator.num_ws, generator.w_dim)
    assert generator.synthesize(w).shape == (2, 3, generator.resolution, generator.resolution)


def test_spaces_are_the_feature_spaces_in_the_order_of_their_blocks(generator: Generator):
    assert generator.spaces[1:] == tuple(space for space in generator.block_spaces if space is not None)
    assert generator.spaces[0] == "W+"
    sizes = [generator.feature_shape(space)[1] for space in generator.spaces[1:]]
    assert sizes == sorted(sizes)
    assert list(generator.feature_shapes) == list(generator.spaces[1:])


def test_features_have_the_shape_it_promises(generator: Generator):
    w = generator.map(*inputs(generator))
    for index, state in states(generator, [w] * len(generator.block_spaces)):
        space = generator.block_spaces[index]
        assert space is None or state.feature.shape == (2, *generator.feature_shape(space))


def test_an_image_does_not_depend_on_its_batch(generator: Generator):
    w, deltas, masks = codes(generator, 3)
    together = generator.synthesize(w, deltas, masks)
    scale = float(together.abs().max())
    for i in range(3):
        one = slice(i, i + 1)
        alone = generator.synthesize(
            w[one], {s: delta[one] for s, delta in deltas.items()}, {s: mask[one] for s, mask in masks.items()}
        )
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-5 * scale)


def test_the_same_codes_make_the_same_image(generator: Generator):
    w, deltas, masks = codes(generator)
    assert torch.equal(generator.synthesize(w, deltas, masks), generator.synthesize(w, deltas, masks))


def test_rows_of_w_act_one_by_one(generator: Generator):
    w, _, _ = codes(generator, 1)
    image = generator.synthesize(w)
    for row in range(generator.num_ws):
        changed = w.clone()
        changed[:, row] += 1
        assert not torch.allclose(generator.synthesize(changed), image)


def test_zero_deltas_change_nothing(generator: Generator):
    w, deltas, masks = codes(generator)
    zeros = {space: torch.zeros_like(delta) for space, delta in deltas.items()}
    assert torch.equal(generator.synthesize(w, zeros, masks), generator.synthesize(w))


def test_empty_masks_change_nothing(generator: Generator):
    w, deltas, masks = codes(generator)
    empty = {space: torch.zeros_like(mask) for space, mask in masks.items()}
    assert torch.equal(generator.synthesize(w, deltas, empty), generator.synthesize(w))


def test_a_delta_without_a_mask_acts_everywhere(generator: Generator):
    w, deltas, masks = codes(generator)
    full = {space: torch.ones_like(mask) for space, mask in masks.items()}
    assert torch.equal(generator.synthesize(w, deltas, full), generator.synthesize(w, deltas))


def test_a_delta_in_any_space_changes_the_image(spacious: Generator):
    w, deltas, masks = codes(spacious)
    image = spacious.synthesize(w)
    for space in deltas:
        assert not torch.allclose(spacious.synthesize(w, {space: deltas[space]}, masks), image)


def test_a_delta_is_added_to_the_feature_behind_its_block(spacious: Generator):
    w, deltas, masks = codes(spacious)
    space = spacious.spaces[-1]
    state = spacious.begin(w)
    for index, name in enumerate(spacious.block_spaces):
        state = spacious.run_block(index, state, w)
        if name == space:
            state = type(state)(state.feature + masks[space] * deltas[space], state.image)
    wanted = spacious.finish(state)
    assert torch.equal(spacious.synthesize(w, {space: deltas[space]}, {space: masks[space]}), wanted)


def test_gradients_reach_w_and_every_delta(generator: Generator):
    w, deltas, masks = codes(generator)
    leaves = [w.requires_grad_(), *(delta.requires_grad_() for delta in deltas.values())]
    generator.synthesize(w, deltas, masks).square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves)


def test_a_zero_edit_is_the_reconstruction_for_any_mask(generator: Generator):
    w, deltas, masks = codes(generator)
    direction = torch.zeros(generator.w_dim)
    assert torch.equal(generator.edit(w, deltas, masks, direction), generator.synthesize(w, deltas, masks))


def test_a_zero_edit_as_published_is_the_reconstruction_for_binary_masks_only(spacious: Generator):
    w, deltas, masks = codes(spacious)
    direction = torch.zeros(spacious.w_dim)

    def edited(masks: dict[str, Tensor]) -> Tensor:
        return spacious.edit(w, deltas, masks, direction, published=True)

    assert torch.equal(edited(binary(masks)), spacious.synthesize(w, deltas, binary(masks)))
    assert not torch.allclose(edited(masks), spacious.synthesize(w, deltas, masks))


@pytest.mark.parametrize("published", [False, True])
def test_an_edit_without_deltas_is_a_change_of_w(generator: Generator, published: bool):
    w, _, _ = codes(generator)
    direction = torch.randn(generator.num_ws, generator.w_dim)
    edited = generator.edit(w, {}, {}, direction, published=published)
    torch.testing.assert_close(edited, generator.synthesize(w + direction))


def test_a_full_mask_feels_an_edit_only_after_its_layer(spacious: Generator):
    w, deltas, _ = codes(spacious)
    direction = torch.randn(2, spacious.num_ws, spacious.w_dim)
    for space in spacious.spaces[1:]:
        delta = {space: deltas[space]}
        state = spacious.begin(w)
        for index, name in enumerate(spacious.block_spaces):
            passed = index > spacious.block_spaces.index(space)
            state = spacious.run_block(index, state, w + direction if passed else w)
            if name == space:
                state = type(state)(state.feature + deltas[space], state.image)
        full = {space: torch.ones(2, 1, *spacious.feature_shape(space)[1:])}
        torch.testing.assert_close(spacious.edit(w, delta, full, direction), spacious.finish(state))
        assert torch.equal(spacious.edit(w, delta, {}, direction), spacious.edit(w, delta, full, direction))


def test_an_empty_mask_feels_an_edit_in_every_layer(spacious: Generator):
    w, deltas, masks = codes(spacious)
    empty = {space: torch.zeros_like(mask) for space, mask in masks.items()}
    direction = torch.randn(spacious.w_dim)
    edited = spacious.edit(w, deltas, empty, direction)
    torch.testing.assert_close(edited, spacious.synthesize(w + direction))


def test_half_masks_worked_by_hand(spacious: Generator):
    w, deltas, _ = codes(spacious)
    direction = torch.randn(spacious.w_dim)
    space = spacious.spaces[1]
    mask = torch.full((2, 1, *spacious.feature_shape(space)[1:]), 0.5)
    before, after = spacious.begin(w), spacious.begin(w + direction)
    for index, name in enumerate(spacious.block_spaces):
        before, after = spacious.run_block(index, before, w), spacious.run_block(index, after, w + direction)
        if name == space:
            change = deltas[space] / 2
            feature = ((after.feature + change) + (before.feature + change)) / 2
            after = type(after)(feature, (after.image + before.image) / 2)
    edited = spacious.edit(w, {space: deltas[space]}, {space: mask}, direction)
    torch.testing.assert_close(edited, spacious.finish(after), rtol=1e-4, atol=1e-4)


def test_features_of_both_rules_agree_for_binary_masks(spacious: Generator, monkeypatch: pytest.MonkeyPatch):
    w, deltas, masks = codes(spacious)
    direction = torch.randn(spacious.w_dim)
    monkeypatch.setattr(spacious, "finish", lambda state: state.feature)
    ours, theirs = (
        spacious.edit(w, deltas, binary(masks), direction, published=published) for published in (False, True)
    )
    torch.testing.assert_close(ours, theirs)


def test_wrong_shapes_are_refused_with_what_was_wanted_and_what_came(generator: Generator):
    w, _, _ = codes(generator)
    rows, w_dim = generator.num_ws, generator.w_dim
    for wrong in (w[0], w[:, 1:], w[..., 1:]):
        with pytest.raises(ValueError, match="w must be") as caught:
            generator.synthesize(wrong)
        assert str(caught.value) == f"w must be [N, {rows}, {w_dim}], got {list(wrong.shape)}"
    for wrong in (torch.zeros(w_dim + 1), torch.zeros(3, rows, w_dim), torch.zeros(1, 1, rows, w_dim)):
        with pytest.raises(ValueError, match="direction must broadcast to") as caught:
            generator.edit(w, {}, {}, wrong)
        assert f"[2, {rows}, {w_dim}], got {list(wrong.shape)}" in str(caught.value)
    with pytest.raises(ValueError, match=rf"z must be \[N, {generator.z_dim}\], got \[2, {generator.z_dim + 1}\]"):
        generator.map(torch.zeros(2, generator.z_dim + 1))


def test_wrong_deltas_and_masks_are_refused_with_what_was_wanted_and_what_came(spacious: Generator):
    w, deltas, masks = codes(spacious)
    space = spacious.spaces[-1]
    channels, height, width = spacious.feature_shape(space)
    with pytest.raises(ValueError, match=f"the delta of {space} must be") as caught:
        spacious.synthesize(w, {space: deltas[space][..., 1:]})
    assert f"[2, {channels}, {height}, {width}], got [2, {channels}, {height}, {width - 1}]" in str(caught.value)
    with pytest.raises(ValueError, match=f"the mask of {space} must be") as caught:
        spacious.edit(w, deltas, {space: masks[space][:1]}, torch.zeros(spacious.w_dim))
    assert f"[2, 1, {height}, {width}], got [1, 1, {height}, {width}]" in str(caught.value)


def test_spaces_it_does_not_have_are_refused(generator: Generator):
    w, _, _ = codes(generator)
    for space in ("W+", "F12"):
        with pytest.raises(ValueError, match="no feature space"):
            generator.synthesize(w, {space: torch.zeros(1)})
        with pytest.raises(ValueError, match="no feature space"):
            generator.feature_shape(space)


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
