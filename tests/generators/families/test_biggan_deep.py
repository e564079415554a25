import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from generators import load_generator
from generators.families.biggan_deep import BatchNorm, BigGANDeepConfig
from generators.formats.biggan_deep import published_shapes
from generators.formats.weights import network
from tests.generators.biggan_folder import LAYERS, tiny_biggan
from tests.generators.reference import distance

REFERENCE = "golden/3_biggan/biggan_deep_128struct_ch8"
TRUNCATIONS = {0.02: "img_t0p02", 0.43: "img_t0p43", 0.7: "img_t0p7", 0.999: "img_t0p999", 1.0: "img_t1p0"}


@pytest.fixture(scope="module")
def wanted(shared: Path) -> dict[str, NDArray[np.float32]]:
    with np.load(shared / REFERENCE / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def inputs(wanted) -> tuple[torch.Tensor, torch.Tensor]:
    """z, and classes of which the second is a mixture."""
    z, classes = torch.from_numpy(wanted["z"]), torch.from_numpy(wanted["class_vec"])
    assert (classes > 0).sum(dim=1).tolist() != [1, 1]
    return z, classes


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_images_equal_the_reference_at_every_truncation(shared: Path, wanted, inputs, truncation: float):
    generator = load_generator(shared / REFERENCE, truncation=truncation)
    w = generator.map(*inputs)
    assert distance(w[:, 0], wanted["cond_vector"]) < 1e-5
    assert distance(generator.synthesize(w), wanted[TRUNCATIONS[truncation]]) < 1e-5


def test_every_layer_equals_the_reference(shared: Path, wanted, inputs):
    generator = load_generator(shared / REFERENCE, truncation=0.4)
    w = generator.map(*inputs)
    assert distance(w[:, 3, generator.z_dim :], wanted["t0p4_embed"]) < 1e-5
    state = generator.begin(w)
    assert distance(state.feature.permute(0, 2, 3, 1).flatten(1), wanted["t0p4_gen_z_out"]) < 1e-5
    for index in range(len(generator.config.layers)):
        layer = index
        if index >= generator.config.attention_layer_position:
            layer += 1
        if layer == index + 1 == 9:
            assert distance(generator.layers[8](state.feature)[:1], wanted["t0p4_layer8_out"]) < 1e-5
        state = generator.run_block(index, state, w)
        if (name := f"t0p4_layer{layer}_out") in wanted:
            assert distance(state.feature[: len(wanted[name])], wanted[name]) < 1e-5
    assert distance(generator.finish(state)[:1], wanted["t0p4_img"]) < 1e-5


def test_gradients_equal_the_reference(shared: Path, wanted, inputs):
    generator = load_generator(shared / REFERENCE, truncation=0.4)
    z, classes = (tensor[:1].clone().requires_grad_() for tensor in inputs)
    generator.synthesize(generator.map(z, classes)).square().sum().backward()
    assert distance(z.grad, wanted["grad_z"]) < 1e-4
    assert distance(classes.grad, wanted["grad_class"]) < 1e-4


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_names_and_shapes_at_real_size_are_the_published_ones(shared: Path, resolution: int):
    published = json.loads((shared / f"golden/keys/biggan-deep-{resolution}.json").read_text())
    config = BigGANDeepConfig.model_validate(published["config"])
    generator = network(config, len(published["state_dict"]))
    assert {name: list(shape) for name, shape in published_shapes(generator).items()} == published["state_dict"]


@pytest.mark.parametrize(("resolution", "blocks"), [(128, 10), (256, 12), (512, 14)])
def test_real_sizes_have_a_row_for_each_block_and_f2_at_8_px(shared: Path, resolution: int, blocks: int):
    config = json.loads((shared / f"golden/keys/biggan-deep-{resolution}.json").read_text())["config"]
    generator = network(BigGANDeepConfig.model_validate(config), 1000)
    assert (generator.resolution, generator.label_dim) == (resolution, 1000)
    assert (generator.z_dim, generator.w_dim, generator.num_ws) == (128, 256, blocks + 1)
    assert generator.feature_shapes == {"F2": (2048, 8, 8)}
    image = generator.synthesize(torch.empty(1, blocks + 1, 256, device="meta"))
    assert image.shape == (1, 3, resolution, resolution)


def test_statistics_are_chosen_as_published():
    norm = BatchNorm(1, 51, 1e-4)
    norm.running_means += torch.arange(51.0)[:, None]
    norm.running_vars += torch.arange(51.0)[:, None]

    def mean(truncation: float) -> float:
        norm.choose(truncation)
        assert norm.rstd.item() == pytest.approx((norm.mean.item() + 1 + 1e-4) ** -0.5)
        return norm.mean.item()

    assert [mean(t) for t in (0.02, 0.4, 1.0)] == [1, 20, 50]
    assert mean(0.43) == pytest.approx(21.5)
    assert mean(0.405) == pytest.approx(0.25 * 20 + 0.75 * 21)
    assert mean(0.14) == pytest.approx(8)  # 0.14 / 0.02 is 7.000000000000001
    assert mean(0.58) == pytest.approx(28)  # 0.58 / 0.02 is 28.999999999999996


def test_other_statistics_follow_when_weights_are_loaded():
    left, right = tiny_biggan(seed=0, truncation=0.35), tiny_biggan(seed=1, truncation=0.35)
    w = torch.randn(1, left.num_ws, left.w_dim)
    assert not torch.allclose(left.synthesize(w), right.synthesize(w))
    left.load_state_dict(right.state_dict())
    assert torch.equal(left.synthesize(w), right.synthesize(w))


def test_the_truncation_changes_the_image_and_not_the_codes():
    z, label = torch.randn(1, 6), torch.eye(7)[:1]
    whole, cut = tiny_biggan(), tiny_biggan(truncation=0.5)
    assert torch.equal(whole.map(z, label), cut.map(z, label))
    assert not torch.allclose(whole.synthesize(whole.map(z, label)), cut.synthesize(cut.map(z, label)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision_stays_close_and_makes_images_in_full(dtype: torch.dtype, tolerance: float):
    generator = tiny_biggan()
    torch.manual_seed(0)
    w = generator.map(torch.randn(2, 6), torch.eye(7)[:2])
    wanted = generator.synthesize(w)
    with torch.autocast("cpu", dtype):
        found = generator.synthesize(w)
    assert found.dtype == torch.float32
    assert not torch.equal(found, wanted)
    assert (found - wanted).abs().max() < tolerance * wanted.abs().max()


def test_a_truncation_is_fixed_when_the_generator_is_made():
    z, label = torch.randn(1, 6), torch.eye(7)[:1]
    cut = tiny_biggan(truncation=0.5)
    assert torch.equal(cut.map(z, label, truncation=0.5), cut.map(z, label))
    with pytest.raises(ValueError, match=r"loaded with truncation 0.5, not 0.7: it is chosen in load_generator"):
        cut.map(z, label, truncation=0.7)
    for wrong in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="must be above 0 and at most 1"):
            tiny_biggan(truncation=wrong)


def test_a_code_is_z_next_to_the_class_embedding_in_every_row():
    generator = tiny_biggan()
    z, label = torch.randn(2, 6), torch.tensor([[0, 0, 1, 0, 0, 0, 0], [0, 0.5, 0, 0, 0, 0, 0.5]])
    columns = generator.embeddings.weight.T
    embedded = torch.stack([columns[2], (columns[1] + columns[6]) / 2])
    w = generator.map(z, label)
    assert w.shape == (2, 6, 11)
    torch.testing.assert_close(w, torch.cat([z, embedded], dim=1)[:, None].expand(-1, 6, -1))
    assert torch.equal(generator.map(z, torch.eye(7, dtype=torch.int64)[:2]), generator.map(z, torch.eye(7)[:2]))


def test_an_edit_moves_z_or_the_class_embedding_and_spares_what_was_inverted_in_f2():
    generator = tiny_biggan()
    w = generator.map(torch.randn(1, 6), torch.eye(7)[:1])
    deltas, masks = {"F2": torch.randn(1, 16, 8, 8)}, {"F2": (torch.rand(1, 1, 8, 8) > 0.5).float()}
    image = generator.synthesize(w, deltas, masks)
    of_z = torch.cat([torch.randn(6), torch.zeros(5)])
    of_class = torch.cat([torch.zeros(6), generator.embeddings.weight[:, 3] - generator.embeddings.weight[:, 0]])
    for direction in (of_z, of_class):
        assert not torch.allclose(generator.edit(w, deltas, masks, direction), image)
    early = torch.zeros(6, 11)
    early[:4] = of_z  # the rows of the first layer and of blocks 0 to 2: all that F2 spares where its mask is 1
    full = {"F2": torch.ones(1, 1, 8, 8)}
    assert torch.equal(generator.edit(w, deltas, full, early), generator.synthesize(w, deltas, full))


def test_attention_acts_and_can_be_absent():
    generator = tiny_biggan()
    w = generator.map(torch.randn(1, 6), torch.eye(7)[:1])
    blind = copy.deepcopy(generator)
    blind.layers[3].gamma.zero_()
    assert not torch.allclose(blind.synthesize(w), generator.synthesize(w))
    without = tiny_biggan(attention_layer_position=99)
    assert len(without.layers) == len(without.config.layers) == len(generator.layers) - 1
    assert without.synthesize(w).shape == (1, 3, 32, 32)


def test_attention_worked_position_by_position():
    attention = tiny_biggan().layers[3].double()
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64)
    theta, phi, g, o = (
        getattr(attention, f"snconv1x1_{name}").weight[:, :, 0, 0] for name in ("theta", "phi", "g", "o_conv")
    )

    def pooled(weight: torch.Tensor) -> list[torch.Tensor]:
        feature = torch.einsum("oc,chw->ohw", weight, x[0])
        return [feature[:, i : i + 2, j : j + 2].amax(dim=(1, 2)) for i in (0, 2) for j in (0, 2)]

    keys, values = pooled(phi), pooled(g)
    found = attention(x)
    for i, j in ((0, 0), (1, 3), (3, 2)):
        weights = torch.softmax(torch.stack([key @ (theta @ x[0, :, i, j]) for key in keys]), dim=0)
        seen = sum(weight * value for weight, value in zip(weights, values, strict=True))
        torch.testing.assert_close(found[0, :, i, j], x[0, :, i, j] + attention.gamma[0] * (o @ seen))


def test_gradcheck_of_codes_and_deltas():
    generator = tiny_biggan(truncation=0.35).double()
    torch.manual_seed(1)
    w = torch.randn(1, generator.num_ws, generator.w_dim, dtype=torch.float64, requires_grad=True)
    corner = torch.randn(1, 16, 2, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(1, 1, 8, 8, dtype=torch.float64)

    def image(w: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
        delta = torch.nn.functional.pad(corner, (3, 3, 3, 3))
        return generator.synthesize(w, {"F2": delta}, {"F2": mask})[:, :, 2::9, 2::9]

    assert torch.autograd.gradcheck(image, (w, corner))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dim": 64}, "output_dim is 64, but the layers make 32 px"),
        ({"layers": LAYERS[:2]}, "layers must be at least 3, got 2"),
        ({"layers": ((False, 8, 8), *LAYERS[1:])}, "layer 0 must keep or halve 16 channels, got 8 to 8"),
        ({"layers": ((True, 16, 4), *LAYERS[1:])}, "layer 0 must keep or halve 16 channels, got 16 to 4"),
        ({"layers": LAYERS[:4]}, "the last layer must end in 1 channel, got 2"),
        ({"channel_width": 3}, "channel_width 3 leaves only 6 channels"),
        ({"n_stats": 1}, "greater than or equal to 2"),
        ({"eps": 0}, "greater than 0"),
        ({"z_dim": 0}, "greater than 0"),
        ({"attention_layer_position": -1}, "greater than or equal to 0"),
        ({"hidden_act": "gelu"}, "Extra inputs are not permitted"),
    ],
)
def test_shapes_that_are_not_biggan_deep_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        BigGANDeepConfig.model_validate(tiny_biggan().config.model_dump() | changes)
