"""GANSpace's components: by hand, against scikit-learn, and against the official implementation's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from generators import DirectionError, load_generator
from generators.directions import GanSpace
from generators.directions.ganspace import components_of
from generators.directions.sampling import CHUNK, random_w, seeded_w
from tests.generators.biggan_folder import tiny_biggan
from tests.generators.published import tiny
from tests.recipe import normal


def draws(count: int = 500, dims: int = 6) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(count, dims, generator=random) * torch.arange(1.0, dims + 1) + 100


def test_components_worked_by_hand():
    found = components_of([torch.tensor([[3.0, 1.0], [-3.0, 1.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])], 2)
    # mean (0, 1); squares 18 and 2, divided by 4 - 1 = 3
    assert found.mean.tolist() == [0, 1]
    assert found.axes.tolist() == [[1, 0], [0, 1]]
    assert found.stdev.tolist() == pytest.approx([6**0.5, (2 / 3) ** 0.5])
    assert found.share.tolist() == pytest.approx([0.9, 0.1])


def test_components_are_those_of_all_draws_at_once_whatever_the_batches():
    w = draws()
    wanted = PCA(4).fit(w.double().numpy())
    for batches in ([w], list(w.split(7)), [w[:1], w[1:3], w[3:]]):
        found = components_of(batches, 4)
        np.testing.assert_allclose(found.stdev, np.sqrt(wanted.explained_variance_), rtol=1e-10)
        np.testing.assert_allclose(found.share, wanted.explained_variance_ratio_, rtol=1e-10)
        np.testing.assert_allclose(np.abs((found.axes.numpy() * wanted.components_).sum(1)), 1, rtol=1e-10)


def test_the_components_are_the_official_implementation_s(shared: Path):
    generator = load_generator(shared / "golden/1_stylegan2/sg2ada_r64/network-snapshot.pkl")
    z = torch.from_numpy(normal("pca:z", (4096, generator.z_dim)).astype(np.float32))
    with torch.no_grad():
        w = generator.map(z)[:, 0]
    with np.load(shared / "golden/5_ganspace/pca_w_sg2ada_r64.npz") as golden:
        np.testing.assert_allclose(w[:8], golden["w_first8"], rtol=1e-4, atol=1e-5)
        found = components_of(w.split(2048), 20)
        assert compared(found, golden, "ipca") >= 5
        assert compared(found, golden, "pca") >= 5


def compared(found, golden, kind: str) -> int:
    """Compare with the golden components; return how many are far enough from their neighbours to have one axis."""
    stdev = golden[f"{kind}_stdev"]
    np.testing.assert_allclose(found.stdev, stdev, rtol=1e-3)
    np.testing.assert_allclose(found.share, golden[f"{kind}_var_ratio"], rtol=2e-3)
    np.testing.assert_allclose(found.mean, golden[f"{kind}_mean"], rtol=0, atol=1e-4)
    gaps = stdev[:-1] / stdev[1:] > 1.05
    apart = gaps & np.concatenate([[True], gaps[:-1]])
    cosines = np.abs((found.axes.numpy() * golden[f"{kind}_components"]).sum(axis=1))[:-1]
    assert (cosines[apart] > 0.999).all()
    return int(apart.sum())


def test_a_direction_is_one_standard_deviation_along_its_component():
    generator = tiny(w_dim=5)
    made = GanSpace(components=3, samples=20_000, seed=7).fit(generator)
    w = torch.cat(list(random_w(generator, 20_000, 7)))
    assert [direction.name for direction in made] == ["0", "1", "2"]
    for direction in made:
        assert (direction.delta.shape, direction.delta.dtype) == ((1, 5), torch.float32)
        along = (w - w.mean(0)) @ (direction.delta[0] / direction.delta.norm())
        assert float(direction.delta.norm()) == pytest.approx(float(along.std()), rel=1e-4)
        assert direction.provenance.unit == "standard deviation"
        assert direction.provenance.figures["stdev"] == pytest.approx(float(along.std()), rel=1e-4)
    assert made[0].delta.norm() > made[1].delta.norm() > made[2].delta.norm()
    assert "20000 draws of w, seed 7" in made[0].provenance.source


def test_layers_outside_the_range_are_left_as_they_are():
    (direction,) = GanSpace(components=1, samples=500, layers=(1, 2)).fit(tiny())
    (whole,) = GanSpace(components=1, samples=500).fit(tiny())
    assert direction.delta.shape == (4, 5)
    assert torch.equal(direction.delta[1:3], whole.delta.expand(2, -1))
    assert direction.delta[[0, 3]].abs().sum() == 0
    assert direction.provenance.layers == (1, 2)


def test_equal_seeds_give_equal_components_and_others_others():
    first, again, other = (GanSpace(components=2, samples=300, seed=seed).fit(tiny()) for seed in (1, 1, 2))
    assert torch.equal(first[0].delta, again[0].delta)
    assert not torch.allclose(first[0].delta, other[0].delta)


def test_draws_come_in_batches_of_one_size():
    sizes = [len(w) for w in random_w(tiny(), 2 * CHUNK + 5, 0)]
    assert sizes == [CHUNK, CHUNK, 5]


def test_a_class_can_be_chosen_and_is_drawn_otherwise():
    generator = tiny(c_dim=3)
    of_class, drawn = (torch.cat(list(random_w(generator, 50, 0, label))) for label in (1, None))
    same = (of_class - drawn).abs().amax(dim=1) < 1e-6
    assert 0 < same.sum() < 50
    with pytest.raises(DirectionError, match="class 3: this generator has classes 0 to 2"):
        GanSpace(components=1, samples=50, label=3).fit(generator)
    with pytest.raises(DirectionError, match="class 1: this generator has classes 0 to 0"):
        GanSpace(components=1, samples=50, label=1).fit(tiny())


def test_samples_of_seeds_are_those_of_nvidia_s_generate():
    generator = tiny()
    z = torch.from_numpy(np.random.RandomState(85).randn(1, 6)).float()
    (found,) = seeded_w(generator, [3, 85], truncation=0.5)
    torch.testing.assert_close(found[1:], generator.map(z, truncation=0.5), rtol=1e-5, atol=1e-6)
    with pytest.raises(DirectionError, match="seeds are 0 to 4294967295, got -1"):
        list(seeded_w(generator, [0, -1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": 6}, "6 components of 100 draws of w in 5 dimensions: there are at most 5"),
        ({"components": 3, "samples": 3}, "at most 2; ask for fewer, or draw more samples"),
        ({"layers": (2, 4)}, "this generator has rows 0 to 3"),
        ({"layers": (3, 2)}, "layers 3-2"),
    ],
)
def test_what_the_generator_does_not_have_is_refused(settings, message):
    with pytest.raises(DirectionError, match=message):
        GanSpace(**{"components": 1, "samples": 100, **settings}).fit(tiny())


def test_components_of_z_are_those_of_the_first_layer_over_random_z():
    """The official procedure: components of the first layer's output, then the z that leads there by regression."""
    generator, random = tiny_biggan(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        generator.gen_z.weight[:, : generator.z_dim] *= 1.5 ** torch.arange(generator.z_dim)  # components far apart
    z = torch.randn(20_000, generator.z_dim, generator=random)
    label = torch.nn.functional.one_hot(torch.full((len(z),), 3), generator.label_dim).float()
    features = generator.begin(generator.map(z, label)).feature.flatten(1)
    found = components_of(features.split(5_000), generator.z_dim)
    coordinates = (features.double() - found.mean) @ found.axes.T
    towards_zK = torch.linalg.lstsq(coordinates / found.stdev, z.double()).solution
    made = GanSpace(components=generator.z_dim, label=3).fit(generator)
    for i, direction in enumerate(made):
        assert direction.delta.shape == (1, generator.w_dim)
        assert direction.delta[0, generator.z_dim :].abs().max() == 0
        assert float(direction.delta.norm()) == pytest.approx(1, abs=1e-5)
        wanted = torch.nn.functional.normalize(towards_zK[i], dim=0)
        assert float((direction.delta[0, : generator.z_dim] @ wanted.float()).abs()) > 0.99
        assert direction.provenance.figures["share_of_variance"] == pytest.approx(float(found.share[i]), abs=0.01)
    assert made[0].provenance.unit == "standard deviation"


def test_components_of_z_keep_to_layers_and_know_the_limits_of_their_generator():
    generator = tiny_biggan()
    (direction,) = GanSpace(components=1, layers=(2, 3)).fit(generator)
    assert direction.delta.shape == (generator.num_ws, generator.w_dim)
    assert direction.delta.abs().sum(dim=1).nonzero().flatten().tolist() == [2, 3]
    with pytest.raises(DirectionError, match="7 components of z, which has 6 dimensions"):
        GanSpace(components=7).fit(generator)
    with pytest.raises(DirectionError, match="class 7: this generator has classes 0 to 6"):
        GanSpace(components=1, label=7).fit(generator)


def test_draws_of_w_need_a_mapping_network():
    with pytest.raises(DirectionError, match="a biggan_deep has no mapping network: fit ganspace or labels"):
        next(random_w(tiny_biggan(), 100, 0))


def test_draws_that_are_not_finite_have_no_components():
    with pytest.raises(DirectionError, match="not finite"):
        components_of([torch.full((3, 2), float("nan"))], 1)
    with pytest.raises(DirectionError, match="0 draws"):
        components_of([], 1)
