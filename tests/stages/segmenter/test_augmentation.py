import pytest
import torch

from stages.segmenter import augmentation
from stages.segmenter.augmentation import Augmentation, augmented

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


def test_what_is_pasted_is_enlarged_about_its_worst_place_with_its_map():
    line = torch.arange(32)
    away_HW = (line[:, None] - 18) ** 2 + (line - 14) ** 2
    image, root = torch.zeros(32, 3, 32, 32), torch.full((32, 2, 32, 32), 0.1)
    image[0::2, :, 8:24, 8:24] = (line[8:24] % 2).float()  # stripes of one pixel
    root[0::2, 0, 8:24, 8:24] = 0.8 + 0.1 * (line[8:24] % 2)
    root[0::2, 1] = 0.1 + 0.8 * torch.exp(-away_HW / 20)
    found, maps = augmented(PLAIN.model_copy(update={"paste": 1.0}), image, root, seed=1)
    edges = []
    for i in range(1, 32, 2):
        shown, error = found[i, 0, 15:22, 11:18], maps[i, 0, 15:22, 11:18]
        assert error.min() > 0.7, "all of it is pasted"
        light = shown > (shown.min() + shown.max()) / 2
        assert torch.equal(light, error > 0.85) or torch.equal(light, error < 0.85), "the map went another way"
        edges.append(int(light.diff(dim=0).sum() + light.diff(dim=1).sum()))
        assert maps[i, 1, 18, 14] == root[0, 1, 18, 14], "the worst place stays where it is"
    assert min(edges) < 15, "stripes of one pixel have 42, those enlarged most at most 12"
    assert len(set(edges)) > 5, "each is enlarged as much as the other"


def test_of_two_regions_far_apart_the_worst_is_pasted():
    image, root = torch.rand(8, 3, 32, 32), torch.full((8, 1, 32, 32), 0.1)
    root[0::2, :, 2:9, 2:9], root[0::2, :, 23:30, 23:30] = 0.8, 0.9
    _, maps = augmented(PLAIN.model_copy(update={"paste": 1.0}), image, root, seed=1)
    assert (maps[1::2, 0, 25:28, 25:28] > 0.5).all()


def test_what_is_pasted_varies_in_colour_and_contrast(monkeypatch):
    monkeypatch.setattr(augmentation, "PASTED_ZOOM", 1.0)  # which changes what is seen, and so its spread
    image, root = torch.zeros(32, 3, 32, 32), torch.full((32, 2, 32, 32), 0.1)
    image[:] = 0.5 + 0.1 * (torch.arange(32) // 2 % 2)
    root[:, :, 8:24, 8:24] = 0.9
    root[:, :, 12:20, 12:20] = 1.0  # the middle
    found, _ = augmented(PLAIN.model_copy(update={"paste": 1.0}), image, root, seed=1)
    shown = found[:, :, 13:19, 13:19]
    contrast = (shown.amax(dim=(2, 3)) - shown.amin(dim=(2, 3))) / 0.1
    assert contrast.min() < 0.9 < 1.4 < contrast.max() < 1.7
    mean = shown.mean(dim=(2, 3))
    assert mean.min() < 0.48 < 0.52 < mean.max(), "none is inverted"


def test_a_variation_follows_its_seed_and_leaves_torch_s_generator_alone():
    options = Augmentation(paste=0.5)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (augmented(options, *batch(), seed)[0] for seed in (1, 1, 2))
    assert torch.rand(1) == wanted
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
