"""Modulated convolutions as published: one weight per image, made again in every call (Karras et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.families.filters import blur
from generators.families.stylegan2 import GAIN, SLOPE, Noise, StyledConvolution, ToRGB


@contextmanager
def published_convolutions() -> Iterator[None]:
    """Make all StyleGAN2 generators convolve with modulated weights inside the block; images differ by rounding only.

    The gradient of a style then comes through that of the weight, which costs a third convolution in every backward
    pass.
    """
    with (
        mock.patch.object(StyledConvolution, "forward", _styled),
        mock.patch.object(ToRGB, "forward", _to_rgb),
    ):
        yield


def _styled(self: StyledConvolution, x: Tensor, w: Tensor, noise: Noise, gain: float = 1.0) -> Tensor:
    weight = _modulated(self.weight, self.affine(w))
    weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    x = blur(_convolved(x, weight, up=True)) if self.up else _convolved(x, weight, padding=1)
    if noise == "const":
        x = x + self.noise_const * self.noise_strength
    x = F.leaky_relu(x + self.bias[:, None, None], SLOPE) * (GAIN * gain)
    return x if self.clamp is None else x.clamp(-self.clamp * GAIN * gain, self.clamp * GAIN * gain)


def _to_rgb(self: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    weight = _modulated(self.weight, self.affine(w) / math.sqrt(x.shape[1]))
    rgb = _convolved(x, weight) + self.bias[:, None, None]
    return rgb if self.clamp is None else rgb.clamp(-self.clamp, self.clamp)


def _modulated(weight_OIkk: Tensor, style_NI: Tensor) -> Tensor:
    return weight_OIkk * style_NI[:, None, :, None, None]


def _convolved(x_NIhw: Tensor, weight_NOIkk: Tensor, *, padding: int = 0, up: bool = False) -> Tensor:
    """Convolve each image with its own weight, all in one grouped convolution."""
    count = len(x_NIhw)
    x = x_NIhw.reshape(1, -1, *x_NIhw.shape[2:])
    if up:
        weight = weight_NOIkk.transpose(1, 2).flatten(0, 1)
        x = F.conv_transpose2d(x, weight, stride=2, groups=count)
    else:
        x = F.conv2d(x, weight_NOIkk.flatten(0, 1), padding=padding, groups=count)
    return x.reshape(count, -1, *x.shape[2:])
