"""AdamW with one learning rate for the backbone and one for the rest, warm-up and decay by step."""

from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def adamw(
    module: nn.Module,
    backbone: nn.Module | None,
    trainer: Trainer,
    rates: tuple[float, float],
    decay: float,
) -> torch.optim.AdamW:
    """The optimiser of a module's parameters.

    Args:
        module: everything that is trained
        backbone: the part of it that has a learning rate of its own; None when it is frozen
        trainer: decides whether torch's fused step is allowed: it unscales gradients itself, which
            Lightning refuses when mixed precision and gradient clipping come together
        rates: learning rates of the rest and of the backbone
        decay: decoupled weight decay
    """
    slow = list(backbone.parameters()) if backbone is not None else []
    own = {id(parameter) for parameter in slow}
    head = [parameter for parameter in module.parameters() if id(parameter) not in own]
    groups: list[dict[str, Any]] = [{"params": head, "lr": rates[0]}]
    if slow:
        groups.append({"params": slow, "lr": rates[1]})
    clipped = bool(trainer.gradient_clip_val)
    fused = not (clipped and isinstance(trainer.precision_plugin, MixedPrecision))
    return torch.optim.AdamW(groups, weight_decay=decay, fused=fused)


def schedule(
    optimizer: torch.optim.Optimizer, warmup_steps: int, cosine_decay: bool, total: int
) -> LambdaLR:
    """A factor on the learning rates: a rise over ``warmup_steps``, half a cosine down to 0 over
    ``total`` steps.
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(warmup_steps, 1))
        fall = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / max(total, 1)))))
        return rise * (fall if cosine_decay else 1.0)

    return LambdaLR(optimizer, factor)


def total_steps(trainer: Trainer) -> int:
    """Optimiser steps of the whole training.

    Lightning makes the loader to tell it, before a checkpoint has told its place in the epoch: it
    is forgotten here and made again, or a run that goes on inside an epoch would begin it anew.
    """
    total = int(trainer.estimated_stepping_batches)
    trainer.fit_loop._combined_loader = None
    return total
