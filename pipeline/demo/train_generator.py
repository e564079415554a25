"""Make `generator.safetensors`: a StyleGAN2 trained to draw the demo's scenes, G(z) ≈ draw_scenes(z).

    python -m pipeline.demo.train_generator --out pipeline/demo/assets/generator.safetensors

This is distillation, not adversarial training: every step regresses fresh scenes, at 16, then 32, then 64 px. It takes
about an hour on one core; `docs/demo.md` gives the figures of the committed file.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from generators.checkpoints import save_generator
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from pipeline.demo.scenes import LABELS, Z_DIM, draw_scenes

CONFIG = StyleGAN2Config(
    z_dim=Z_DIM,
    w_dim=128,
    img_resolution=64,
    mapping_layers=2,
    mapping_lr_multiplier=1.0,  # the mapping has a function to learn here, not only a distribution
    channel_base=1024,
    channel_max=128,
)
ABOUT = "StyleGAN2 architecture distilled from the demo's scene renderer; not a published GAN"
DETAILED = torch.tensor([name in ("car", "sun", "tree") for name in LABELS])
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Schedule:
    """How long to train at which resolution, and how fast."""

    steps: dict[int, int]
    batch: int = 16
    learning_rate: float = 1e-2

    @property
    def total(self) -> int:
        """Steps over all resolutions."""
        return sum(self.steps.values())

    def resolution(self, step: int) -> int:
        """Return the resolution in pixels that a step trains at."""
        for resolution, count in self.steps.items():
            if step < count:
                return resolution
            step -= count
        return max(self.steps)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a short warm-up, then a cosine down to zero."""
        return self.learning_rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / self.total))


def draw(generator: StyleGAN2, z: Tensor, resolution: int) -> Tensor:
    """Return the generator's image `[N, 3, r, r]` after the block of that resolution."""
    w = generator.map(z)
    state = generator.begin(w)
    for index, size in enumerate(generator.config.block_resolutions):
        if size <= resolution:
            state = generator.run_block(index, state, w)
    return generator.finish(state)


def distillation_loss(image: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return L1 (details weighted) + L1 of gradients + half the L1 at three pyramid levels; images `[N, 3, r, r]`."""
    error = image - target
    loss = (error.abs() * weight).mean()
    loss = (
        loss + (error.diff(dim=2).abs() * weight[:, :, 1:]).mean() + (error.diff(dim=3).abs() * weight[..., 1:]).mean()
    )
    for _ in range(3):
        error = F.avg_pool2d(error, 2)
        loss = loss + 0.5 * error.abs().mean()
    return loss


def held_out_psnr_db(generator: StyleGAN2, scenes: int = 256) -> float:
    """Return the mean PSNR in dB (images in [0, 1]) of scenes never trained on."""
    z = torch.randn(scenes, Z_DIM, generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    with torch.no_grad():
        image = torch.cat([generator.synthesize(generator.map(part)) for part in z.split(64)]).clamp(-1, 1)
    mse = ((image - draw_scenes(z).image) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * mse.log10()).mean())


def train(schedule: Schedule, out: Path, seed: int, first_step: int = 0) -> float:
    """Train, write the averaged generator to `out` every 500 steps and at the end; return its held-out PSNR in dB.

    With `first_step`, training continues from the generator in `out`.
    """
    torch.manual_seed(seed + first_step)
    generator = StyleGAN2(CONFIG)
    if first_step:
        generator.load_state_dict({name: tensor.float() for name, tensor in load_file(out).items()})
    average = copy.deepcopy(generator)
    optimiser = torch.optim.Adam(generator.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.99))
    started, psnr_db = time.monotonic(), 0.0
    for step in range(first_step, schedule.total):
        optimiser.param_groups[0]["lr"] = schedule.rate(step)
        resolution = schedule.resolution(step)
        z = torch.randn(schedule.batch, Z_DIM)
        scene = draw_scenes(z)
        weight = 1.0 + 2.0 * DETAILED[scene.labels][:, None].float()
        shrink = CONFIG.img_resolution // resolution
        loss = distillation_loss(
            draw(generator, z, resolution), F.avg_pool2d(scene.image, shrink), F.avg_pool2d(weight, shrink)
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        since = step - first_step
        decay = min(0.999, (1 + since) / (10 + since))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(generator.parameters()), 1 - decay)
        if step % 500 == 499 or step == schedule.total - 1:
            psnr_db = held_out_psnr_db(average)
            minutes = (time.monotonic() - started) / 60
            print(
                f"step {step + 1}, {resolution} px: {loss.item():.4f}, {psnr_db:.2f} dB held out, {minutes:.1f} min",
                flush=True,
            )
            with torch.no_grad():
                average.mapping.w_avg.copy_(average.map(torch.randn(20_000, Z_DIM))[:, 0].mean(dim=0))
            save_generator(average, out, about=ABOUT, dtype=torch.float16)
    return psnr_db


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs=3, default=[5_000, 5_000, 9_000], metavar=("AT16", "AT32", "AT64"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-step", type=int, default=0, help="continue from the generator in --out at this step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(
        Schedule(dict(zip((16, 32, 64), arguments.steps, strict=True))),
        arguments.out,
        arguments.seed,
        arguments.first_step,
    )


if __name__ == "__main__":
    main()
