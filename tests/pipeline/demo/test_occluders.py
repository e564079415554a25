"""Occluders: the mask says exactly what was pasted over, and evaluation sees kinds that supervision never showed."""

import numpy as np
import pytest
import torch

from pipeline.demo.occluders import CAR, KINDS, LARGEST_SHARE_OF_CAR, OCCLUDER, SEEN, UNSEEN, paste_occluder
from pipeline.demo.scenes import LABELS, Z_DIM, draw_scenes


@pytest.fixture(scope="module")
def scene():
    scenes = draw_scenes(torch.randn(1, Z_DIM, generator=torch.Generator().manual_seed(0)))
    image_HW3 = ((scenes.image[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return image_HW3, scenes.labels[0].numpy().astype(np.uint8)


def paste(scene, kind, seed=0):
    return paste_occluder(*scene, kind, np.random.default_rng(seed))


def test_seen_and_unseen_kinds_are_disjoint():
    assert SEEN.keys().isdisjoint(UNSEEN)
    assert set(SEEN.values()).isdisjoint(UNSEEN.values())
    assert KINDS.keys() == SEEN.keys() | UNSEEN.keys()


def test_the_occluder_has_a_label_of_its_own():
    assert LABELS[OCCLUDER] == "occluder"
    assert LABELS[CAR] == "car"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_outside_the_mask_changes(scene, kind):
    for seed in range(8):
        pasted = paste(scene, kind, seed)
        assert np.array_equal(pasted.image[~pasted.mask], scene[0][~pasted.mask])
        assert np.array_equal(pasted.labels[~pasted.mask], scene[1][~pasted.mask])


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_covers_what_changed(scene, kind):
    for seed in range(8):
        pasted = paste(scene, kind, seed)
        changed = (pasted.image != scene[0]).any(axis=2)
        assert not (changed & ~pasted.mask).any()
        assert (changed & pasted.mask).sum() > 0.97 * pasted.mask.sum()
        assert (pasted.labels[pasted.mask] == OCCLUDER).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_occluder_covers_a_part_of_the_picture_and_at_most_a_quarter_of_the_car(scene, kind):
    car = scene[1] == CAR
    for seed in range(8):
        mask = paste(scene, kind, seed).mask
        assert 0.01 < mask.mean() < 0.2
        assert (mask & car).sum() <= LARGEST_SHARE_OF_CAR * car.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_paste_equally_and_others_elsewhere(scene, kind):
    first, again, other = paste(scene, kind), paste(scene, kind), paste(scene, kind, 1)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.mask, other.mask)


@pytest.mark.parametrize("kind", KINDS)
def test_pasting_leaves_the_scene_it_was_given_alone(scene, kind):
    image, labels = scene[0].copy(), scene[1].copy()
    paste((image, labels), kind)
    assert np.array_equal(image, scene[0])
    assert np.array_equal(labels, scene[1])


def test_kinds_look_different(scene):
    pictures = {kind: paste(scene, kind).image.tobytes() for kind in KINDS}
    assert len(set(pictures.values())) == len(KINDS)
