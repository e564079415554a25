"""The gain of each optimisation of the inversion engine, step by step from the published loop to the engine.

    python -m benchmarks.optimisations [--quick] --json FILE [--device cpu]

Each row adds one to the row before it and inverts the same images in the demo's generator, one space per image in turn,
in as many steps. A first turn, which includes compiling, does not count. `ms_per_image_step`: of one image's
step, median over the turns, in which all rows take part. `times`: how much faster than the first row. `loss`: mean
final loss, which must be that of the first row within 1 %.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.as_worker import as_worker
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.descent import invert_all
from benchmarks.inversion import CLOSE, Case, demo_networks, inverter_of
from benchmarks.references.plain_loop import invert_plainly
from benchmarks.references.published_convolutions import published_convolutions
from benchmarks.supervision import SEED, scenes
from stages.engine.batch import Item
from stages.engine.compiled_loss import CompiledLoss
from stages.images.image_member import pixels_of
from stages.inversion.inverter import Inverter
from stages.inversion.viewer import Photograph
from stages.maps.region import fit
from stages.objective.loss import Loss

WIDTH = 16


@dataclass(frozen=True)
class Work:
    """What every row inverts: images and the masks of each."""

    inverter: Inverter
    images: list[Tensor]
    masks: list[Mapping[str, Tensor]]

    @classmethod
    def from_images(cls, inverter: Inverter, images: list[Tensor]) -> Work:
        """Return the inversion of images, the first in the first space, the second in the second, and so on."""
        spaces = inverter.generator.spaces
        return cls(inverter, images, [inverter.everywhere(spaces[i % len(spaces)]) for i in range(len(images))])

    def items(self, *, everywhere: bool) -> list[Item]:
        """Return the items of an engine; `everywhere` carries all spaces for all images, zero where they do not act."""
        return [self._item(image, masks, everywhere) for image, masks in zip(self.images, self.masks, strict=True)]

    def _item(self, image_13HW: Tensor, masks: Mapping[str, Tensor], everywhere: bool) -> Item:
        photograph = Photograph(image_13HW[0], image_13HW[0])
        if not everywhere:
            return self.inverter.item(photograph, dict(masks))
        shapes = self.inverter.generator.feature_shapes
        all_masks = {space: image_13HW.new_zeros(1, 1, *shape[1:]) for space, shape in shapes.items()} | dict(masks)
        return replace(self.inverter.item(photograph, all_masks), free=frozenset(masks))


def fitted_scenes(inverter: Inverter, count: int) -> list[Tensor]:
    """Return scenes of the demo in an inverter's form."""
    device = inverter.prior.mean_w.device
    return [fit(pixels_of(scene), inverter.region)[None].to(device) for scene in scenes(count)]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; return 1 if a row reaches another loss than the first."""
    parser = parser_of("optimisations", __doc__, "one turn of few steps; within 5 minutes on 2 cores")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    steps, turns = (16, 1) if options.quick else (24, 3)
    device = torch.device(options.device)
    inverter = inverter_of(Case("demo 64", demo_networks, WIDTH, steps), device)
    work = Work.from_images(inverter, fitted_scenes(inverter, WIDTH))
    rows = rows_of(sides_of(work, WIDTH), work, turns)
    report = {
        "benchmark": "optimisations",
        "rows": rows,
        "images": WIDTH,
        "steps": steps,
        "turns": turns,
        "quick": options.quick,
        "seed": SEED,
        **circumstances(device),
    }
    for row in rows:
        print(f"{row['name']:60} {row['ms_per_image_step']:8.2f} ms {row['times']:6.2f} x   loss {row['loss']:.5f}")
    write_report(options.json, report)
    return int(any(abs(row["loss"] / rows[0]["loss"] - 1) > CLOSE for row in rows))


def rows_of(sides: Mapping[str, Callable[[], float]], work: Work, turns: int) -> list[dict[str, Any]]:
    """Return a row of the table for each side: its name, times and mean final loss."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for side in sides.values():
        side()
    for _ in range(turns):
        for name, side in sides.items():
            started = time.perf_counter()
            losses[name] = side()
            seconds[name].append(time.perf_counter() - started)
    image_steps = len(work.images) * work.inverter.schedule.steps
    ms = {name: 1000 * statistics.median(one) / image_steps for name, one in seconds.items()}
    first = next(iter(ms.values()))
    return [
        {"name": name, "ms_per_image_step": ms[name], "times": first / ms[name], "loss": losses[name]} for name in sides
    ]


def sides_of(work: Work, width: int) -> dict[str, Callable[[], float]]:
    """Return the name and function of each row; the function returns the mean final loss and waits for the device."""

    def published(*, keeps_target: bool) -> float:
        with published_convolutions():
            return plain(keeps_target=keeps_target)

    def plain(*, keeps_target: bool) -> float:
        pairs = zip(work.images, work.masks, strict=True)
        return statistics.mean(
            invert_plainly(work.inverter, image, masks, keeps_target=keeps_target)[1] for image, masks in pairs
        )

    def engine(loss: Loss, *, everywhere: bool) -> float:
        found = invert_all(loss, work.items(everywhere=everywhere), width)
        return statistics.mean(float(one.trace.terms["total"][-1, 0]) for one in found)

    loss = work.inverter.loss()
    compiled = CompiledLoss(loss, work.inverter.prior.mean_w.device)
    return {
        "the published loop": partial(published, keeps_target=False),
        "the target's features kept": partial(published, keeps_target=True),
        "features modulated, not weights": partial(plain, keeps_target=True),
        f"{width} images in a batch, all spaces carried": partial(engine, loss, everywhere=True),
        "only the spaces that an image uses": partial(engine, loss, everywhere=False),
        "compiled": partial(engine, compiled, everywhere=False),
    }


if __name__ == "__main__":
    as_worker()
    sys.exit(main())
