import pytest
import torch

from stages.augmentation import Augmentation, augmented

PLAIN = Augmentation(flip=False, blur=0, jitter=0)


def batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, 3, 16, 16, generator=generator), torch.rand(n, 2, 16, 16, generator=generator)


def test_nothing_changes_where_nothing_is_asked_for():
    image, root = batch()
    found = augmented(PLAIN, image, root, seed=1)
    torch.testing.assert_close(found[0], image, rtol=0, atol=0)
    torch.testing.assert_close(found[1], root, rtol=0, atol=0)


def test_maps_are_flipped_with_their_image():
    image, root = batch(16)
    found, maps = augmented(PLAIN.model_copy(update={"flip": True}), image, root, seed=1)
    flipped = [bool(torch.equal(found[i], image[i].flip(-1))) for i in range(16)]
    assert 0 < sum(flipped) < 16
    for i in range(16):
        assert torch.equal(found[i], image[i].flip(-1) if flipped[i] else image[i])
        assert torch.equal(maps[i], root[i].flip(-1) if flipped[i] else root[i])


def test_colours_and_sharpness_change_without_the_maps():
    image, root = batch()
    found, maps = augmented(Augmentation(flip=False, blur=1, jitter=0.5), image, root, seed=1)
    assert torch.equal(maps, root)
    assert not torch.allclose(found, image, atol=0.05)
    assert 0 <= found.min() < found.max() <= 1


def test_what_is_pasted_brings_its_error_along():
    image, root = torch.zeros(2, 3, 16, 16), torch.full((2, 2, 16, 16), 0.1)
    image[0, :, 4:8, 4:8], root[0, :, 4:8, 4:8] = 0.75, 0.9
    found, maps = augmented(PLAIN.model_copy(update={"paste": 1.0}), image, root, seed=1)
    assert maps[1, 0, 5, 5] == pytest.approx(0.9)
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[3:9, 3:9] = True  # a pixel more on each side
    assert not (maps[1] > 0.5)[:, ~region].any(), "it covers no more than it did"
    assert (maps[1] > 0.5).float().mean() > 0.8 * region.float().mean()
    assert found[1, :, 5, 5].any()
    assert not found[1, :, 12, 12].any()
    untouched, _ = augmented(PLAIN.model_copy(update={"paste": 1e-9}), image, root, seed=1)
    assert torch.equal(untouched, image)


def test_what_is_pasted_is_enlarged_about_its_middle_with_its_map():
    column = torch.arange(32)
    image, root = torch.zeros(8, 3, 32, 32), torch.full((8, 1, 32, 32), 0.1)
    image[0::2, :, 8:24, 8:24] = (column[8:24] % 2).float()  # stripes of one pixel
    root[0::2, :, 8:24, 8:24] = 0.8 + 0.1 * (column[8:24] % 2)
    found, maps = augmented(PLAIN.model_copy(update={"paste": 1.0}), image, root, seed=1)
    edges = []
    for i in range(1, 8, 2):
        shown, error = found[i, 0, 12:20, 12:20], maps[i, 0, 12:20, 12:20]
        light = shown > (shown.min() + shown.max()) / 2
        assert torch.equal(light, error > 0.85) or torch.equal(light, error < 0.85), "the map went another way"
        edges.append(int(light.diff(dim=0).sum() + light.diff(dim=1).sum()))
    assert min(edges) < 0.5 * 56, "of 56 between stripes of one pixel: none is enlarged"


def test_what_is_pasted_varies_in_colour_and_contrast():
    image, root = batch(8)
    image[:], root[:, :, :12] = image[:1], 0.0
    root[:, :, 12:] = 1.0
    root[:] = root[:1]
    found, _ = augmented(PLAIN.model_copy(update={"paste": 1.0}), image, root, seed=1)
    spreads = found[:, :, 12:].std(dim=(2, 3)).mean(dim=1)
    assert spreads.max() > 1.3 * spreads.min()


def test_a_variation_follows_its_seed_and_leaves_torch_s_generator_alone():
    options = Augmentation(paste=0.5)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (augmented(options, *batch(), seed)[0] for seed in (1, 1, 2))
    assert torch.rand(1) == wanted
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
