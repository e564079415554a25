"""The images of a batch of fixed width: each enters a free slot and leaves when its steps are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stages.engine.adam import pace, step
from stages.engine.batch import Batch, Item
from stages.engine.result import Inversion, Trace
from stages.engine.schedule import Schedule
from stages.objective.loss import Loss
from stages.objective.objective import TERMS


@dataclass(eq=False)
class _Tenant:
    """An image in its slot, and its progress."""

    item: Item
    schedule: Schedule
    again: bool = False  # it diverged and was restarted
    taken: int = 0
    steps: list[int] = field(default_factory=list)
    terms: list[Tensor] = field(default_factory=list)  # of all slots, before these steps


class Slots:
    """A batch whose images come and go.

    It is computed at its full width, including idle slots: kernels are chosen by shape, and rows of equal shape are
    bit-equal on a CPU, whatever the other rows hold (up to rounding if a network's channels are not a
    multiple of 8). So an image's result depends on the width alone.
    """

    def __init__(self, loss: Loss, width: int) -> None:
        self._loss = loss
        self._tenants: list[_Tenant | None] = [None] * width
        self._batch: Batch | None = None  # of the shapes of the first item

    @property
    def idle(self) -> list[int]:
        """The free slots."""
        return [slot for slot, tenant in enumerate(self._tenants) if tenant is None]

    def enter(self, items: Sequence[Item]) -> list[int]:
        """Give each item a slot, and return them; at most as many items as are `idle`."""
        if not items:
            return []
        if self._batch is None:
            self._batch = Batch.idle(items[0], len(self._tenants))
        entering = dict(zip(self.idle[: len(items)], items, strict=True))
        self._batch.put(entering)
        for slot, item in entering.items():  # the batch stores its target: it takes room
            self._tenants[slot] = _Tenant(replace(item, target=self._batch.target[slot]), item.schedule)
        return list(entering)

    def step(self) -> dict[int, Inversion]:
        """Take a step with every image, and return the inversions of those that leave, by slot.

        Only then is something read from the device: whether they diverged. An image that did restarts at half the rate,
        once.
        """
        assert self._batch is not None, "no item has entered"
        tenants = {slot: tenant for slot, tenant in enumerate(self._tenants) if tenant is not None}
        terms = step(self._loss, self._batch, self._pace(self._batch.w_plus.now))
        for tenant in tenants.values():
            if tenant.schedule.traces(tenant.taken):
                tenant.steps.append(tenant.taken)
                tenant.terms.append(terms)
            tenant.taken += 1
        done = {slot: tenant for slot, tenant in tenants.items() if tenant.taken == tenant.schedule.steps}
        return self._leave(self._batch, done) if done else {}

    def _pace(self, like: Tensor) -> Tensor:
        now = [
            (0.0, 1.0, 0.0, 0.0)
            if tenant is None
            else pace(tenant.schedule.rate(tenant.taken), tenant.taken, tenant.schedule.betas)
            for tenant in self._tenants
        ]
        return torch.tensor(now, dtype=like.dtype).T.contiguous().to(like.device, non_blocking=True)

    def _leave(self, batch: Batch, done: Mapping[int, _Tenant]) -> dict[int, Inversion]:
        fine = batch.fine().tolist()
        again = {slot: tenant for slot, tenant in done.items() if not (fine[slot] or tenant.again)}
        left = {slot: _inversion(batch, slot, done[slot], fine=fine[slot]) for slot in done.keys() - again.keys()}
        batch.remove(done)
        batch.put({slot: tenant.item for slot, tenant in again.items()})
        for slot in left:
            self._tenants[slot] = None
        for slot, tenant in again.items():
            self._tenants[slot] = _Tenant(tenant.item, tenant.item.schedule.halved(), again=True)
        return left


def _inversion(batch: Batch, slot: int, tenant: _Tenant, *, fine: bool) -> Inversion:
    terms_KT1 = torch.stack(tenant.terms)[:, :, slot : slot + 1].cpu()
    by_name = dict(zip(TERMS, terms_KT1.unbind(dim=1), strict=True)) | {"total": terms_KT1.sum(dim=1)}
    codes = batch.codes_of(slot, tenant.item) if fine else tenant.item.start
    return Inversion(codes, Trace(torch.tensor(tenant.steps), by_name), torch.tensor([not fine]))
