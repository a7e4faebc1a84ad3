"""Batch normalisation that gives the same bits on any number of threads."""

import torch
from torch import Tensor, nn

from udmsh_pl.similarity.precision import at_least_float32


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """``nn.BatchNorm1d`` and ``2d`` that train alike on any number of CPU cores. *Ours*.

    torch's own adds up a batch thread by thread, and what rounding moves grows in training to some
    thousandths of mAP. Takes ``[B, C]`` and ``[B, C, h, w]``.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each channel; shape and dtype stay."""
        rows = values.numel() // values.shape[1]
        if not self.training or values.device.type != "cpu" or rows < 2:
            return super().forward(values)
        over = [dim for dim in range(values.ndim) if dim != 1]
        shape = [1, -1] + [1] * (values.ndim - 2)
        wide = at_least_float32(values)
        mean = wide.mean(over)
        centred = wide - mean.view(shape)
        variance = centred.square().mean(over)
        self._remember(mean.detach(), variance.detach() * (rows / (rows - 1)))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(values.dtype)

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
