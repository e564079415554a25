"""The demo's encoder: its size, its generator, and that its deltas help where an occluder is of an unseen kind."""

import json

import torch

from generators import load_generator
from pipeline.demo.occluders import SEEN, UNSEEN
from pipeline.demo.train_encoder import ASSETS, figures, scenes
from stages.encoder.checkpoint import load_sam_encoder

ENCODER = ASSETS / "encoder.safetensors"


def test_the_shipped_encoder_is_small_and_fits_the_demos_generator():
    generator = load_generator(ASSETS / "generator.safetensors")
    assert ENCODER.stat().st_size <= 3_000_000
    load_sam_encoder(ENCODER).check_fits(generator, generator.spaces)


def test_its_deltas_help_on_occluders_that_it_never_saw():
    assert not SEEN.keys() & UNSEEN.keys()
    found = figures(load_sam_encoder(ENCODER), load_generator(ASSETS / "generator.safetensors"), count=8)
    shipped = json.loads(ENCODER.with_suffix(".json").read_text())
    assert found["psnr_db_occluders_in_f6"] > found["psnr_db_w_plus_only"] + 1
    assert abs(found["psnr_db_clean_w_plus"] - shipped["psnr_db_clean_w_plus"]) < 2


def test_scenes_depend_on_their_seed_alone_and_differ_by_the_occluder_only():
    first, again, clean = (scenes(3, 5, tuple(SEEN), share) for share in (1.0, 1.0, 0.0))
    assert torch.equal(first.image_N3HW, again.image_N3HW)
    assert torch.equal(first.z_NZ, clean.z_NZ)
    changed = (first.image_N3HW != clean.image_N3HW).any(dim=1).float().mean(dim=(1, 2))
    assert bool(((changed > 0) & (changed < 0.2)).all())
