"""Training on an objective of named terms: its seeds, its precision and what is logged."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from udmsh_pl.features.seeds import seed_of
from udmsh_pl.features.store import Batch


class ObjectiveModule(LightningModule, ABC):
    """A LightningModule whose loss is the sum of the terms of its :meth:`objective`."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[str, list[Tensor]] = {}  # of the epoch so far

    @abstractmethod
    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss on a train batch, by name, already weighted; their sum is
        minimised.
        """

    def on_train_start(self) -> None:
        """Begin the next epoch as one, after a checkpoint from the last batch of another.

        Lightning counts that epoch as finished, but takes the next for the rest of it: neither
        counted nor announced, it was repeated when the run was resumed once more.
        """
        progress = self.trainer.fit_loop.epoch_progress.current
        if progress.completed == progress.ready:
            self.trainer.fit_loop.reset_restart_stage()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """What a step draws (dropout) depends on seed and step alone: a resumed run repeats it, and
        processes that share a batch draw alike.
        """
        seed = seed_of(self.trainer.global_step, 0)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(
                seed
            )  # torch.manual_seed spends 1 ms on a queue for GPUs that may come
        else:
            torch.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the objective's terms; logs each."""
        with torch.autocast(self.device.type, enabled=False):
            terms = self.objective(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.log_mean({f"loss/{name}": value for name, value in {**terms, "total": loss}.items()})
        return loss

    def log_mean(self, values: dict[str, Tensor]) -> None:
        """Log the mean of scalars over the epoch's batches: once an epoch, since ``self.log`` takes
        longer than a small head.
        """
        for name, value in values.items():
            self._logged.setdefault(name, []).append(value.detach())

    def on_train_epoch_end(self) -> None:
        """Hand the epoch's means to Lightning."""
        for name, values in self._logged.items():
            here = torch.stack([value.to(self.device) for value in values])  # resumed on the CPU
            self.log(name, here.mean(), prog_bar=name == "loss/total")
        self._logged.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what an unfinished epoch has logged."""
        checkpoint["logged"] = self._logged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with what the unfinished epoch had logged."""
        self._logged = dict(checkpoint.get("logged", {}))

    def log_codes(self, u: Tensor) -> None:
        """Log how unbalanced the bits of relaxed codes ``u [B, K]`` are, and how far u is from its
        signs.
        """
        balance = (u >= 0).float().mean(0).sub(0.5).abs().mean()
        self.log_mean(
            {"codes/bit_balance": balance, "codes/quantisation_error": (1 - u.abs()).mean()}
        )
