"""Backbones with random weights, the same in the lpips package, and images to compare."""

import lpips
import pytest
import torch

from stages.perceptual.backbones import PUBLISHED, PublishedBackbone

NETS = ["vgg", "alex", "squeeze"]
SLICES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet"}
"""The same backbones in the lpips package, cut into slices that keep torchvision's numbers."""


def pairs(count: int, height: int = 40, width: int = 48, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.rand(2, count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return x, y


def random_trunk(net: str) -> dict[str, torch.Tensor]:
    """A backbone with the right shapes, under torchvision's key names."""
    with torch.device("meta"):
        backbone = PublishedBackbone(PUBLISHED[net])
    generator = torch.Generator().manual_seed(7)
    trunk = {}
    for key, meta in backbone.state_dict().items():
        scale = (2 / meta[0].numel()) ** 0.5 if meta.ndim > 1 else 0.05
        trunk[key] = torch.randn(meta.shape, generator=generator) * scale
    return trunk


def reference(net: str, trunk: dict[str, torch.Tensor], spatial: bool) -> lpips.LPIPS:
    """The lpips package with the given backbone; its own heads."""
    with pytest.warns(UserWarning, match="deprecated|weight enum"), torch.device("meta"):
        slices = getattr(lpips.pretrained_networks, SLICES[net])(pretrained=False)
    state = {key: trunk[f"features.{key.partition('.')[2]}"] for key in slices.state_dict()}
    slices.load_state_dict(state, assign=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpips.pretrained_networks, SLICES[net], lambda **_: slices)
        return lpips.LPIPS(net=net, pnet_rand=True, spatial=spatial, verbose=False)
