"""The active region of a generator's canvas: how images are fitted to it, and how it is measured."""

from __future__ import annotations

from typing import Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import Tensor

Fit = Literal["crop", "stretch"]
Box = tuple[float, float, float, float]
Label = TypeVar("Label", bound=np.integer)


class Region(BaseModel):
    """The part of a generator's square canvas that images are fitted to, in its pixels.

    LSUN cars, for example, fill 384 × 512 pixels in the middle of a canvas of 512: loss, maps and metrics
    use only those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: NonNegativeInt = 0  # first row, in pixels of the canvas
    left: NonNegativeInt = 0  # first column
    height: PositiveInt  # in pixels
    width: PositiveInt  # in pixels
    fit: Fit = "crop"  # for images of another aspect: crop their ends, or squeeze them

    @classmethod
    def whole(cls, resolution: int) -> Self:
        """Return the region that is the whole canvas."""
        return cls(height=resolution, width=resolution)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def inside(self, resolution: int) -> Self:
        """Return this region if it lies inside a canvas of this side.

        Raises:
            ValueError: it does not.
        """
        if self.top + self.height > resolution or self.left + self.width > resolution:
            raise ValueError(
                f"region rows {self.top} to {self.top + self.height}, columns {self.left} to {self.left + self.width} "
                f"leave the canvas of {resolution} x {resolution}: make the region smaller or move it"
            )
        return self


def crop(canvas_NCHW: Tensor, region: Region) -> Tensor:
    """Return the region of a canvas as a view; any leading axes, any type.

    Raises:
        ValueError: the canvas is not square, or too small.
    """
    height, width = canvas_NCHW.shape[-2:]
    if height != width:
        raise ValueError(f"a canvas is square, got {height} x {width}: crop the generator's whole image")
    region.inside(height)
    if region.size == (height, width):
        return canvas_NCHW  # a slice, though equal, would cost a copy in the backward pass
    return canvas_NCHW[..., region.top : region.top + region.height, region.left : region.left + region.width]


def place(region_NChw: Tensor, region: Region, resolution: int) -> Tensor:
    """Return a canvas of this side that holds the region, zeros elsewhere; any leading axes, any type.

    Raises:
        ValueError: the tensor has not the region's size, or the region leaves the canvas.
    """
    if tuple(region_NChw.shape[-2:]) != region.size:
        raise ValueError(f"expected a region [..., {region.height}, {region.width}], got {list(region_NChw.shape)}")
    canvas_NCHW = region_NChw.new_zeros(*region_NChw.shape[:-2], resolution, resolution)
    crop(canvas_NCHW, region).copy_(region_NChw)
    return canvas_NCHW


def fit(image_HW3: NDArray[np.uint8], region: Region, size: tuple[int, int] | None = None) -> Tensor:
    """Return an image of any size fitted to the region: ``[3, h, w]`` float32 in [-1, 1].

    The middle of the image with the region's aspect (``region.fit``: or all of it) is resized with a Lanczos filter
    that widens when reducing; an image of the region's size keeps its pixels.

    Args:
        image_HW3: ``[H, W, 3]`` uint8 RGB.
        region: gives size and fit.
        size: height and width of the result, if other than the region's.

    Raises:
        ValueError: the image has another shape or type, or no pixels.

    Source: the authors' code, which always stretches.
    """
    check_rgb(image_HW3)
    fitted_hw3, (height, width) = image_HW3, size or region.size
    if image_HW3.shape[:2] != (height, width):
        box = box_of(image_HW3.shape[:2], region)
        fitted_hw3 = np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.LANCZOS, box=box))
    fitted_3hw = fitted_hw3.transpose(2, 0, 1).astype(np.float32, order="C")
    fitted_3hw /= 127.5
    fitted_3hw -= 1
    return torch.from_numpy(fitted_3hw)


def check_rgb(image_HW3: NDArray[np.uint8]) -> None:
    """Raise ValueError unless an array is an RGB image ``[H, W, 3]`` uint8 with at least one pixel."""
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or image_HW3.size == 0 or image_HW3.dtype != np.uint8:
        raise ValueError(f"expected an RGB image [H, W, 3] of uint8, got {list(image_HW3.shape)} of {image_HW3.dtype}")


def fit_labels(labels_HW: NDArray[Label], region: Region) -> NDArray[Label]:
    """Return labels fitted to the region, ``[h, w]``: the geometry of `fit`, the nearest pixel's label.

    Args:
        labels_HW: ``[H, W]`` integers, of the size of the image that they belong to (`upright_like` ensures it).
        region: gives size and fit.

    Raises:
        ValueError: the labels have another shape, or no pixels.
    """
    if labels_HW.ndim != 2 or labels_HW.size == 0:
        raise ValueError(f"expected labels [H, W], got {list(labels_HW.shape)}")
    left, top, right, bottom = box_of(labels_HW.shape, region)
    rows_h = nearest(top, bottom, region.height)
    columns_w = nearest(left, right, region.width)
    fitted: NDArray[Label] = labels_HW[rows_h[:, None], columns_w]
    return fitted


def to_uint8(image_N3HW: Tensor) -> NDArray[np.uint8]:
    """Return images as 8-bit pixels, ``[N, H, W, 3]`` uint8, clamped and rounded to the nearest.

    Args:
        image_N3HW: ``[N, 3, H, W]`` floating and finite, about [-1, 1], on any device.

    Source: the inverse of `fit`; the authors' code rounds down.
    """
    rounded_N3HW = ((image_N3HW.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rounded_N3HW.permute(0, 2, 3, 1).contiguous().cpu().numpy()


# PSNR = 10 log10(peak² / MSE), peak 1, images in [0, 1]
def psnr_db(x_N3HW: Tensor, y_N3HW: Tensor) -> Tensor:
    """Return the PSNR of each pair of images in decibels, ``[N]`` float64; infinite where they are equal.

    Args:
        x_N3HW: ``[N, 3, H, W]`` floating; clamped to [-1, 1], compared in [0, 1].
        y_N3HW: the same.

    Raises:
        ValueError: their shapes differ.
    """
    if x_N3HW.shape != y_N3HW.shape:
        raise ValueError(f"images to compare must have one shape, got {list(x_N3HW.shape)} and {list(y_N3HW.shape)}")
    difference = (x_N3HW.double().clamp(-1, 1) - y_N3HW.double().clamp(-1, 1)) / 2
    return -10 * torch.log10(difference.square().mean(dim=(1, 2, 3)))


def box_of(shape_HW: tuple[int, ...], region: Region) -> Box:
    """Return (left, top, right, bottom) of the part of an image that `fit` keeps, in its pixels, not rounded."""
    height, width = shape_HW
    if region.fit == "stretch":
        return 0.0, 0.0, float(width), float(height)
    scale = min(height / region.height, width / region.width)
    kept_height, kept_width = min(height, region.height * scale), min(width, region.width * scale)
    top, left = (height - kept_height) / 2, (width - kept_width) / 2
    return left, top, left + kept_width, top + kept_height


def nearest(first: float, last: float, count: int) -> NDArray[np.intp]:
    """Return the index of the pixel that holds the middle of each of `count` equal parts of [first, last]."""
    return (first + (np.arange(count) + 0.5) * (last - first) / count).astype(np.intp)
