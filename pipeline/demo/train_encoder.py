"""Make `encoder.safetensors`: the SAM encoder of the demo's generator, trained on the demo's scenes.

    python -m pipeline.demo.train_encoder --out pipeline/demo/assets/encoder.safetensors

Every step draws fresh scenes. Two thirds of them get an occluder of the kinds that supervision shows; those of held-out
shards are never seen. Each segment is assigned a space at random, so that the encoder serves every threshold. The loss
is the stage's (Eq. 3.5 to 3.8); w_plus of the generator that draws the same scene serves as known codes. At first only
w_plus is fitted to those, which needs no picture. Figures of the committed file: `encoder.json` next to it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from generators import load_generator
from generators.generator import Generator
from generators.latents import Codes, masks_of
from generators.prior import cached_prior
from pipeline.demo.occluders import SEEN, UNSEEN, paste_occluder
from pipeline.demo.scenes import LABELS, Z_DIM, draw_scenes
from stages.encoder.checkpoint import load_sam_encoder, save_encoder
from stages.encoder.fitting import Known, codes_term, shown
from stages.encoder.network import EncoderNetwork, SamEncoder, new_encoder
from stages.maps.region import Region, fit, psnr_db, to_uint8
from stages.objective.loss import loss_of
from stages.objective.objective import Objective, prepare_target
from stages.perceptual import load_perceptual

ASSETS = Path(__file__).with_name("assets")
NETWORK = EncoderNetwork(side_px=64, channels=24, max_channels=48, hidden=128)
OBJECTIVE = Objective(lambda_lpips=0.2, lambda_variation=1e-4, lambda_delta=0.1, shrinkage=1e-3)
"""That of `demo.yaml`, with less weight on the size of deltas: an encoder's are not found one image at a time."""
ABOUT = "SAM encoder of the demo's generator, trained on the demo's scenes and the occluders of its supervision"
OCCLUDED = 2 / 3  # share of scenes with an occluder, as in the demo's shards
OCCLUDER_SPACES = (0.1, 0.1, 0.2, 0.6)  # probability of each space for an occluder
SEGMENT_SPACES = (0.7, 0.1, 0.1, 0.1)  # and for any other segment
LAMBDA_CODES = 0.3
BATCH_ALONE, BATCH = 16, 8
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes: images in [-1, 1], assignments, and the z that draws them without their occluders."""

    image_N3HW: Tensor
    assignment_NHW: Tensor
    z_NZ: Tensor


def scenes(count: int, seed: int, kinds: tuple[str, ...], occluded: float = OCCLUDED) -> Scenes:
    """Return scenes that depend on the seed only."""
    random = np.random.default_rng(seed)
    z_NZ = torch.from_numpy(random.standard_normal((count, Z_DIM), dtype=np.float32))
    drawn = draw_scenes(z_NZ)
    pictures, images, assignments = to_uint8(drawn.image), [], []
    for picture_HW3, labels in zip(pictures, drawn.labels.numpy().astype(np.uint8), strict=True):
        image_HW3, labels_HW = picture_HW3, labels
        if random.random() < occluded:
            pasted = paste_occluder(picture_HW3, labels, str(random.choice(kinds)), random)
            image_HW3, labels_HW = pasted.image, pasted.labels
        spaces_K = random.choice(len(SEGMENT_SPACES), len(LABELS), p=SEGMENT_SPACES).astype(np.uint8)
        spaces_K[LABELS.index("occluder")] = random.choice(len(OCCLUDER_SPACES), p=OCCLUDER_SPACES)
        images.append(fit(image_HW3, Region.whole(len(labels_HW))))
        assignments.append(torch.from_numpy(spaces_K[labels_HW]))
    return Scenes(torch.stack(images), torch.stack(assignments), z_NZ)


class Training:
    """One training on fresh scenes."""

    def __init__(self, steps: tuple[int, int], rate: float, seed: int) -> None:
        self.steps, self.rate, self.seed = steps, rate, seed
        self.generator: Generator = load_generator(ASSETS / "generator.safetensors")
        self.perceptual = load_perceptual("small", weights=ASSETS / "perceptual.safetensors")
        prior = cached_prior(self.generator, shrinkage=OBJECTIVE.shrinkage)
        self.region = Region.whole(self.generator.resolution)
        self.loss = loss_of(self.generator, self.perceptual, prior, OBJECTIVE, self.region)
        self.encoder = new_encoder(NETWORK, self.generator, self.generator.spaces, prior.mean_w, seed)
        self.optimiser = torch.optim.Adam(self.encoder.parameters(), lr=rate, betas=(0.9, 0.99))

    def run(self, out: Path, first_step: int) -> None:
        """Train: w_plus alone for `steps[0]` steps, then everything for `steps[1]`; write `out` every 50 steps."""
        started = time.process_time()
        for step in range(first_step, sum(self.steps)):
            alone = step < self.steps[0]
            first, count = (0, self.steps[0]) if alone else (self.steps[0], self.steps[1])
            share = (step - first) / count
            rate = self.rate * min(1.0, (step - first + 1) / 50) * 0.5 * (1 + math.cos(math.pi * share))
            self.optimiser.param_groups[0]["lr"] = max(rate, 0.05 * self.rate) if alone else rate
            loss = self._step(
                scenes(BATCH_ALONE if alone else BATCH, self.seed * 10_000_000 + step, tuple(SEEN)), alone=alone
            )
            if step % 50 == 49 or step == sum(self.steps) - 1:
                minutes = (time.process_time() - started) / 60
                print(f"step {step + 1}: {loss:.4f}, {minutes:.1f} CPU min", flush=True)
                out.write_bytes(save_encoder(self.encoder, ABOUT, torch.float16))

    def _step(self, batch: Scenes, *, alone: bool) -> float:
        w_plus = self.generator.map(batch.z_NZ)
        with torch.autocast("cpu", torch.bfloat16):
            if alone:
                seen = torch.cat(shown(batch.image_N3HW, batch.assignment_NHW, 4, self.region, 64), dim=1)
                rows = self.encoder.mean_w + self.encoder.w_plus(seen).float().unflatten(1, w_plus.shape[1:])
                loss = (rows - w_plus).square().mean()
            else:
                codes = encode(self.encoder, self.generator, batch.image_N3HW, batch.assignment_NHW)
                terms_TN = self.loss(codes, prepare_target(batch.image_N3HW, self.perceptual, OBJECTIVE))
                known = Known(Codes(w_plus), torch.ones(len(w_plus)))
                loss = terms_TN.sum(dim=0).mean() + LAMBDA_CODES * codes_term(codes, known).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimiser.step()
        return float(loss.detach())


def encode(encoder: SamEncoder, generator: Generator, image_N3HW: Tensor, assignment_NHW: Tensor) -> Codes:
    """Return the codes of whole-canvas images, with the masks of their assignments; unused spaces are omitted."""
    spaces, resolution = encoder.spaces, generator.resolution
    codes: Codes = encoder(*shown(image_N3HW, assignment_NHW, len(spaces), Region.whole(resolution), resolution))
    masks = masks_of(assignment_NHW, spaces, generator.feature_shapes)
    deltas = {space: codes.deltas[space].float() for space in masks}
    return replace(codes, w_plus=codes.w_plus.float(), deltas=deltas, masks=masks)


@torch.no_grad()
def figures(encoder: SamEncoder, generator: Generator, count: int = 96) -> dict[str, float]:
    """Return mean PSNR in dB of new scenes: occluded as none that was trained on, in W+ or occluders in F6; clean."""
    side = generator.resolution
    occluded = scenes(count, HELD_OUT_SEED, tuple(UNSEEN), occluded=1.0)
    clean = scenes(count, HELD_OUT_SEED, tuple(UNSEEN), occluded=0.0)
    nowhere = torch.zeros(count, side, side, dtype=torch.uint8)
    f6 = torch.where(_occluded(count), encoder.spaces.index("F6"), 0).to(torch.uint8)
    cases = {
        "w_plus_only": (occluded, nowhere),
        "occluders_in_f6": (occluded, f6),
        "clean_w_plus": (clean, nowhere),
    }
    found = {}
    for name, (batch, assignment_NHW) in cases.items():
        codes = encode(encoder, generator, batch.image_N3HW, assignment_NHW)
        image = generator.synthesize(codes.w_plus, codes.deltas, codes.masks)
        found[f"psnr_db_{name}"] = round(float(psnr_db(image, batch.image_N3HW).mean()), 2)
    return found


def _occluded(count: int) -> Tensor:
    """Return where the held-out scenes differ from their unoccluded ones, `[N, H, W]` bool."""
    with_, without = (scenes(count, HELD_OUT_SEED, tuple(UNSEEN), occluded=share) for share in (1.0, 0.0))
    assert torch.equal(with_.z_NZ, without.z_NZ)
    return (with_.image_N3HW != without.image_N3HW).any(dim=1)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs=2, default=[1_400, 330], metavar=("W_PLUS", "ALL"))
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-step", type=int, default=0, help="continue from the encoder in --out at this step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = Training(tuple(arguments.steps), arguments.rate, arguments.seed)
    if arguments.first_step:
        training.encoder.load_state_dict(load_sam_encoder(arguments.out).state_dict())
    training.run(arguments.out, arguments.first_step)
    measured = figures(training.encoder, training.generator) | {"steps": arguments.steps, "batch": [BATCH_ALONE, BATCH]}
    arguments.out.with_suffix(".json").write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
