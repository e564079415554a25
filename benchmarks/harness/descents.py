"""Ways to lower the loss of a batch of images from one start, for `benchmarks.time_to_quality`.

Each is a function of the work, its batch and a number of evaluations of the loss with its gradient; it moves the batch
in place. Images do not mix, except that all take the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from generators.latents import Codes
from stages.engine.batch import Batch, Item
from stages.engine.schedule import Schedule
from stages.inversion.inverter import Inverter
from stages.maps.region import crop, psnr_db
from stages.objective.loss import Loss
from stages.objective.objective import Target
from stages.objective.precision import lowered
from stages.perceptual.layer_error import normalised

TODAY = Schedule(learning_rate=0.1)
"""The schedule of the demo's inversions until it took a short memory, whatever its steps."""
FINISH = 0.25
"""Share of the evaluations that a second optimiser takes at the end."""
CONJUGATE = 5
"""Products with the Gauss-Newton matrix per step of Gauss-Newton; each costs about one evaluation."""
DAMPING, NUDGE = 1e-3, 1e-2
"""What is added to the diagonal of that matrix, and the length of the finite difference in its products."""

Descent = Callable[["Work", Batch, int], None]


@dataclass(frozen=True, eq=False)
class Work:
    """Images to invert from one start."""

    inverter: Inverter
    items: Sequence[Item]

    def batch(self) -> Batch:
        """Return all items in a batch."""
        batch = Batch.idle(self.items[0], len(self.items))
        batch.put(dict(enumerate(self.items)))
        return batch

    def descended(self, descent: Descent, evaluations: int) -> tuple[Batch, float]:
        """Return the batch that a way of descending reaches, and its seconds per image, of the processor on a CPU."""
        batch, device = self.batch(), self.inverter.device
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        started = clock()
        descent(self, batch, evaluations)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return batch, (clock() - started) / len(self.items)

    @torch.no_grad()
    def judged(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of each image (Eq. 3.8), at its full size in float32, and its PSNR in dB: `[N]` each."""
        full = replace(self.inverter, precision="fp32")
        codes = _codes(batch, _tensors(batch))
        loss_N = full.loss()(codes, full.target(batch.target.image)).sum(dim=0)
        return loss_N.cpu(), psnr_db(full.picture(codes), batch.target.image).cpu()


@dataclass(frozen=True)
class Stepwise:
    """An optimiser of torch on w_plus and deltas; by default it takes the engine's steps."""

    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    schedule: Schedule = TODAY
    """Its steps are replaced by the evaluations."""
    w_rate: float = 1.0  # of w_plus, as a share of the schedule's
    delta_rate: float = 1.0  # of the deltas
    lpips_every: int = 1  # LPIPS counts in every k-th step only
    lpips_scaled: bool = False  # k times as much there
    coarse_px: int | None = None  # side of the images of the first half of the steps
    w_alone: float = 0.0  # share of the steps, at the beginning, in which deltas stay
    finish: Descent | None = None  # what takes the last quarter of the evaluations

    def __call__(self, work: Work, batch: Batch, evaluations: int) -> None:
        """Move the batch."""
        steps = evaluations - (round(FINISH * evaluations) if self.finish else 0)
        schedule = self.schedule.model_copy(update={"steps": steps})
        losses, tensors = self._losses(work, batch, steps), _tensors(batch)
        groups = [{"params": [tensor]} for tensor in tensors.values()]
        optimiser = self.optimiser(groups, lr=schedule.learning_rate, betas=schedule.betas)
        for step in range(steps):
            loss, target = losses(step)
            for group, (space, gradient) in zip(
                optimiser.param_groups, _gradients(loss, batch, target).items(), strict=True
            ):
                of_w = space == _W
                group["params"][0].grad = gradient if of_w or step >= self.w_alone * steps else None
                group["lr"] = schedule.rate(step) * (self.w_rate if of_w else self.delta_rate)
            optimiser.step()
        if self.finish:
            self.finish(work, batch, evaluations - steps)

    def _losses(self, work: Work, batch: Batch, steps: int) -> Callable[[int], tuple[Loss, Target]]:
        """Return the function that gives the loss and the targets of a step."""
        inverter, objective = work.inverter, work.inverter.objective
        scale = self.lpips_every if self.lpips_scaled else 1
        weighted = {"lambda_lpips": objective.lambda_lpips * scale}
        full = replace(inverter, objective=objective.model_copy(update=weighted)).loss(), batch.target
        if self.coarse_px is not None:
            reduced = replace(inverter, objective=objective.model_copy(update={"side_px": self.coarse_px}))
            coarse = reduced.loss(), reduced.target(batch.target.image)
            return lambda step: coarse if step < steps // 2 else full
        plain = replace(inverter, objective=objective.model_copy(update={"lambda_lpips": 0.0})).loss(), batch.target
        return lambda step: plain if step % self.lpips_every else full


def lbfgs_on_w(work: Work, batch: Batch, evaluations: int) -> None:
    """Move w_plus of each image by L-BFGS with a line search, deltas as they are; one image after the other."""
    loss = work.inverter.loss()
    for number, item in enumerate(work.items):
        alone = Batch.idle(item, 1)
        alone.put({0: replace(item, start=batch.codes_of(number, item))})
        tensors = _tensors(alone)
        w = tensors[_W].requires_grad_()
        optimiser = torch.optim.LBFGS([w], max_iter=evaluations, max_eval=evaluations, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimiser.zero_grad()  # noqa: B023  # called in this turn only
            with torch.enable_grad():
                total = loss(_codes(alone, tensors), alone.target).sum()  # noqa: B023
                total.backward()
            return float(total.detach())

        optimiser.step(closure)
        batch.w_plus.now[number] = w.detach()[0]


def gauss_newton_on_w(work: Work, batch: Batch, evaluations: int) -> None:
    """Move w_plus by damped Gauss-Newton steps, each solved by conjugate gradients, deltas as they are.

    Products with the Jacobian are finite differences, so it computes in float32.
    """
    inverter = replace(work.inverter, precision="fp32")
    target, tensors = inverter.target(batch.target.image), _tensors(batch)

    def residuals(w_plus: Tensor) -> Tensor:
        return _residuals(inverter, _codes(batch, {**tensors, _W: w_plus}), target)

    while evaluations > 1:
        products = min(CONJUGATE, evaluations - 1)
        evaluations -= 1 + products
        w = batch.w_plus.now
        move = _gauss_newton_step(residuals, w.clone(), products)
        tried = torch.stack([w + length * move for length in (0.0, 0.25, 0.5, 1.0)])
        with torch.no_grad():
            best = torch.stack([residuals(one).square().sum(dim=1) for one in tried]).argmin(dim=0)
        w.copy_(tried[best, torch.arange(len(w), device=w.device)])


def _gauss_newton_step(residuals: Callable[[Tensor], Tensor], w: Tensor, products: int) -> Tensor:
    with torch.enable_grad():
        w.requires_grad_()
        of_w = residuals(w)
    here = of_w.detach()

    def along(direction: Tensor) -> Tensor:
        """Return the gradient of the residuals' product with a direction of theirs."""
        (gradient,) = torch.autograd.grad(of_w, w, direction, retain_graph=True)
        return gradient

    def product(move: Tensor) -> Tensor:
        nudge = NUDGE / move.flatten(1).norm(dim=1).clamp_min(1e-12)
        with torch.no_grad():
            change = (residuals(w + nudge[:, None, None] * move) - here) / nudge[:, None]
        return along(change) + DAMPING * move

    return _conjugate_gradients(product, -along(here), products)


def _conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, products: int) -> Tensor:
    """Return the approximate solution of a system per image, after some products with its matrix."""
    solution, rest, direction = torch.zeros_like(right), right.clone(), right.clone()
    size = _dot(rest, rest)
    for _ in range(products):
        image = product(direction)
        length = size / _dot(direction, image).clamp_min(1e-20)
        solution += length * direction
        rest -= length * image
        size, before = _dot(rest, rest), size
        direction = rest + size / before.clamp_min(1e-30) * direction
    return solution


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2), keepdim=True)


