"""LPIPS with kept target features, as one number per image or as a map (thesis Eq. 3.1, 3.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.perceptual.layer_error import layer_error, normalised


@dataclass(frozen=True, eq=False)
class Features:
    """A batch of targets in a perceptual model's form: the result of `Perceptual.features`."""

    layers: tuple[Tensor, ...]  # [N, C, h, w] each; the C values of a position have length 1
    image_shape: tuple[int, ...]  # [N, 3, H, W]
    digest: str  # of the model

    def repeated(self, count: int) -> "Features":
        """Return the features of one target, for `count` images to be compared with it; nothing is copied."""
        layers = tuple(layer_1Chw.expand(count, -1, -1, -1) for layer_1Chw in self.layers)
        return Features(layers, (count, *self.image_shape[1:]), self.digest)


class Scaling(nn.Module):
    """Shift and scale of images in [-1, 1], `[N, 3, H, W]`, as the lpips package has them."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[None, :, None, None])

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Return the images scaled."""
        return (x_N3HW - self.shift) / self.scale


class Perceptual(nn.Module):
    """A frozen perceptual distance, equal to the lpips package's with the same weights.

    Images are `[N, 3, H, W]`, floating, in [-1, 1]; both sides of an image must be at least `min_side_px`.
    Distances are differentiable in the images, and those of an image do not depend on its neighbours in the
    batch. Under autocast only the backbone runs in the lower precision.

    Every method raises ValueError for images of another shape or type, or a batch unlike its target.
    """

    def __init__(
        self, backbone: nn.Module, head_weights: Sequence[Tensor], *, name: str, digest: str, min_side_px: int
    ) -> None:
        super().__init__()
        self.name = name
        self.digest = digest
        self.min_side_px = min_side_px
        self.scaling = Scaling()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Conv2d(weight.shape[1], 1, 1, bias=False) for weight in head_weights)
        for head, weight in zip(self.heads, head_weights, strict=True):
            head.load_state_dict({"weight": weight})
        self.requires_grad_(False)
        self.eval()

    def forward(self, x_N3HW: Tensor, y_N3HW: Tensor) -> Tensor:
        """Return the distance of each pair: `[N]`, at least 0; differentiable in both."""
        return self.distance(x_N3HW, self._features(y_N3HW))

    def map(self, x_N3HW: Tensor, y_N3HW: Tensor) -> Tensor:
        """Return the map of differences of each pair: `[N, H, W]`, at least 0; differentiable in both (Eq. 3.1)."""
        return self.distance_map(x_N3HW, self._features(y_N3HW))

    @torch.no_grad()
    def features(self, y_N3HW: Tensor) -> Features:
        """Return a target's part of its distances, detached, to compute once and keep."""
        return self._features(y_N3HW)

    def distance(self, x_N3HW: Tensor, target: Features) -> Tensor:
        """Return the distance of each image to its target: `[N]`, at least 0."""
        return torch.stack([error.mean(dim=(1, 2)) for error in self.layer_errors(x_N3HW, target)]).sum(dim=0)

    def distance_map(self, x_N3HW: Tensor, target: Features) -> Tensor:
        """Return the map of differences of each image from its target: `[N, H, W]`, at least 0 (Eq. 3.1)."""
        size = x_N3HW.shape[2:]
        errors = [F.interpolate(error[:, None], size, mode="bilinear") for error in self.layer_errors(x_N3HW, target)]
        return torch.cat(errors, dim=1).sum(dim=1)

    def layer_errors(self, x_N3HW: Tensor, target: Features) -> list[Tensor]:
        """Return each layer's share of the distance, at that layer's size: `[N, h, w]` each."""
        if target.digest != self.digest:
            raise ValueError(
                f"the kept features are of perceptual model {target.digest}, this one is {self.digest} "
                f"({self.name}): compute them with this model's features()"
            )
        if tuple(x_N3HW.shape) != target.image_shape:
            raise ValueError(
                f"images must have the shape of their targets, {list(target.image_shape)}, "
                f"got {list(x_N3HW.shape)}: give one target per image, of the same size"
            )
        errors = []
        weights = (head.get_parameter("weight") for head in self.heads)
        for weight, x_NChw, y_NChw in zip(weights, self._raw_features(x_N3HW), target.layers, strict=True):
            with torch.autocast(x_NChw.device.type, enabled=False):
                errors.append(layer_error(x_NChw, y_NChw, weight))
        return errors

    def _features(self, x_N3HW: Tensor) -> Features:
        layers = tuple(normalised(feature) for feature in self._raw_features(x_N3HW))
        return Features(layers, tuple(x_N3HW.shape), self.digest)

    def _raw_features(self, x_N3HW: Tensor) -> list[Tensor]:
        self._check(x_N3HW)
        full = torch.promote_types(x_N3HW.dtype, torch.float32)  # 1e-10 in the division is 0 in half precision
        return [feature.to(full) for feature in self.backbone(self.scaling(x_N3HW))]

    def _check(self, x_N3HW: Tensor) -> None:
        shape = list(x_N3HW.shape)
        if x_N3HW.ndim != 4 or shape[1] != 3 or not x_N3HW.is_floating_point():
            raise ValueError(
                f"images must be [N, 3, H, W], floating, in [-1, 1], got {shape} of {x_N3HW.dtype}: "
                "convert uint8 pixels by x / 127.5 - 1, repeat grey images three times"
            )
        if min(shape[2:]) < self.min_side_px:
            raise ValueError(
                f"{self.name} needs images of {self.min_side_px} px or more on each side, got "
                f"{shape[2]} x {shape[3]}: enlarge them or choose another perceptual network"
            )
