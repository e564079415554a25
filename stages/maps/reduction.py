"""Images, maps and masks at a smaller size: that of the loss or that of the maps (thesis Sec. 3.1, 3.3).

The values of a perceptual distance depend on the size of its input: LPIPS of the same pair at 512 × 384 and at
256 × 192 differs by factors of 0.87 to 1.52. A threshold therefore belongs to a size, the published one to 256 px.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.maps.region import Region, box_of, check_rgb, fit, nearest

Number = TypeVar("Number", bound=np.generic)


def reduced_size(size: tuple[int, int], side_px: int | None) -> tuple[int, int]:
    """Return height and width of an image whose longer side is reduced to `side_px`; never enlarged.

    The aspect is kept up to rounding. None keeps the size.
    """
    longest = max(size)
    if side_px is None or longest <= side_px:
        return size
    height, width = (max(1, round(side * side_px / longest)) for side in size)
    return height, width


def reduced(image_N3HW: Tensor, side_px: int | None) -> Tensor:
    """Return images whose longer side is at most `side_px`, reduced by averaging areas; never enlarged.

    Pixels on the border of two areas count in each with their share, as in `fit_reduced`. torch's mode "area"
    counts them whole in both, which shifts the picture by up to half a pixel where sides are not multiples.

    Args:
        image_N3HW: ``[N, 3, H, W]`` floating.
        side_px: the longest side allowed; None leaves images unchanged.
    """
    height, width = image_N3HW.shape[-2:]
    size = reduced_size((height, width), side_px)
    if size == (height, width):
        return image_N3HW
    if height % size[0] == 0 and width % size[1] == 0:  # the same values; repeatable on a GPU, and faster
        return F.avg_pool2d(image_N3HW, (height // size[0], width // size[1]))
    with torch.autocast(image_N3HW.device.type, enabled=False):
        rows_hH, columns_wW = _shares(height, size[0], image_N3HW), _shares(width, size[1], image_N3HW)
        return rows_hH @ image_N3HW @ columns_wW.T


def fit_reduced(image_HW3: NDArray[np.uint8], region: Region, side_px: int | None) -> Tensor:
    """Return a photograph fitted to the region, its longer side at most `side_px`: ``[3, h, w]`` float32 in [-1, 1].

    It is resampled once: areas of the photograph are averaged, without fitting it to the region's size first. Where the
    photograph is smaller than the result it is enlarged as `fit` does, and where it has the region's size the result is
    that of `reduced`, as generated images are reduced.

    Args:
        image_HW3: ``[H, W, 3]`` uint8 RGB.
        region: gives aspect and fit.
        side_px: the longest side; None, or one that the region does not exceed, gives the result of `fit`.

    Raises:
        ValueError: the image has another shape or type, or no pixels.
    """
    check_rgb(image_HW3)
    size = reduced_size(region.size, side_px)
    if size == region.size or image_HW3.shape[:2] == region.size:
        return reduced(fit(image_HW3, region)[None], side_px)[0]
    left, top, right, bottom = box_of(image_HW3.shape[:2], region)
    if bottom - top < size[0] or right - left < size[1]:
        return fit(image_HW3, region, size)
    rows_hW3 = _means(image_HW3, top, bottom, size[0])
    columns_wh3 = _means(rows_hW3.transpose(1, 0, 2), left, right, size[1])
    fitted_3hw = np.ascontiguousarray(columns_wh3.transpose(2, 1, 0))
    fitted_3hw /= 127.5
    fitted_3hw -= 1
    return torch.from_numpy(fitted_3hw)


def at_size(array_HW: NDArray[Number], size: tuple[int, ...]) -> NDArray[Number]:
    """Return maps, masks or labels at another size, the nearest pixel's value for each; any leading axes.

    A pixel of a reduced map represents the pixels of which it is the mean, so a mean over them is kept where
    sizes are multiples.
    """
    height, width = array_HW.shape[-2:]
    if (height, width) == size:
        return array_HW
    rows_h, columns_w = nearest(0, height, size[0]), nearest(0, width, size[1])
    resized: NDArray[Number] = array_HW[..., rows_h[:, None], columns_w]
    return resized


def _shares(length: int, count: int, like: Tensor) -> Tensor:
    """Return the weights `[count, length]` of the means over `count` equal parts of `length` pixels."""
    edges = torch.linspace(0, length, count + 1, dtype=torch.float64, device=like.device)[:, None]
    pixel = torch.arange(length, dtype=torch.float64, device=like.device)
    covered = torch.minimum(pixel + 1, edges[1:]) - torch.maximum(pixel, edges[:-1])
    return (covered.clamp(min=0) * (count / length)).to(like.dtype)


def _means(values_AX: NDArray[np.generic], first: float, last: float, count: int) -> NDArray[np.float32]:
    """Return the means over `count` equal parts of [first, last] along the first axis; parts may cut pixels."""
    edges = np.linspace(first, last, count + 1)
    means = np.empty((count, *values_AX.shape[1:]), np.float32)
    for part, (start, stop) in enumerate(pairwise(edges.tolist())):
        low, high = int(start), min(math.ceil(stop), len(values_AX))
        pixel = np.arange(low, high)
        covered = (np.minimum(pixel + 1, stop) - np.maximum(pixel, start)) / (stop - start)
        means[part] = np.tensordot(covered.astype(np.float32), values_AX[low:high].astype(np.float32), axes=1)
    return means
