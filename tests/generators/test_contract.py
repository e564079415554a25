"""The contract of a generator, held by every family, out of every format."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generators import load_generator
from generators.checkpoints import save_generator
from generators.generator import Generator
from tests.generators.biggan_folder import tiny_biggan, write_folder
from tests.generators.converted import (
    rosinality_state,
    tensorflow_arguments,
    tensorflow_pickle,
    tensorflow_variables,
    torch_file,
)
from tests.generators.published import ada_arguments, network_pickle, sg3_arguments, tiny

Writer = Callable[[Generator, Path], Path]


def write_own(generator: Generator, folder: Path) -> Path:
    save_generator(generator, folder / "generator.safetensors", about="random")
    return folder / "generator.safetensors"


def write_ada(generator: Generator, folder: Path) -> Path:
    path = folder / "ada.pkl"
    path.write_bytes(network_pickle(generator.state_dict(), ada_arguments(generator.config)))
    return path


def write_sg3(generator: Generator, folder: Path) -> Path:
    path = folder / "sg3.pkl"
    path.write_bytes(network_pickle(generator.state_dict(), sg3_arguments(generator.config)))
    return path


def write_tensorflow(generator: Generator, folder: Path) -> Path:
    path = folder / "tensorflow.pkl"
    path.write_bytes(tensorflow_pickle(tensorflow_variables(generator), tensorflow_arguments(generator.config)))
    return path


def write_rosinality(generator: Generator, folder: Path) -> Path:
    path = folder / "rosinality.pt"
    path.write_bytes(torch_file({"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}))
    return path


# What is written, and how; None stays in memory. A format that gets a writer gets a line here.
MADE: dict[str, tuple[Callable[[], Generator], Writer | None]] = {
    "stylegan2 8 px": (lambda: tiny(8), None),
    "stylegan2 16 px": (lambda: tiny(16), None),
    "stylegan2 256 px": (lambda: tiny(256, channel_max=5), None),
    "stylegan2 own": (lambda: tiny(64), write_own),
    "stylegan2 own, labels": (lambda: tiny(64, c_dim=3), write_own),
    "stylegan2 ada": (lambda: tiny(32), write_ada),
    "stylegan2 ada, labels": (lambda: tiny(32, c_dim=3), write_ada),
    "stylegan2 sg3": (lambda: tiny(32, conv_clamp=256.0), write_sg3),
    "stylegan2 tensorflow": (lambda: tiny(32, c_dim=3, architecture="resnet"), write_tensorflow),
    "stylegan2 rosinality": (lambda: tiny(32, z_dim=5), write_rosinality),
    "biggan-deep": (lambda: tiny_biggan(attention_layer_position=99), None),
    "biggan-deep own": (tiny_biggan, write_own),
    "biggan-deep folder": (tiny_biggan, lambda generator, folder: write_folder(folder, generator)),
}
PUBLISHED = {
    "published ada": "1_stylegan2/sg2ada_r64/network-snapshot.pkl",
    "published ada, labels": "1_stylegan2/sg2ada_r64_cond10/network-snapshot.pkl",
    "published sg3": "1_stylegan2/sg3repo_stylegan2_r64/network-snapshot.pkl",
    "published tensorflow": "1_stylegan2/tf_config_f_r64/stylegan2-tf-format.pkl",
    "published rosinality": "1_stylegan2/rosinality_r64/rosinality_ckpt.pt",
    "published biggan-deep": "3_biggan/biggan_deep_128struct_ch8",
}
WRITTEN = [name for name, (_, write) in MADE.items() if write is not None]
FIRST_SPACES = {"stylegan2": "W+", "biggan_deep": "Z+"}


@pytest.fixture(scope="module", params=[*MADE, *PUBLISHED])
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    if request.param in PUBLISHED:
        shared: Path = request.getfixturevalue("shared")
        return load_generator(shared / "golden" / PUBLISHED[request.param])
    make, write = MADE[request.param]
    return make() if write is None else load_generator(write(make(), tmp_path_factory.mktemp("written")))


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_read_is_what_was_written(tmp_path: Path, name: str):
    make, write = MADE[name]
    made, loaded = make(), load_generator(write(make(), tmp_path))
    assert (loaded.family, loaded.spaces, loaded.num_ws) == (made.family, made.spaces, made.num_ws)
    wanted, found = made.synthesize(*codes(made)), loaded.synthesize(*codes(loaded))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_read_is_frozen_in_eval_mode_in_float32_and_has_a_digest(tmp_path: Path, name: str):
    make, write = MADE[name]
    loaded = load_generator(write(make(), tmp_path))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert len(loaded.digest) == 64


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
    assert generator.spaces[0] == FIRST_SPACES[generator.family]
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


def test_a_delta_is_added_to_the_feature_after_its_block(spacious: Generator):
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


@pytest.mark.parametrize("published", [False, True])
def test_a_mask_spares_its_part_without_a_delta_as_with_one_of_zeros(spacious: Generator, published: bool):
    w, deltas, masks = codes(spacious)
    direction = torch.randn(spacious.w_dim)
    space = spacious.spaces[1]
    others = {name: delta for name, delta in deltas.items() if name != space}
    zeros = {space: torch.zeros_like(deltas[space])}
    alone = spacious.edit(w, others, masks, direction, published=published)
    torch.testing.assert_close(alone, spacious.edit(w, others | zeros, masks, direction, published=published))
    unmasked = {name: mask for name, mask in masks.items() if name != space}
    assert not torch.allclose(alone, spacious.edit(w, others, unmasked, direction, published=published))


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
            image = None if after.image is None else (after.image + before.image) / 2
            after = type(after)(feature, image)
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


def test_nothing_is_read_back_from_the_device(generator: Generator):
    shapes, w = copy.deepcopy(generator).to("meta"), torch.empty(2, generator.num_ws, generator.w_dim, device="meta")
    deltas = {space: torch.empty(2, *shape, device="meta") for space, shape in generator.feature_shapes.items()}
    masks = {space: torch.empty(2, 1, *shape[1:], device="meta") for space, shape in generator.feature_shapes.items()}
    z, label = (None if tensor is None else tensor.to("meta") for tensor in inputs(generator))
    assert shapes.map(z, label).shape == w.shape
    side = generator.resolution
    assert shapes.synthesize(w, deltas, masks).shape == (2, 3, side, side)
    assert shapes.edit(w, deltas, masks, w[0]).shape == (2, 3, side, side)


def test_a_label_must_fit(generator: Generator):
    z, label = inputs(generator)
    with pytest.raises(ValueError, match="label must be"):
        generator.map(z, torch.zeros(2, generator.label_dim + 1))
    if label is not None:
        with pytest.raises(ValueError, match=rf"label must be \[2, {generator.label_dim}\], got None"):
            generator.map(z)


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
    for space in (generator.spaces[0], "F12"):
        with pytest.raises(ValueError, match="no feature space"):
            generator.synthesize(w, {space: torch.zeros(1)})
        with pytest.raises(ValueError, match="no feature space"):
            generator.feature_shape(space)
