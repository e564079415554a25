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
    assert torch.equal(maps[1] > 0.5, root[0] > 0.5)
    assert found[1, :, 4:8, 4:8].any()
    assert not found[1, :, 12, 12].any()
    untouched, _ = augmented(PLAIN.model_copy(update={"paste": 1e-9}), image, root, seed=1)
    assert torch.equal(untouched, image)


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
