"""The end of a run: how its pictures are drawn."""

from pathlib import Path

import torch

from generators.source import GeneratorSource
from pipeline.report.conclude import drawing
from stages.invert import Invert
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny


def test_pictures_are_drawn_without_learning_where_inversions_start(tmp_path: Path):
    networks = tiny.write_networks(tmp_path)
    stage = Invert(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        objective=Objective(shrinkage=1e-2),
        start_samples=8,
    )
    assert stage.inverter(torch.device("cpu")).learnt is not None
    assert drawing(stage).learnt is None
