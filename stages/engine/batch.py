"""The state of many inversions in one batch: optimised tensors, Adam's moments and targets, row by row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from generators.latents import Codes
from stages.engine.schedule import Schedule
from stages.objective.objective import Target


@dataclass(frozen=True, eq=False)
class Item:
    """One image to invert; its tensors are batches of 1.

    `start` has the deltas that act in this image only. `free` are the feature spaces whose deltas move;
    `w_free` says whether w_plus moves, `tied` whether its rows stay one code, W instead of W+, as at the start.
    """

    target: Target
    start: Codes
    schedule: Schedule
    free: frozenset[str]
    w_free: bool = True
    tied: bool = False


Shape = tuple[int, ...] | tuple[tuple[int, ...], ...]


def shapes_of(item: Item) -> dict[str, Shape]:
    """Return the shapes that items of one batch share, by name; those of a space only if it has a delta."""
    start, features = item.start, item.target.features
    shapes: dict[str, Shape] = {
        "target": tuple(item.target.image.shape),
        "features": tuple(tuple(layer.shape) for layer in features.layers),
        "w_plus": tuple(start.w_plus.shape),
    }
    shapes |= {f"delta of {space}": tuple(delta.shape) for space, delta in start.deltas.items()}
    return shapes | {f"mask of {space}": tuple(mask.shape) for space, mask in start.masks.items()}


@dataclass(frozen=True, eq=False)
class Moving:
    """An optimised tensor, ``[M, ...]``: the rows of some of a batch's images, with Adam's moments.

    ``image [M]`` (int64) are the numbers of the images, ascending; ``free [M]`` (bool) says whether a row may move.
    """

    image: Tensor
    free: Tensor
    now: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def begin(cls, image: Tensor, free: Tensor, now: Tensor) -> Moving:
        """Return rows that have not moved yet."""
        return cls(image, free, now, torch.zeros_like(now), torch.zeros_like(now))

    def __getitem__(self, rows: Tensor) -> Moving:
        """Return some of the rows, by number or by mask."""
        return Moving(self.image[rows], self.free[rows], self.now[rows], self.first[rows], self.second[rows])

    def beside(self, other: Moving) -> Moving:
        """Return the rows of both."""
        both = Moving(
            torch.cat([self.image, other.image]),
            torch.cat([self.free, other.free]),
            torch.cat([self.now, other.now]),
            torch.cat([self.first, other.first]),
            torch.cat([self.second, other.second]),
        )
        return both[both.image.argsort()]


@dataclass(frozen=True, eq=False)
class Batch:
    """N images, each inverted or idle. A delta has rows only for the images in which it acts.

    ``masks`` are of all N images, ``tied [N]`` says whose w_plus has one code for all layers, ``alive [N]`` whose loss
    has been finite so far; an image that is not alive does not move, and idle ones are not.
    """

    target: Target
    w_plus: Moving
    deltas: dict[str, Moving]
    masks: dict[str, Tensor]
    tied: Tensor
    alive: Tensor

    @classmethod
    def idle(cls, like: Item, width: int) -> Batch:
        """Return an empty batch with room for items of this one's shapes."""

        def room(tensor: Tensor) -> Tensor:
            zeros, channels_last = tensor.new_zeros(width, *tensor.shape[1:]), torch.channels_last
            laid_out = tensor.ndim == 4 and tensor.is_contiguous(memory_format=channels_last)
            return zeros.contiguous(memory_format=channels_last) if laid_out else zeros

        image, features = like.target.image, like.target.features
        layers = tuple(room(layer) for layer in features.layers)
        shape = (width, *features.image_shape[1:])
        mean = None if like.target.prior_mean is None else room(like.target.prior_mean)
        target = Target(room(image), replace(features, layers=layers, image_shape=shape), mean)
        w_plus = room(like.start.w_plus)
        numbers = torch.arange(width, device=w_plus.device)
        nobody = torch.zeros_like(numbers, dtype=torch.bool)
        return cls(target, Moving.begin(numbers, nobody.clone(), w_plus), {}, {}, nobody.clone(), nobody.clone())

    def codes(self, w_plus: Tensor, deltas: Mapping[str, Tensor]) -> Codes:
        """Return the codes of all N images from this batch's rows; zeros where an image has no delta."""
        count = len(w_plus)
        of_all = {
            space: rows
            if len(rows) == count
            else rows.new_zeros(count, *rows.shape[1:]).index_copy(0, self.deltas[space].image, rows)
            for space, rows in deltas.items()
        }
        return Codes(w_plus, of_all, self.masks)

    def put(self, items: Mapping[int, Item]) -> None:
        """Write items to idle images."""
        for image, item in items.items():
            at = slice(image, image + 1)
            self.target.image[at] = item.target.image
            if self.target.prior_mean is not None and item.target.prior_mean is not None:
                self.target.prior_mean[at] = item.target.prior_mean
            for layer, entering in zip(self.target.features.layers, item.target.features.layers, strict=True):
                layer[at] = entering
            self.w_plus.now[at] = item.start.w_plus
            self.w_plus.first[at] = self.w_plus.second[at] = 0
            self.w_plus.free[at] = item.w_free
            self.tied[at], self.alive[at] = item.tied, True
        for space in {space: None for item in items.values() for space in item.start.deltas}:
            self._put_deltas(space, {image: item for image, item in items.items() if space in item.start.deltas})

    def remove(self, images: Collection[int]) -> None:
        """Make images idle; drop what was carried for them alone."""
        for image in images:
            self.alive[image] = False
        for space, moving in list(self.deltas.items()):
            stay = ~torch.isin(moving.image, moving.image.new_tensor(list(images)))
            self.deltas[space] = moving[stay]
            for image in images:
                self.masks[space][image] = 0
            if not len(self.deltas[space].image):
                del self.deltas[space], self.masks[space]

    def fine(self) -> Tensor:
        """Return which images have had a finite loss and have finite codes, ``[N]`` bool."""
        fine = self.alive.clone()
        for moving in (self.w_plus, *self.deltas.values()):
            fine[moving.image] &= moving.now.flatten(1).isfinite().all(dim=1)
        return fine

    def codes_of(self, image: int, item: Item) -> Codes:
        """Return the present codes of an item, a batch of 1."""
        deltas = {space: self.deltas[space].now[self.deltas[space].image == image] for space in item.start.deltas}
        return Codes(self.w_plus.now[image : image + 1].clone(), deltas, item.start.masks)

    def _put_deltas(self, space: str, items: Mapping[int, Item]) -> None:
        numbers = self.w_plus.image.new_tensor(list(items))
        free = self.alive.new_tensor([space in item.free for item in items.values()])
        entering = Moving.begin(numbers, free, torch.cat([item.start.deltas[space] for item in items.values()]))
        present = self.deltas.get(space)
        self.deltas[space] = entering if present is None else present.beside(entering)
        for image, item in items.items():
            mask = item.start.masks.get(space, torch.ones_like(entering.now[:1, :1]))
            of_all = self.masks.setdefault(space, mask.new_zeros(len(self.alive), *mask.shape[1:]))
            of_all[image : image + 1] = mask
