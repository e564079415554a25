"""Where an inversion without an encoder starts: at the random draw of w whose picture is nearest to the target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.generator import Generator
from generators.prior import draw_w
from stages.objective import Objective, Target, prepare_target
from stages.perceptual import Features, Perceptual
from stages.region import Region, crop

GRID = 8  # cells a side that features are averaged over: fine enough to know where a thing is, small enough to keep
BATCH = 16  # draws looked at together

_kept: dict[tuple[object, ...], NearestStart] = {}  # the last one of this process


class NearestStart:
    """Random draws of w and what their pictures look like, made once and asked for every target.

    Near is LPIPS between features averaged over the cells of a grid: the mean over cells and the weights of the heads
    are those of the distance itself. An optimiser that starts at the mean w loses what lies far from where the mean
    picture has it, because no gradient leads there; a draw that has it in its place does not need one.
    """

    def __init__(self, w_BD: Tensor, seen_BV: Tensor) -> None:
        self.w_BD, self._seen_BV = w_BD, seen_BV

    @classmethod
    @torch.no_grad()
    def among(
        cls, generator: Generator, perceptual: Perceptual, objective: Objective, region: Region, samples: int
    ) -> NearestStart:
        """Draw `samples` codes and look at their pictures, on the generator's device, where what was seen stays.

        A draw takes up to 64 float32 numbers a channel that the distance compares: 33 KiB with the demo's, 368 KiB with
        LPIPS-VGG. The last draws of a process are kept: error_maps and invert of a run ask for the same ones.
        """
        device = next(generator.parameters()).device
        key = (generator.digest, perceptual.digest, objective.side_px, region, samples, device)
        if key in _kept:
            return _kept[key]
        w_BD = draw_w(generator, samples).float().to(device)
        seen = []
        for w_ND in w_BD.split(BATCH):
            w_plus = w_ND[:, None].expand(-1, generator.num_ws, -1)
            image = crop(generator.synthesize(w_plus, {}, {}), region).clamp(-1, 1)
            seen.append(_view(perceptual, prepare_target(image, perceptual, objective).features))
        found = cls(w_BD, torch.cat(seen))
        _kept.clear()
        if generator.digest:  # one made in memory has none, and could be taken for another
            _kept[key] = found
        return found

    @torch.no_grad()
    def nearest(self, perceptual: Perceptual, target: Target) -> Tensor:
        """Return the w of each target's nearest draw, `[N, w_dim]` float32; the first, where several are as near."""
        distance_NB = torch.cdist(_view(perceptual, target.features), self._seen_BV)
        return self.w_BD[distance_NB.argmin(dim=1)]


def _view(perceptual: Perceptual, features: Features) -> Tensor:
    """Return vectors `[N, V]` whose squared distance is LPIPS between averaged features."""
    parts = []
    for head, layer_NChw in zip(perceptual.heads, features.layers, strict=True):
        height, width = layer_NChw.shape[2:]
        cells = min(GRID, height), min(GRID, width)
        weight_1C11 = next(head.parameters()).clamp(min=0)
        seen = F.adaptive_avg_pool2d(layer_NChw, cells) * (weight_1C11 / (cells[0] * cells[1])).sqrt()
        parts.append(seen.flatten(1))
    return torch.cat(parts, dim=1)
