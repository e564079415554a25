"""The contract of a generator, and image formation and editing written once for every family (thesis Sec. 3.3, 3.4)."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from generators.latents import NOTHING


@dataclass(frozen=True)
class State:
    """The state between blocks: the feature `[N, C, h, w]` and, if the family has one, the image so far."""

    feature: Tensor
    image: Tensor | None = None


@dataclass(frozen=True)
class Spared:
    """What an edit needs of an unedited pass after a block whose space has a mask or delta.

    `state` includes the delta, `mask` is `[N, 1, h, w]`, and `change` is m ⊙ Δf, `[N, C, h, w]`.
    """

    state: State
    mask: Tensor
    change: Tensor

    def repeated(self, count: int) -> Spared:
        """Return that of one image for `count` edits of it at once; nothing is copied."""
        feature, image = self.state.feature, self.state.image
        state = State(_repeated(feature, count), None if image is None else _repeated(image, count))
        return Spared(state, _repeated(self.mask, count), _repeated(self.change, count))


@dataclass(frozen=True)
class Unedited:
    """An unedited pass, which all edits of the same codes share: its image, and what masks keep, by block."""

    w: Tensor
    image: Tensor
    spared: Mapping[int, Spared]

    def repeated(self, count: int) -> Unedited:
        """Return the pass of one image for `count` edits of it at once; nothing is copied."""
        spared = {index: kept.repeated(count) for index, kept in self.spared.items()}
        return Unedited(_repeated(self.w, count), _repeated(self.image, count), spared)


class Generator(nn.Module, ABC):
    """A pretrained generator: frozen, in eval mode, driven by codes.

    A family supplies its blocks. Which feature a space changes, how codes form an image, and how an edit leaves regions
    inverted in a feature space unchanged are the same for all families and defined here.
    """

    family: str
    config: BaseModel
    """The shape of the network."""
    resolution: int
    z_dim: int
    w_dim: int
    num_ws: int
    label_dim: int
    gaussian_slope: float = 1.0
    """Slope of the LeakyReLU that makes the codes Gaussian (thesis Eq. 3.6); 1 if nothing needs undoing."""
    digest: str = ""
    """SHA-256 of the checkpoint this generator was read from; empty for one made in memory."""
    format: str = ""
    """The format of the checkpoint; empty for a generator made in memory."""
    about: str = ""
    """The origin of the weights, if the checkpoint gives it."""
    remark: str = ""
    """What is missing from the checkpoint, and what replaces it; empty if nothing is missing."""

    def freeze(self) -> Self:
        """Return this generator in eval mode, its weights fixed; values that depend only on them are computed once.

        Freeze it again after weights were changed or loaded.
        """
        return self.requires_grad_(False).eval()

    @property
    def tunable(self) -> Mapping[str, nn.Parameter]:
        """The weights that tuning to one image may change, by name; empty if the family cannot be tuned."""
        return {}

    def thawed(self) -> Self:
        """Return a copy in eval mode whose `tunable` weights take gradients; `freeze` it after they were changed."""
        copied = copy.deepcopy(self)
        for weight in copied.tunable.values():
            weight.requires_grad_()
        return copied

    @property
    @abstractmethod
    def spaces(self) -> tuple[str, ...]:
        """The spaces of this generator, most editable first."""

    @property
    @abstractmethod
    def block_spaces(self) -> tuple[str | None, ...]:
        """For each block in order, the feature space that is its output, or None."""

    @abstractmethod
    def feature_shape(self, space: str) -> tuple[int, int, int]:
        """Return `(C, h, w)` of a feature space."""

    @abstractmethod
    def map(self, z: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Return latent codes `[N, num_ws, w_dim]` for `z [N, z_dim]` and, if conditional, `label [N, label_dim]`."""

    @abstractmethod
    def begin(self, w: Tensor) -> State:
        """Return the state before the first block."""

    @abstractmethod
    def run_block(self, index: int, state: State, w: Tensor) -> State:
        """Return the state after block `index`, modulated by its rows of `w`."""

    @abstractmethod
    def finish(self, state: State) -> Tensor:
        """Return the image `[N, 3, R, R]` of the last state."""

    @property
    def manner(self) -> tuple[object, ...]:
        """Options that its images depend on, apart from weights and codes; with `digest`, the key for caches."""
        return ()

    @property
    def feature_shapes(self) -> dict[str, tuple[int, int, int]]:
        """`(C, h, w)` of every feature space, by name."""
        return {space: self.feature_shape(space) for space in self.block_spaces if space is not None}

    def synthesize(
        self, w: Tensor, deltas: Mapping[str, Tensor] = NOTHING, masks: Mapping[str, Tensor] = NOTHING
    ) -> Tensor:
        """Return the image that codes form: f_k = g(f_j, w+) + m_k ⊙ Δf_k (thesis Eq. 3.3, 3.4).

        Args:
            w: `[N, num_ws, w_dim]`.
            deltas: Δf by feature space, `[N, C, h, w]`.
            masks: m by feature space, `[N, 1, h, w]` in [0, 1]; a delta without a mask acts everywhere.

        Returns:
            `[N, 3, R, R]`, unclamped, about [-1, 1].

        Raises:
            ValueError: a tensor has another shape, or a space this generator does not have.
        """
        self._check_codes(w, deltas, masks)
        state = self.begin(w)
        for index, space in enumerate(self.block_spaces):
            state = self.run_block(index, state, w)
            if space is not None and space in deltas:
                state = replace(state, feature=_changed(state.feature, _masked(deltas, masks, space)))
        return self.finish(state)

    def edit(
        self,
        w: Tensor,
        deltas: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        direction: Tensor,
        *,
        published: bool = False,
    ) -> Tensor:
        """Return the edited image: inside a segment in F_k, the direction acts only after layer k (thesis Sec. 3.4).

        Inside layer k, f' = (1 − m) ⊙ (x' + m ⊙ Δf) + m ⊙ f, with x' the edited and f the unedited feature, so that a
        zero edit is the reconstruction for any mask. The image accumulated so far is blended with the same mask.

        Args:
            w: `[N, num_ws, w_dim]`.
            deltas: Δf by feature space, `[N, C, h, w]`.
            masks: m by feature space, `[N, 1, h, w]` in [0, 1]; a covered region is spared without a delta too.
            direction: δw+, broadcast to `[N, num_ws, w_dim]`.
            published: use the authors' formula instead: f' = (1 − m) ⊙ x' + m ⊙ f, and the image skip path
                follows the edited code everywhere. A zero edit then differs wherever a mask is soft.

        Returns:
            `[N, 3, R, R]`, unclamped.

        Raises:
            ValueError: a tensor has another shape, or a space this generator does not have.
        """
        return self.edited(self.unedited(w, deltas, masks), direction, published=published)

    def unedited(
        self, w: Tensor, deltas: Mapping[str, Tensor] = NOTHING, masks: Mapping[str, Tensor] = NOTHING
    ) -> Unedited:
        """Return the pass that edits of the same codes share, with the image of `synthesize`. Arguments: see `edit`."""
        self._check_codes(w, deltas, masks)
        state, spared = self.begin(w), dict[int, Spared]()
        for index, space in enumerate(self.block_spaces):
            state = self.run_block(index, state, w)
            if space is not None and (space in deltas or space in masks):
                change = _masked(deltas, masks, space) if space in deltas else torch.zeros_like(state.feature)
                state = replace(state, feature=_changed(state.feature, change))
                mask = masks[space] if space in masks else torch.ones_like(change[:, :1])
                spared[index] = Spared(state, mask, change)
        return Unedited(w, self.finish(state), spared)

    def edited(self, unedited: Unedited, direction: Tensor, *, published: bool = False) -> Tensor:
        """Return the edited image of codes, given their unedited pass; otherwise like `edit`."""
        if not _broadcasts(direction, unedited.w):
            raise ValueError(f"the direction must broadcast to {list(unedited.w.shape)}, got {list(direction.shape)}")
        w = unedited.w + direction
        state = self.begin(w)
        for index in range(len(self.block_spaces)):
            state = self.run_block(index, state, w)
            if index in unedited.spared:
                state = _spare(unedited.spared[index], state, published=published)
        return self.finish(state)

    def _check_inputs(self, z: Tensor, label: Tensor | None) -> None:
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z must be [N, {self.z_dim}], got {list(z.shape)}")
        found = None if label is None else list(label.shape)
        if found != ([z.shape[0], self.label_dim] if self.label_dim else None):
            wanted = f"[{z.shape[0]}, {self.label_dim}]" if self.label_dim else "none: the generator is unconditional"
            raise ValueError(f"label must be {wanted}, got {found}")

    def _check_codes(self, w: Tensor, deltas: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        if w.ndim != 3 or w.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"w must be [N, {self.num_ws}, {self.w_dim}], got {list(w.shape)}")
        for name, tensors in (("delta", deltas), ("mask", masks)):
            for space, tensor in tensors.items():
                if space not in self.block_spaces:
                    raise ValueError(f"no feature space {space!r}: this generator has {', '.join(self.spaces[1:])}")
                channels, *size = self.feature_shape(space)
                wanted = [w.shape[0], channels if name == "delta" else 1, *size]
                if list(tensor.shape) != wanted:
                    raise ValueError(f"the {name} of {space} must be {wanted}, got {list(tensor.shape)}")


def _broadcasts(x: Tensor, to: Tensor) -> bool:
    sizes = zip(reversed(x.shape), reversed(to.shape), strict=False)
    return x.ndim <= to.ndim and all(size in (1, wanted) for size, wanted in sizes)


def _repeated(one: Tensor, count: int) -> Tensor:
    return one.expand(count, *one.shape[1:])


def _changed(feature: Tensor, change: Tensor) -> Tensor:
    """Return the sum in the feature's type: a change of zero, as next to images that use the space, changes no bit."""
    return (feature + change).to(feature.dtype)


def _masked(deltas: Mapping[str, Tensor], masks: Mapping[str, Tensor], space: str) -> Tensor:
    return masks[space] * deltas[space] if space in masks else deltas[space]


def _spare(kept: Spared, after: State, *, published: bool) -> State:
    before, edited = kept.state, after.feature if published else after.feature + kept.change
    feature = torch.lerp(edited, before.feature, kept.mask)  # (1 − m) ⊙ edited + m ⊙ f; exactly f where both are equal
    if published or before.image is None or after.image is None:
        return replace(after, feature=feature)
    return State(feature, torch.lerp(after.image, before.image, kept.mask))
