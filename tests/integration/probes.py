"""What tests put into real runs: a recorder of steps, a model with dropout, a kill, a full disk.

``python -m tests.integration.probes MODULE.FUNCTION N kill|full ARGUMENTS...`` is
``udmsh ARGUMENTS...``, except that the N-th call of the function kills the process, or finds a disk
on which no file can grow any more.
"""

import os
import pkgutil
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from udmsh_pl.features.store import Batch
from udmsh_pl.models import UDMSH


class Recorder(Callback):
    """Keeps rows, loss and gradients of each step and the last weights in ``FOLDER/RANK.pt``.

    Args:
        folder: where to
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.steps: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.split = trainer.datamodule.splits.fingerprint()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.steps.append({"epoch": trainer.current_epoch, "rows": batch["index"].clone()})

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        self.steps[-1]["gradients"] = {
            name: value.grad.clone() for name, value in pl_module.named_parameters()
        }

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.steps[-1]["loss"] = outputs["loss"].detach().clone()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(exist_ok=True, parents=True)
        found = {"split": self.split, "steps": self.steps, "weights": pl_module.state_dict()}
        torch.save(found, self.folder / f"{trainer.global_rank}.pt")


class WithDropout(UDMSH):
    """UDMSH whose logits drop out, so that each step draws random numbers."""

    def logits(self, batch: Batch) -> Tensor:
        return torch.nn.functional.dropout(super().logits(batch), 0.3, self.training)


def sabotage(target: str, number: int, what: str) -> None:
    """Replace ``MODULE.FUNCTION``: the call of that number is killed or finds the disk full."""
    owner_name, _, name = target.rpartition(".")
    owner: Any = pkgutil.resolve_name(owner_name)
    original = getattr(owner, name)
    calls = 0

    def broken(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
        return original(*arguments, **options)

    setattr(owner, name, broken)


if __name__ == "__main__":
    from udmsh_pl.cli import main

    sabotage(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    main(sys.argv[4:])
