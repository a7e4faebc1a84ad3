"""The isometric mapping as a rotation of the relaxed codes, solved anew after each epoch."""

from typing import Any

import torch
from torch import Tensor

from udmsh_pl.features.store import Batch
from udmsh_pl.models.base import HashingModule
from udmsh_pl.similarity.losses import Isometry, best_rotation


class RotatedCodes(HashingModule):
    """A module whose relaxed codes are turned by ``rotation [K, K]`` where ``isometry`` is
    ``rotation``; its objective appends each batch's relaxed codes to ``_epoch_u``.
    """

    isometry: Isometry
    rotation: Tensor
    _epoch_u: list[Tensor]

    def forward(self, batch: Batch) -> Tensor:
        """Relaxed codes u in (-1, 1), ``[B, K]``, turned by the isometric rotation where there is
        one.
        """
        u = super().forward(batch)
        return (
            u @ self.rotation.to(u.dtype)
            if self.isometry == "rotation" and not self.training
            else u
        )

    def on_after_backward(self) -> None:
        """Solve the rotation anew on the epoch's relaxed codes, before validation uses it."""
        if self._epoch_u and self.trainer.is_last_batch:
            here = [u.to(self.device) for u in self._epoch_u]  # resumed on the CPU
            rotation = best_rotation(torch.cat(here))
            # not copied into the buffer, which may be bfloat16
            self.rotation = self.trainer.strategy.broadcast(rotation).to(self.device)
            self._epoch_u.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the relaxed codes of an unfinished epoch."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_u"] = self._epoch_u

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the relaxed codes of the unfinished epoch."""
        super().on_load_checkpoint(checkpoint)
        self._epoch_u = list(checkpoint.get("epoch_u", ()))
