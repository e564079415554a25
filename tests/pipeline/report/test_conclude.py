"""The end of a run: how its pictures are drawn."""

from pathlib import Path

import pytest
import torch

from generators.source import GeneratorSource
from pipeline.report.conclude import drawing
from stages.inversion.starts.learnt import LearntStart
from stages.invert import Invert
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny


def test_pictures_are_drawn_without_learning_where_inversions_start(tmp_path: Path, monkeypatch):
    networks = tiny.write_networks(tmp_path)
    stage = Invert(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        objective=Objective(shrinkage=1e-2),
        start_samples=8,
    )
    monkeypatch.setattr(LearntStart, "from_draws", lambda *args, **named: pytest.fail("a start was learnt"))
    with pytest.raises(pytest.fail.Exception):
        stage.inverter(torch.device("cpu"))
    drawing(stage)
