"""The demo's world: procedural scenes of a car on a road, drawn from a latent code with analytic antialiased shapes.

A scene has 22 parameters; z in R^32, scaled to unit second moment as StyleGAN2's mapping scales it, gives them through
the normal distribution function of its first 22 components.
Everything is drawn for a whole batch at once, in torch, so that training can draw fresh scenes at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Z_DIM = 32
LABELS = ("sky", "sun", "hills", "field", "road", "tree", "car", "occluder")
"""Names of the segment labels, by index."""

PARAMETERS = (
    "sky_hue", "sky_light", "dusk", "sun_x", "sun_y",
    "hill_height", "hill_phase", "hill_light", "field_hue", "field_light",
    "tree_x", "tree_size", "tree_hue", "road_light", "dash_phase",
    "car_x", "car_size", "car_hue", "car_light", "cabin", "glass", "wheel",
)  # fmt: skip
"""What each of the first components of z controls."""

NOT_MOVED: Mapping[str, float] = {}


def scene_parameters(z: Tensor, moved: Mapping[str, float] = NOT_MOVED) -> Tensor:
    """Return the parameters `[N, 22]` in [0, 1] of latent codes `z [N, 32]`; the length of z has no effect.

    Args:
        z: the codes.
        moved: parameters to move, by name, in standard deviations over scenes.
    """
    scores = scene_scores(z)
    for name, move in moved.items():
        scores[:, PARAMETERS.index(name)] += move
    unit: Tensor = torch.special.ndtr(scores)
    return unit


def scene_scores(z: Tensor) -> Tensor:
    """Return what the parameters of `z [N, 32]` are made of, `[N, 22]`: each about normal over scenes."""
    unit_z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
    return unit_z[:, : len(PARAMETERS)].clone()


@dataclass(frozen=True)
class Scene:
    """A batch of scenes: `image [N, 3, R, R]` float32 in [-1, 1], `labels [N, R, R]` int64 index into LABELS."""

    image: Tensor
    labels: Tensor


def draw_scenes(z: Tensor, resolution: int = 64, moved: Mapping[str, float] = NOT_MOVED) -> Scene:
    """Return the scenes of latent codes `z [N, 32]`, edited if parameters are `moved` by some standard deviations."""
    return _Canvas(scene_parameters(z, moved), resolution).draw()


class _Canvas:
    """Paints shapes back to front; coordinates run from 0 to 1, y downwards."""

    def __init__(self, unit: Tensor, resolution: int) -> None:
        self.parameters = {name: unit[:, i, None, None] for i, name in enumerate(PARAMETERS)}
        self.resolution = resolution
        axis = (torch.arange(resolution, device=unit.device, dtype=unit.dtype) + 0.5) / resolution
        self.x, self.y = axis[None, None, :], axis[None, :, None]
        self.image = torch.zeros(unit.shape[0], 3, resolution, resolution, device=unit.device, dtype=unit.dtype)
        self.labels = torch.zeros(unit.shape[0], resolution, resolution, device=unit.device, dtype=torch.long)

    def between(self, name: str, low: float, high: float) -> Tensor:
        """Return parameter `name` scaled to [low, high], `[N, 1, 1]`."""
        return low + (high - low) * self.parameters[name]

    def paint(self, distance: Tensor, colour: Tensor, label: str | None = None, opacity: float = 1.0) -> None:
        """Paint where the signed distance (in canvas widths) is negative, one pixel of antialiasing."""
        alpha = (0.5 - distance * self.resolution).clamp(0, 1) * opacity
        self.image = torch.lerp(self.image, colour, alpha[:, None])
        if label is not None:
            self.labels = torch.where(alpha > 0.5, LABELS.index(label), self.labels)

    def draw(self) -> Scene:
        """Paint the scene back to front."""
        self._sky()
        self._hills()
        self._field_and_road()
        self._tree()
        self._car()
        return Scene(self.image * 2 - 1, self.labels)

    def _sky(self) -> None:
        dusk, light = self.parameters["dusk"], self.between("sky_light", 0.45, 0.95)
        high = _hsv(0.58 + 0.12 * self.parameters["sky_hue"], 0.75 - 0.2 * dusk, light * (1 - 0.35 * dusk))
        day = _hsv(torch.full_like(dusk, 0.57), torch.full_like(dusk, 0.25), light)
        low = torch.lerp(day, _hsv(torch.full_like(dusk, 0.06), torch.full_like(dusk, 0.5), light), dusk[:, None])
        self.image = torch.lerp(high, low, (self.y / 0.55).clamp(0, 1)[:, None]).expand_as(self.image)
        x, y = self.between("sun_x", 0.08, 0.92), self.between("sun_y", 0.07, 0.24)
        away = torch.hypot(self.x - x, self.y - y)
        sun = _rgb(1.0, 0.93 - 0.13 * dusk, 0.65 - 0.2 * dusk)
        self.image = torch.lerp(self.image, sun, (0.35 * torch.exp(-((away / 0.11) ** 2)))[:, None])
        self.paint(away - 0.065, sun, "sun")

    def _hills(self) -> None:
        height, phase = self.between("hill_height", 0.03, 0.15), self.between("hill_phase", 0.0, 4.0)
        wave = 0.6 * torch.sin(7.0 * self.x + phase) + 0.4 * torch.sin(13.0 * self.x + 2.3 * phase)
        light = self.between("hill_light", 0.25, 0.5)
        self.paint(
            0.46 - height * (0.55 + 0.45 * wave) - self.y, _rgb(light * 0.85, light * 0.95, light * 1.1), "hills"
        )

    def _field_and_road(self) -> None:
        field = _hsv(
            self.between("field_hue", 0.14, 0.33),
            torch.full_like(self.x[:, :1], 0.6),
            self.between("field_light", 0.35, 0.7),
        )
        self.paint(0.45 - self.y + 0 * self.x, field * (1.05 - 0.25 * self.y[:, None]), "field")
        asphalt = self.between("road_light", 0.2, 0.5)
        self.paint(0.71 - self.y + 0 * self.x, _rgb(asphalt, asphalt, asphalt * 1.06), "road")
        self.paint((self.y - 0.715).abs() - 0.008 + 0 * self.x, _rgb(asphalt + 0.25, asphalt + 0.25, asphalt + 0.22))
        along = torch.remainder(self.x - 0.3 * self.parameters["dash_phase"], 0.3) - 0.15
        dash = torch.maximum(along.abs() - 0.065, (self.y - 0.94).abs() - 0.011)
        self.paint(dash, _rgb(0.85, 0.85, 0.8))

    def _tree(self) -> None:
        x, size = self.between("tree_x", 0.1, 0.9), self.between("tree_size", 0.55, 1.25)
        ground, crown = 0.56, 0.2 * size
        trunk = torch.maximum((self.x - x).abs() - 0.016 * size, (self.y - (ground - crown / 2)).abs() - crown / 2)
        self.paint(trunk, _rgb(0.32 + 0 * x, 0.22, 0.14), "tree")
        leaf = _hsv(self.between("tree_hue", 0.09, 0.38), 0.7 + 0 * x, 0.45 + 0 * x)
        for dx, dy, r, shade in ((-0.055, 0.0, 0.07, 0.85), (0.055, 0.0, 0.07, 0.92), (0.0, -0.065, 0.085, 1.0)):
            away = torch.hypot(self.x - x - dx * size, self.y - (ground - crown + dy * size))
            self.paint(away - r * size, leaf * shade, "tree")

    def _car(self) -> None:
        size, ground = self.between("car_size", 0.75, 1.2), 0.83
        x = (self.x - self.between("car_x", 0.28, 0.72)) / size
        y = (self.y - ground) / size + 0.045
        body = _hsv(self.between("car_hue", 0.0, 0.85), 0.75 + 0 * size, self.between("car_light", 0.35, 0.9))
        glass = self.between("glass", 0.12, 0.75)
        self.paint(
            (torch.hypot(x / 0.27, (y - 0.05) / 0.03) - 1) * 0.03 * size,
            _rgb(0.05 + 0 * size, 0.05, 0.05),
            opacity=0.45,
        )
        top = self.between("cabin", 0.115, 0.165)
        cabin = _trapezoid(x + 0.02, y + 0.075 + top / 2, 0.1, 0.165, top / 2)
        self.paint(cabin * size, body * 0.9, "car")
        for side in (-0.052, 0.052):
            pane = _trapezoid(x + 0.02 - side, y + 0.075 + top / 2, 0.036, 0.052, top / 2 - 0.022)
            self.paint(pane * size, _rgb(glass * 0.85, glass * 0.95, glass * 1.05))
        hull = _rounded_box(x, y + 0.035, 0.235, 0.052, 0.035)
        self.paint(hull * size, body, "car")
        self.paint(_rounded_box(x - 0.222, y + 0.05, 0.014, 0.016, 0.006) * size, _rgb(0.98 + 0 * size, 0.92, 0.65))
        self.paint(_rounded_box(x + 0.226, y + 0.05, 0.01, 0.016, 0.006) * size, _rgb(0.8 + 0 * size, 0.08, 0.08))
        radius = self.between("wheel", 0.052, 0.068)
        for side in (-0.135, 0.135):
            away = torch.hypot(x - side, y - 0.012)
            self.paint((away - radius) * size, _rgb(0.07 + 0 * size, 0.07, 0.08), "car")
            self.paint((away - 0.5 * radius) * size, _rgb(0.72 + 0 * size, 0.72, 0.74))


def _rounded_box(x: Tensor, y: Tensor, half_width: float, half_height: float, radius: float) -> Tensor:
    dx, dy = x.abs() - half_width + radius, y.abs() - half_height + radius
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - radius


def _trapezoid(x: Tensor, y: Tensor, top: float, bottom: float, half_height: Tensor) -> Tensor:
    """Signed distance (approximate, exact slope) of an upright trapezoid with half widths `top` and `bottom`."""
    slope = (bottom - top) / (2 * half_height)
    side = (x.abs() - (top + bottom) / 2 - slope * y) * torch.rsqrt(1 + slope**2)
    return torch.maximum(side, y.abs() - half_height)


def _rgb(red: Tensor | float, green: Tensor | float, blue: Tensor | float) -> Tensor:
    parts = [torch.as_tensor(c) for c in (red, green, blue)]
    return (
        torch.stack(torch.broadcast_tensors(*parts), dim=1)
        if any(p.ndim for p in parts)
        else torch.stack(parts)[None, :, None, None]
    )


def _hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return RGB `[N, 3, 1, 1]` for hue (turns), saturation and value, each `[N, 1, 1]`."""
    offsets = torch.tensor([0.0, 2 / 3, 1 / 3], device=hue.device, dtype=hue.dtype)[None, :, None, None]
    swing = (torch.cos(2 * math.pi * (hue[:, None] - (1 - offsets) % 1)) + 0.5).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] + saturation[:, None] * swing)
