"""Find the demo's edit directions in its generator, and scale them by what they do to its pictures.

    python -m pipeline.demo.fit_directions

The position of the car is GANSpace's first component. Its size and colour are fitted to labels: the scores are the
renderer's own parameters of the z that each sample was drawn from. Then each direction is scaled so that magnitude 1
moves its parameter by one standard deviation. That is measured on pictures: the move with which the renderer's scenes
come closest to edited samples. One scale per direction, for all images and methods. Half a minute on one core.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from generators import load_generator
from generators.directions import Direction, GanSpace, Labels, save_directions
from generators.directions.sampling import seeded_w
from generators.generator import Generator
from pipeline.demo.edits import DIRECTIONS, EDITS, DemoEdit
from pipeline.demo.scenes import PARAMETERS, Z_DIM, draw_scenes, scene_scores

GENERATOR = Path(__file__).parent / "assets/generator.safetensors"
LABELLED = 10_000
"""Samples whose parameters are the scores."""
MEASURED = range(20_000, 20_064)
"""Seeds of the samples on which a direction is measured."""
MOVES = np.arange(0.5, 1.51, 0.05)


def main() -> int:
    """Find, scale and save the directions; print what each does."""
    generator = load_generator(GENERATOR)
    with tempfile.TemporaryDirectory() as folder:
        found = [(name, edit, found_direction(generator, edit, Path(folder))) for name, edit in EDITS.items()]
    directions = []
    for name, edit, direction in found:
        towards = towards_more(generator, edit, direction.delta)
        move, psnr_db = measured_move(generator, edit, towards)
        about = {
            "unit": f"standard deviation of {edit.parameter} in the scenes",
            "figures": direction.provenance.figures | {"move_before_scaling": move, "psnr_to_renderer_db": psnr_db},
        }
        provenance = direction.provenance.model_copy(update=about)
        directions.append(Direction(name, towards / move, provenance))
        print(f"{name}: {edit.parameter} moves by {move:.3f}; {psnr_db:.2f} dB from the renderer's scenes")
    save_directions(directions, DIRECTIONS)
    print(f"wrote {DIRECTIONS}, {DIRECTIONS.stat().st_size} bytes")
    return 0


def found_direction(generator: Generator, edit: DemoEdit, folder: Path) -> Direction:
    """Return a direction as GANSpace or labels give it."""
    if edit.way == "ganspace":
        return GanSpace(components=1, layers=edit.layers).fit(generator)[0]
    scores_S = scene_scores(z_of(range(LABELLED)))[:, PARAMETERS.index(edit.parameter)]
    scores = folder / "renderer.parquet"
    pq.write_table(pa.table({"seed": range(LABELLED), edit.parameter: scores_S.double().numpy()}), scores)
    return Labels(scores=scores, column=edit.parameter, layers=edit.layers).fit(generator)[0]


def z_of(seeds: range) -> Tensor:
    """Return the z of the generator's samples by seed, `[N, 32]`, as `seeded_w` draws them."""
    return torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, Z_DIM) for seed in seeds])).float()


@torch.no_grad()
def towards_more(generator: Generator, edit: DemoEdit, delta: Tensor) -> Tensor:
    """Return a direction with the sign that moves its parameter up: a component has no sign of its own."""
    ahead, back = (_distances(generator, edit, sign * delta, np.ones(1))[0] for sign in (1, -1))
    return delta if ahead < back else -delta


@torch.no_grad()
def measured_move(generator: Generator, edit: DemoEdit, delta: Tensor) -> tuple[float, float]:
    """Return how far magnitude 1 moves the parameter, in standard deviations, and the PSNR at that move in dB.

    The move is where the squared distance between edited samples and the renderer's scenes is least, by the parabola
    through the least of some moves and its neighbours.
    """
    error_M = _distances(generator, edit, delta, MOVES)
    best = int(np.clip(np.argmin(error_M), 1, len(MOVES) - 2))
    left, least, right = error_M[best - 1 : best + 2]
    step = float(MOVES[1] - MOVES[0])
    return float(MOVES[best] + step / 2 * (left - right) / (left - 2 * least + right)), float(-10 * np.log10(least))


def _distances(generator: Generator, edit: DemoEdit, delta: Tensor, moves_M: np.ndarray) -> np.ndarray:
    """Return the mean squared distance (images in [0, 1]) of edited samples from scenes with each move."""
    w_plus = torch.cat(list(seeded_w(generator, MEASURED)))
    edited = generator.synthesize(w_plus + delta).clamp(-1, 1)
    z = z_of(MEASURED)
    scenes = (draw_scenes(z, generator.resolution, {edit.parameter: float(move)}).image for move in moves_M)
    return np.array([float(((scene.clamp(-1, 1) - edited) / 2).square().mean()) for scene in scenes])


if __name__ == "__main__":
    sys.exit(main())
