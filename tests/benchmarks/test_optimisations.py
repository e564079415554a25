"""The table of optimisations in miniature: every row reaches the loss of the published loop."""

import pytest
import torch

from benchmarks.inversion import Case, demo_networks, inverter_of
from benchmarks.optimisations import Work, fitted_scenes, rows_of, sides_of
from benchmarks.references.published_convolutions import published_convolutions


def test_every_row_does_the_same_work():
    inverter = inverter_of(Case("demo", demo_networks, images=4, steps=3), torch.device("cpu"))
    work = Work.from_images(inverter, fitted_scenes(inverter, 4))
    sides = {name: side for name, side in sides_of(work, width=4).items() if name != "compiled"}
    first, *others = rows_of(sides, work, turns=1)
    assert first["times"] == 1
    assert len(others) == 4
    for row in others:
        assert row["loss"] == pytest.approx(first["loss"], rel=1e-3)
        assert row["ms_per_image_step"] > 0


def test_published_convolutions_make_the_same_images():
    generator, _ = demo_networks()
    w = generator.map(torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(0)))
    wanted = generator.synthesize(w)
    with published_convolutions():
        found = generator.synthesize(w)
    assert not torch.equal(found, wanted), "they are computed otherwise"
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert torch.equal(generator.synthesize(w), wanted), "and only inside"
