"""UDMSH-plus with labels of some train images: what supervision would be worth, an upper bound."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import Rows, TrainFeatures
from udmsh_pl.models.udmsh_plus import UDMSHPlus

SEED = 0  # of the draw of the images whose labels are known: the same for all cells


@runtime_checkable
class HasSplits(Protocol):
    """A data module whose train images may have labels."""

    @property
    def splits(self) -> Any:
        """``train.labels``, bool [N, L]."""


def shared_labels(labels: Tensor) -> Tensor:
    """How many labels two images share, graded: the cosine of their 0/1 rows.

    Float ``[B, B]`` in [0, 1] of bool ``[B, L]``; 0 beside an image without a label.

    Example:
        >>> rows = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]).bool()
        >>> shared_labels(rows)[0].round(decimals=2).tolist()  # the same, one of two, none
        [1.0, 0.7099999785423279, 0.0]
    """
    unit = normalize(labels.float(), dim=1)
    return unit @ unit.T


def drawn_rows(count: int, share: float) -> NDArray[np.bool_]:
    """Which of ``count`` train images have their labels known, bool [N]: a seeded draw."""
    order = np.random.default_rng(SEED).permutation(count)
    return np.isin(np.arange(count), order[: round(share * count)])


@dataclass(kw_only=True, eq=False, repr=False)
class UDMSHPlusLabelled(UDMSHPlus):
    """UDMSH-plus, whose teacher knows the labels of some train images.

    Of two images with known labels the similarity is :func:`shared_labels`, of all other pairs the
    manifold's. Not an unsupervised method: in a plan its name ends in "(labels)", and the table
    prints it below the others and compares nobody with it. *Ours*; the form, graded by shared
    labels, is that of the supervised relatives (deep multi-similarity hashing; *read*).

    Args:
        labelled: share of the train images whose labels are known, drawn with a fixed seed, above 0
            and at most 1
    """

    labelled: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.labelled <= 1:
            mend = "give --model.labelled a share above 0 and at most 1"
            raise InputError(f"labelled is {self.labelled}; {mend}")
        super().__post_init__()

    def on_fit_start(self) -> None:
        """Refuse train images without labels, before the teacher is fitted."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, HasSplits) or not data.splits.train.labels.shape[1]:
            raise InputError(
                "UDMSHPlusLabelled learns from labels, and the train images have none; give "
                "--model udmsh_pl.models.UDMSHPlus, or --data with labels"
            )
        super().on_fit_start()

    def train_rows(self, features: TrainFeatures) -> Rows:
        """As in the base, and the images whose labels are known."""
        rows = super().train_rows(features)
        return rows | {"known": drawn_rows(len(rows["targets"]), self.labelled)}

    def teach(self, batch: Batch) -> Batch:
        """As in the base, but known labels of both decide: images that share none are far."""
        batch = super().teach(batch)
        labels = (batch["labels"] & batch["known"][:, None]).float()
        known = labels.any(dim=1)
        both = known[:, None] & known
        return batch | {
            "similarity": torch.where(both, shared_labels(labels), batch["similarity"]),
            "nearness": batch["nearness"].masked_fill(both & (labels @ labels.T == 0), -1),
        }
