"""The [1, 3, 3, 1] filter of StyleGAN2 as depthwise convolutions, and the layout that they keep."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def laid_out_as(like: Tensor, x: Tensor) -> Tensor:
    """Return a tensor in the layout of another: torch takes that of the first operand, or of the weight, for a result.

    A step in half precision would otherwise change between channels-last and contiguous in every layer.
    """
    channels_last = torch.channels_last
    return x.contiguous(memory_format=channels_last) if like.is_contiguous(memory_format=channels_last) else x


def resample_filter() -> Tensor:
    """Return the filter, `[4, 4]`, whose sum is 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cpu") / 8
    return torch.outer(taps, taps)


def blur(x: Tensor) -> Tensor:
    """Filter the raw output `[N, C, 2r + 1, 2r + 1]` of a stride-2 transposed convolution down to `[N, C, 2r, 2r]`."""
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 4
    kernel = taps.expand(x.shape[1], 1, 4)
    x = F.conv2d(x, kernel[..., None], padding=(1, 0), groups=x.shape[1])
    return F.conv2d(x, kernel[:, :, None], padding=(0, 1), groups=x.shape[1])


def upsample(image: Tensor) -> Tensor:
    """Double the side of an image `[N, 3, r, r]` with the [1, 3, 3, 1] filter."""
    taps = image.new_tensor([1.0, 3.0, 3.0, 1.0]) / 4
    kernel = torch.outer(taps, taps).expand(image.shape[1], 1, 4, 4)
    return F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=image.shape[1])
