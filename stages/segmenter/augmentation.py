"""Vary the images that the segmenter learns from, together with their error maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import kornia.augmentation as kornia
import torch
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from stages.base.seeded import seeded

Share = Annotated[float, Field(ge=0, le=1)]

PASTED_CONTRAST = (0.8, 1.6)  # contrast of a pasted patch, relative to its own
PEAK = 7  # side in pixels of the window that finds the centre of the worst region
PASTED_ZOOM = 5.0  # maximum enlargement of a pasted patch: a fine texture becomes a coarse one


class Augmentation(BaseModel):
    """How an image and its maps are varied in each epoch; the maps follow every geometric change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: bool = True  # mirror left and right at random
    blur: Share = 0.2  # probability of a slight blur
    jitter: Share = 0.2  # strength of the change of brightness, contrast, saturation and hue
    paste: Share = 0.0
    """Probability of pasting the worst-inverted region of another image of the batch, rotated, enlarged, in other
    colours and contrast, with its error: a departure from the thesis for small training sets, which show few kinds of
    regions that
    cannot be inverted."""


def augmented(options: Augmentation, image_N3HW: Tensor, root_NLHW: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return images and maps varied together; image in [0, 1]; the result depends on `seed` and the batch only."""
    with seeded(seed, image_N3HW.device):
        if options.paste:
            image_N3HW, root_NLHW = _pasted(options.paste, image_N3HW, root_NLHW)
        image_N3HW, root_NLHW = _variations(options)(image_N3HW, root_NLHW)
    return image_N3HW.clamp(0, 1), root_NLHW


def _variations(options: Augmentation) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    jitter = options.jitter
    colours = (jitter, jitter, jitter, jitter / 2)
    steps = [
        kornia.RandomHorizontalFlip(p=0.5 if options.flip else 0.0),
        kornia.ColorJiggle(*colours, p=1.0 if jitter else 0.0),
        kornia.RandomGaussianBlur((3, 3), (0.1, 1.0), p=options.blur),
    ]
    sequence: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    sequence = kornia.AugmentationSequential(*steps, data_keys=["input", "mask"])
    return sequence


def _pasted(probability: float, image_N3HW: Tensor, root_NLHW: Tensor) -> tuple[Tensor, Tensor]:
    """Paste the worst region of each image's neighbour, rotated, enlarged and in other colours, with its error."""
    n, device = len(image_N3HW), image_N3HW.device
    image, root = (x.roll(1, dims=0) for x in (image_N3HW, root_NLHW))
    worst_N1HW = root.mean(dim=1, keepdim=True)
    mean, deviation = worst_N1HW.mean((2, 3), keepdim=True), worst_N1HW.std((2, 3), keepdim=True)
    mask_N1HW = F.max_pool2d((worst_N1HW > mean + deviation).float(), 3, 1, 1)
    mask_N1HW = mask_N1HW * (torch.rand(n, 1, 1, 1, device=device) < probability)
    image = _recoloured(image, mask_N1HW)
    peak_N = F.avg_pool2d(worst_N1HW, PEAK, 1, PEAK // 2).flatten(1).argmax(dim=1)
    image, root, inside_N1HW = _enlarged(peak_N, image, root, mask_N1HW)
    mask_N1HW = mask_N1HW * inside_N1HW  # the patch covers no more than before, and shows less
    return torch.lerp(image_N3HW, image, mask_N1HW), torch.lerp(root_NLHW, root, mask_N1HW)


def _enlarged(middle_N: Tensor, *tensors_NCHW: Tensor) -> list[Tensor]:
    """Rotate and enlarge tensors about a pixel of each image, by its flat index; nothing enters from outside."""
    n, device, (height, width) = len(middle_N), middle_N.device, tensors_NCHW[0].shape[2:]
    middle_N2 = torch.stack([middle_N % width, middle_N // width], dim=1).float()
    scale_N = PASTED_ZOOM ** torch.rand(n, device=device)
    angle_N = 360 * torch.rand(n, device=device)
    still_N2 = torch.zeros_like(middle_N2)
    matrix_N23 = get_affine_matrix2d(still_N2, middle_N2, scale_N[:, None].expand(-1, 2), angle_N)[:, :2]
    return [warp_affine(x, matrix_N23, (height, width), mode="nearest") for x in tensors_NCHW]


def _recoloured(image_N3HW: Tensor, mask_N1HW: Tensor) -> Tensor:
    """Swap and invert channels, and change the contrast under the mask; little downwards, since the error is kept."""
    n, device = len(image_N3HW), image_N3HW.device
    channels_N3 = torch.rand(n, 3, device=device).argsort(dim=1)
    image = image_N3HW.gather(1, channels_N3[:, :, None, None].expand_as(image_N3HW))
    image = torch.where(torch.rand(n, 3, 1, 1, device=device) < 0.5, image, 1 - image)
    area = mask_N1HW.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean_N311 = (image * mask_N1HW).sum(dim=(2, 3), keepdim=True) / area
    contrast_N111 = torch.empty(n, 1, 1, 1, device=device).uniform_(*PASTED_CONTRAST)
    return (mean_N311 + (image - mean_N311) * contrast_N111).clamp(0, 1)
