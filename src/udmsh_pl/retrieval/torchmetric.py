"""``HammingRetrieval``: the evaluation as a torchmetrics metric, exact under distributed
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import check_codes, check_labels, pack_codes, to_numpy
from udmsh_pl.retrieval.metrics import check_cutoffs, evaluate_codes
from udmsh_pl.retrieval.report import Cutoff, RetrievalReport, Ties, ZeroHits
from udmsh_pl.retrieval.ties import Denominator

KINDS = ("query", "database")


class HammingRetrieval(Metric):
    """mAP@k over Hamming distances, fed batch by batch: ``{"map@1000": ..., "map@all": ...}``,
    float64 scalars.

    States are the packed codes, labels and row ids of what a process saw. Across processes they are
    gathered, sorted by id and freed of the repetitions that a padding ``DistributedSampler`` adds,
    so the value is that of one process to the last bit, with uneven shards too. Never average the
    values of processes: that is another number.

    Call ``update`` and ``compute``; ``forward`` would score a single batch. ``compute`` leaves all
    else in ``report``.

    Args:
        bits: code length
        ks: cut-offs; None is the whole database
        ties: as of :func:`evaluate_codes`, and so are the others
        denominator: see there
        zero_hits: see there
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    label_count: Tensor

    def __init__(
        self,
        bits: int,
        ks: Sequence[Cutoff] = (1000, 5000, None),
        ties: Ties = "expected",
        denominator: Denominator = "retrieved",
        zero_hits: ZeroHits = "zero",
    ) -> None:
        super().__init__()
        if bits < 1:
            raise InputError(f"bits is {bits}: a code has at least one bit")
        self.bits, self.ks = bits, check_cutoffs(ks)
        self.ties, self.denominator, self.zero_hits = ties, denominator, zero_hits
        self.report: RetrievalReport | None = None
        for kind in KINDS:
            for what in ("codes", "labels", "ids"):
                self.add_state(f"{kind}_{what}", default=[], dist_reduce_fx="cat")
        self.add_state("label_count", default=torch.tensor(0), dist_reduce_fx="max")
        self._start_lists()

    def update(
        self, codes: Tensor, labels: Tensor, index: Tensor, kind: Literal["query", "database"]
    ) -> None:
        """Take in a batch.

        Args:
            codes: [B, bits] real codes (bit = value >= 0) or bool, or uint8 [B, ceil(bits / 8)]
                from ``pack_codes``
            labels: bool [B, L]
            index: long [B], rows in the split: an item that comes twice counts once
            kind: ``query`` or ``database``

        Raises:
            InputError: shapes that do not fit each other or an earlier batch.
        """
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}: give 'query' or 'database'")
        values = to_numpy(codes, "codes")
        packed = check_codes(
            values if values.dtype == np.uint8 else pack_codes(values), self.bits, "codes"
        )
        marks = check_labels(labels, len(packed), "labels")
        ids = to_numpy(index, "index")
        if ids.shape != (len(packed),) or ids.dtype.kind not in "iu":
            raise InputError(
                f"index has shape {list(ids.shape)}, type {ids.dtype}: give {len(packed)} whole "
                "numbers"
            )
        count = int(self.label_count)
        if count and count != marks.shape[1]:
            raise InputError(
                f"labels has {marks.shape[1]} columns, an earlier batch {count}: use one label set"
            )
        self.label_count = torch.tensor(marks.shape[1], device=self.device)
        # flat, because a process without a batch has no shape to offer and must still take part in
        # the gathering
        self._append(f"{kind}_codes", packed)
        self._append(f"{kind}_labels", np.packbits(marks, axis=1))
        self._append(f"{kind}_ids", ids.astype(np.int64))

    def compute(self) -> dict[str, Tensor]:
        """Score everything seen; raises ``InputError`` when there is no query or no database
        item.
        """
        queries, database = self._rows("query"), self._rows("database")
        self.report = evaluate_codes(
            queries[0], database[0], queries[1], database[1], self.bits, self.ks, self.ties, self.denominator,
            self.zero_hits,
        )  # fmt: skip
        return {
            f"map@{'all' if k is None else k}": torch.tensor(
                value, dtype=torch.float64, device=self.device
            )
            for k, value in self.report.map.items()
        }

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.report = None
        self._start_lists()

    def _start_lists(self) -> None:
        # torchmetrics skips an empty list when it gathers, and the other processes would wait for
        # ever
        for kind in KINDS:
            for what, kind_of_number in (
                ("codes", np.uint8),
                ("labels", np.uint8),
                ("ids", np.int64),
            ):
                self._append(f"{kind}_{what}", np.empty(0, dtype=kind_of_number))

    def _append(self, state: str, values: Any) -> None:
        getattr(self, state).append(torch.from_numpy(values.reshape(-1)).to(self.device))

    def _rows(self, kind: str) -> tuple[Any, Any]:
        ids = dim_zero_cat(getattr(self, f"{kind}_ids")).cpu().numpy()
        if not len(ids):
            raise InputError(
                f"no {kind} batch was seen: call update(..., kind={kind!r}) before compute"
            )
        count = int(self.label_count)
        codes, labels = (
            dim_zero_cat(getattr(self, f"{kind}_{what}")).cpu().numpy()
            for what in ("codes", "labels")
        )
        first = np.unique(ids, return_index=True)[1]  # the first of each id, in the order of ids
        marks = np.unpackbits(labels.reshape(len(ids), -1)[first], axis=1, count=count).astype(bool)
        return codes.reshape(len(ids), -1)[first], marks
