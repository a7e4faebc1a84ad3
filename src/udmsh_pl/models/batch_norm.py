"""Batch normalisation over the batch of all processes, on CPUs and GPUs alike."""

import torch
from torch import Tensor, nn
from torch.distributed import is_available, is_initialized
from torch.distributed.nn.functional import all_reduce


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """``nn.BatchNorm1d`` and ``2d`` whose mean and variance are of the global batch. *Ours*.

    torch's ``SyncBatchNorm`` takes tensors of a GPU alone, and Lightning's ``sync_batchnorm`` would
    swap the backbone's layers too. Gradients are those of one process with the whole batch, as
    with :meth:`udmsh_pl.models.HashingModule.gather`. Takes ``[B, C]`` and ``[B, C, h, w]``.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each channel; the shape stays."""
        alone = not (is_available() and is_initialized())
        if alone or not self.training or torch.distributed.get_world_size() == 1:
            return super().forward(values)
        over = [dim for dim in range(values.ndim) if dim != 1]
        shape = [1, -1] + [1] * (values.ndim - 2)
        rows = values.new_tensor(values.numel() / values.shape[1])
        total = _summed(torch.cat([values.sum(over), rows[None]]))
        count, mean = total[-1], total[:-1] / total[-1]
        centred = values - mean.view(shape)
        variance = _summed(centred.square().sum(over)) / count
        self._remember(mean.detach(), (variance * count / (count - 1)).detach())
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return centred * scale.view(shape) + self.bias.view(shape)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        share = (
            self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked or 1)
        )
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""


def _summed(values: Tensor) -> Tensor:
    summed: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return summed
