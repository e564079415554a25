"""Patterns pasted over the demo's scenes, with their masks; the generator has never seen them.

Supervision uses `SEEN` kinds only and evaluation `UNSEEN` kinds only, so that a map is judged on what its segmenter
was never shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.scenes import LABELS

Pattern = Callable[[np.random.Generator, NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
CAR, OCCLUDER = LABELS.index("car"), LABELS.index("occluder")
LARGEST_SHARE_OF_CAR = 0.25
_TRIES = 50


@dataclass(frozen=True)
class Occluded:
    """A scene with something pasted on it: `image [H, W, 3]` uint8, `labels [H, W]` and `mask [H, W]` bool."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def paste_occluder(
    image_HW3: NDArray[np.uint8], labels_HW: NDArray[np.uint8], kind: str, random: np.random.Generator
) -> Occluded:
    """Return the scene with an occluder of a kind somewhere, over at most a quarter of the car."""
    height, width = labels_HW.shape
    y, x = np.mgrid[0:height, 0:width] + 0.5
    car = labels_HW == CAR
    for _ in range(_TRIES):
        half_w, half_h = random.uniform(0.1, 0.17, 2) * width
        centre_x, centre_y = random.uniform(0.15, 0.85) * width, random.uniform(0.2, 0.8) * height
        u, v = (x - centre_x) / half_w, (y - centre_y) / half_h
        mask = _outline(kind, u, v, random)
        if (mask & car).sum() <= LARGEST_SHARE_OF_CAR * car.sum():
            break
    colours = KINDS[kind](random, u, v)
    pasted = np.where(mask[..., None], (colours.clip(0, 1) * 255).round().astype(np.uint8), image_HW3)
    return Occluded(pasted, np.where(mask, np.uint8(OCCLUDER), labels_HW), mask)


def _outline(
    kind: str, u: NDArray[np.float64], v: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.bool_]:
    """Return the occluder's pixels: a star, a disc or a rotated rectangle."""
    if kind == "star":
        angle, reach = np.arctan2(v, u), np.hypot(u, v)
        return np.asarray(reach < 0.9 + 0.3 * np.cos(5 * angle + random.uniform(0, 6)))
    if kind in ("rings", "noise"):
        return np.asarray(np.hypot(u, v) < 1.05)
    turn = random.uniform(-0.5, 0.5)
    a, b = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    return np.asarray(np.maximum(abs(a), abs(b)) < 0.9)


def _two_colours(random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two saturated colours that differ clearly."""
    first = random.permutation([0.05, random.uniform(0.2, 0.9), 0.95])
    return first, 1.0 - first


def _mix(random: np.random.Generator, share: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second = _two_colours(random)
    return share[..., None] * first + (1 - share[..., None]) * second


def _noise(random: np.random.Generator, u: NDArray[np.float64], _v: NDArray[np.float64]) -> NDArray[np.float64]:
    return random.uniform(0, 1, (*u.shape, 3))


def _checker(random: np.random.Generator, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    fine = random.uniform(1.5, 3.0)
    return _mix(random, ((np.floor(fine * u) + np.floor(fine * v)) % 2).astype(float))


def _stripes(random: np.random.Generator, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    turn = random.uniform(0, np.pi)
    return _mix(random, (np.sin(random.uniform(6, 11) * (u * np.cos(turn) + v * np.sin(turn))) > 0).astype(float))


def _writing(random: np.random.Generator, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    bars = (np.sin(9 * u + 3 * np.sin(7 * v)) > 0.1) & (np.abs(np.sin(4.5 * v)) > 0.35)
    return _mix(random, bars.astype(float))


def _plain(random: np.random.Generator, u: NDArray[np.float64], _v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.broadcast_to(_two_colours(random)[0], (*u.shape, 3))


def _rings(random: np.random.Generator, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return _mix(random, (np.sin(random.uniform(7, 11) * np.hypot(u, v)) > 0).astype(float))


def _star(random: np.random.Generator, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return _mix(random, (0.5 + 0.5 * np.cos(5 * np.arctan2(v, u))) * (np.hypot(u, v) % 0.5 < 0.3))


def _mosaic(random: np.random.Generator, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    tiles: NDArray[np.float64] = random.uniform(0, 1, (8, 8, 3))
    colours: NDArray[np.float64] = tiles[(np.floor(2.5 * u) % 8).astype(int), (np.floor(2.5 * v) % 8).astype(int)]
    return colours


SEEN: dict[str, Pattern] = {
    "noise": _noise, "checker": _checker, "stripes": _stripes, "writing": _writing, "plain": _plain
}  # fmt: skip
UNSEEN: dict[str, Pattern] = {"rings": _rings, "star": _star, "mosaic": _mosaic}
KINDS = SEEN | UNSEEN
