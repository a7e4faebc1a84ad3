"""Options that every learned method shares, typed for ``**options: Unpack[...]`` of a constructor.

Defaults and explanations are :class:`udmsh_pl.models.base.HashingModule`'s. A method that gives an
option another default spells it out and takes a group without it, since a name must not occur
twice.
"""

from typing import Literal, TypedDict

Branches = Literal["dual", "global", "spatial"]
Pooling = Literal["average", "gem", "attention"]


class SharedOptions(TypedDict, total=False):
    """Those whose defaults are the same in all methods."""

    bits: int
    backbone: str
    weights: str | None
    finetune: bool
    pooling: Pooling
    spatial_hidden: int
    grid: int
    backbone_learning_rate: float
    gradient_checkpointing: bool
    gather_batch: bool
    trunk_learning_rate: float | None


class CommonOptions(SharedOptions, total=False):
    """And the one that is not the same in UDMSH."""

    batch_norm: bool


class TrainingOptions(CommonOptions, total=False):
    """All but ``branches``."""

    hidden: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    cosine_decay: bool


class BranchOptions(CommonOptions, total=False):
    """All but the size of the head and its training."""

    branches: Branches


class BranchAndSizeOptions(SharedOptions, total=False):
    """All but batch normalisation and the training of the head."""

    branches: Branches
    hidden: int
    weight_decay: float


class ModelOptions(TrainingOptions, BranchOptions, total=False):
    """All of them."""
