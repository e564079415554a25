"""Edits of one image, several at a time."""

import pytest
import torch

from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.latents import Codes
from stages.editing.editor import TOGETHER, Editor
from stages.editing.settings import EditOfCodes
from stages.maps.region import Region


@pytest.mark.parametrize("published", [False, True], ids=["thesis", "published"])
def test_edits_made_several_at_a_time_are_those_made_one_by_one(published):
    torch.manual_seed(0)
    config = StyleGAN2Config(z_dim=8, w_dim=8, img_resolution=32, channel_base=128, channel_max=8, mapping_layers=2)
    generator = StyleGAN2(config).freeze()
    shapes = generator.feature_shapes
    deltas = {space: torch.randn(1, *shape) for space, shape in shapes.items()}
    masks = {space: torch.rand(1, 1, *shape[1:]) for space, shape in shapes.items()}
    codes = Codes(generator.map(torch.randn(1, generator.z_dim)), deltas, masks)
    sizes = [(1, 8), (generator.num_ws, 8)]  # of one code for all layers, and of one for each
    edits = [EditOfCodes(f"d{i}", float(i), i * torch.randn(sizes[i % 2])) for i in range(TOGETHER + 2)]
    editor = Editor(generator, Region(top=4, height=24, width=32), published=published)
    wanted = list(editor.pictures(codes, edits))
    before, pictures = editor.pictures_of_one(codes, edits)
    found = [before, *pictures]
    assert torch.equal(before.image_N3HW, wanted[0].image_N3HW)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.image_N3HW, theirs.image_N3HW, rtol=1e-4, atol=1e-4)
        assert bool(ours.finite_N)
    assert not torch.allclose(found[1].image_N3HW, found[2].image_N3HW, atol=0.01), "the edits differ"


def test_without_edits_there_is_the_image_alone():
    config = StyleGAN2Config(z_dim=8, w_dim=8, img_resolution=32, channel_base=128, channel_max=8, mapping_layers=2)
    generator = StyleGAN2(config).freeze()
    editor = Editor(generator, Region.whole(32))
    _, pictures = editor.pictures_of_one(Codes(generator.map(torch.randn(1, 8))), [])
    assert list(pictures) == []
