"""Batch norm over the batches of all workers, so that the number of workers does not change a training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn import functional as of_all_workers


class _SynchronisedOnCpu(nn.BatchNorm2d):
    """The function of `nn.SyncBatchNorm`, for tensors on CPUs, which it refuses; gradients cross workers too."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            evaluated: Tensor = super().forward(x_NCHW)
            return evaluated
        ones_NHW = torch.ones_like(x_NCHW[:, 0])
        count = of_all_workers.all_reduce(ones_NHW.sum())
        mean_1C11 = of_all_workers.all_reduce(x_NCHW.sum(dim=(0, 2, 3), keepdim=True)) / count
        centred_NCHW = x_NCHW - mean_1C11
        var_1C11 = of_all_workers.all_reduce(centred_NCHW.square().sum(dim=(0, 2, 3), keepdim=True)) / count
        self._remember(mean_1C11.detach().flatten(), (var_1C11 * count / (count - 1)).detach().flatten())
        normed_NCHW = centred_NCHW * torch.rsqrt(var_1C11 + self.eps)
        scaled_NCHW: Tensor = normed_NCHW * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled_NCHW

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, var_C: Tensor) -> None:
        """Move the statistics for evaluation towards this batch's mean and unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None, "no network here averages over all batches"
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(var_C, self.momentum)


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Replace every batch norm inside a network by one over the batches of all workers; names of weights stay."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, _synchronised(child, device))
        else:
            synchronise_batch_norm(child, device)


def _synchronised(norm: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return converted
    norm.__class__ = _SynchronisedOnCpu
    return norm
