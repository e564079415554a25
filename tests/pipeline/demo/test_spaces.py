"""The demo's spaces, inverted in as the demo does: the order of thesis Fig. 3.2 holds."""

from pathlib import Path
from statistics import fmean

import torch

from pipeline.config import load_config
from pipeline.demo.occluders import UNSEEN
from pipeline.demo.write_shards import demo_samples
from pipeline.report.checks import psnr_order
from stages.base.stage import Record, Sample
from stages.error_maps import ErrorMaps
from stages.maps.spaces import column

DEMO = Path(__file__).parents[3] / "demo.yaml"
SCENES = 4


def test_psnr_rises_from_each_of_the_demos_spaces_to_the_next():
    config, device = load_config(DEMO), torch.device("cpu")
    settings = {name: getattr(config.error_maps, name) for name in type(config.error_maps).model_fields}
    stage = ErrorMaps(generator=config.generator, perceptual=config.perceptual, **settings)
    scenes = demo_samples("held-out-000000", SCENES, UNSEEN)
    members = [{name: data for name, data in scene.items() if isinstance(data, bytes)} for scene in scenes]
    samples = [Sample(str(number), "shard", one) for number, one in enumerate(members)]
    records = list(stage.setup(device)(samples))
    assert all(isinstance(record, Record) for record in records)
    spaces = config.generator.load(device).spaces
    values = {space: fmean(record.row[f"psnr_db_{column(space)}"] for record in records) for space in spaces}
    check = psnr_order(values)
    assert check.holds, values
