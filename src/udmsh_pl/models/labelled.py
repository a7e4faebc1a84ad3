"""UDMSH-plus with labels of some train images: what supervision would be worth, an upper bound."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import Unpack

from udmsh_pl.errors import InputError
from udmsh_pl.models.options import ModelOptions
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

    def __init__(self, *, labelled: float = 1.0, **options: Unpack[ModelOptions]) -> None:
        if not 0 < labelled <= 1:
            raise InputError(
                f"labelled is {labelled}; give --model.labelled a share above 0 and at most 1"
            )
        super().__init__(**options)
        self.labelled = labelled
        self._labels = torch.empty(0, 0, dtype=torch.bool)  # [N, L]; rows of zeros are not known

    def on_fit_start(self) -> None:
        """Take over the labels that are known, beside the teacher."""
        super().on_fit_start()
        datamodule = getattr(self.trainer, "datamodule", None)
        labels = datamodule.splits.train.labels if isinstance(datamodule, HasSplits) else None
        if labels is None or not labels.shape[1]:
            raise InputError(
                "UDMSHPlusLabelled learns from labels, and the train images have none; give "
                "--model udmsh_pl.models.UDMSHPlus, or --data with labels"
            )
        self.know(labels)

    def know(self, labels: NDArray[np.bool_]) -> None:
        """Keep those of the train images' labels, bool [N, L], that were drawn."""
        known = labels & drawn_rows(len(labels), self.labelled)[:, None]
        self._labels = torch.from_numpy(known).to(self._targets.device)

    def similarity(self, rows: Tensor) -> Tensor:
        """See :meth:`UDMSHPlus.similarity`; of two labelled images what their labels say."""
        unlabelled = super().similarity(rows)
        labels = self._labels[rows].to(self.device).float()
        known = labels.any(dim=1)
        return torch.where(known[:, None] & known, shared_labels(labels), unlabelled)

    def nearness(self, rows: Tensor) -> Tensor:
        """See :meth:`UDMSHPlus.nearness`; two images whose labels differ are far from each
        other.
        """
        labels = self._labels[rows].to(self.device).float()
        known = labels.any(dim=1)
        differ = known[:, None] & known & (labels @ labels.T == 0)
        return super().nearness(rows).masked_fill(differ, -1)
