"""Images whose generator was tuned to them (pivotal tuning), as `open_bundles` gives them."""

import pytest
import torch

from pipeline.bundles.reader import Batch, Image
from stages.base.stage import Record
from stages.images.image_member import pixels_of
from stages.maps.region import Region, fit, psnr_db
from tests import tiny
from tests.stages.inversion.methods.inverted import CPU, inverted, sample, sources, stage_of

PIVOTAL = {
    "kind": "pivotal",
    "pivot": {"steps": 3, "learning_rate": 0.05},
    "tuning": {"steps": 4, "learning_rate": 3e-3, "stop_lpips": 0, "locality": None},
}


def stored(record: Record) -> Image:
    return Image(record.key, "a tar", record.arrays, lambda: record.row)


def test_pictures_are_made_by_the_generator_that_was_tuned_to_each_image(tmp_path):
    networks = sources(tmp_path)
    records = inverted(stage_of(networks, PIVOTAL), sample(0), sample(1))
    generator, batch = networks["generator"].load(CPU), Batch([stored(record) for record in records])
    with torch.no_grad():
        pictures = batch.pictures(generator).clamp(-1, 1)
        before = generator.synthesize(batch.w_plus, batch.deltas, batch.masks).clamp(-1, 1)
    for number, record in enumerate(records):
        target = fit(pixels_of(sample(number)), Region.whole(tiny.SIDE_PX))[None]
        assert float(psnr_db(pictures[number][None], target)) == pytest.approx(record.row["psnr_db"], abs=1e-3)
        assert abs(float(psnr_db(before[number][None], target)) - record.row["psnr_db"]) > 0.01


def test_others_are_made_by_the_generator_itself_all_at_once(tmp_path):
    networks = sources(tmp_path)
    batch = Batch([stored(record) for record in inverted(stage_of(networks), sample(0))])
    generator = networks["generator"].load(CPU)
    assert batch.images[0].generator(generator) is generator
    torch.testing.assert_close(batch.pictures(generator), generator.synthesize(batch.w_plus, batch.deltas, batch.masks))