def _residuals(inverter: Inverter, codes: Codes, target: Target) -> Tensor:
    """Return what Eq. 3.5 sums the squares of, `[N, K]`."""
    generator, perceptual = inverter.optimised
    with lowered(inverter.precision, inverter.device):
        image = crop(generator.synthesize(codes.w_plus, codes.deltas, codes.masks), inverter.region).clamp(-1, 1)
        layers = perceptual.backbone(perceptual.scaling(image))
    parts = [(image - target.image) / image[0].numel() ** 0.5]
    for head, layer, of_target in zip(perceptual.heads, layers, target.features.layers, strict=True):
        weight = inverter.objective.lambda_lpips * head.get_parameter("weight") / layer[0, 0].numel()
        parts.append((normalised(layer) - of_target) * weight.clamp_min(0).sqrt())
    return torch.cat([part.flatten(1) for part in parts], dim=1)


_W = "w_plus"


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Return what moves of a batch, by name."""
    return {_W: batch.w_plus.now, **{space: moving.now for space, moving in batch.deltas.items()}}


def _codes(batch: Batch, tensors: dict[str, Tensor]) -> Codes:
    return batch.codes(tensors[_W], {space: tensor for space, tensor in tensors.items() if space != _W})


def _gradients(loss: Loss, batch: Batch, target: Target) -> dict[str, Tensor]:
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in _tensors(batch).items()}
    with torch.enable_grad():
        total = loss(_codes(batch, tensors), target).sum()
        gradients = torch.autograd.grad(total, list(tensors.values()))
    return dict(zip(tensors, gradients, strict=True))
