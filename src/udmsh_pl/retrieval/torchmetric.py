"""``HammingRetrieval``: the evaluation as a torchmetrics metric, exact in distributed training."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import codes as packing
from udmsh_pl.retrieval import evaluation
from udmsh_pl.retrieval.codes import Bools, Bytes
from udmsh_pl.retrieval.evaluation import Evaluation, RetrievalReport, Ties, ZeroHits
from udmsh_pl.retrieval.ties import Cutoff, Denominator

Kind = Literal["query", "database"]
KINDS: tuple[Kind, Kind] = ("query", "database")
STATES: dict[str, Any] = {f"{kind}_ids": np.int64 for kind in KINDS} | {
    f"{kind}_{what}": np.uint8 for kind in KINDS for what in ("codes", "labels")
}


class Rows(NamedTuple):
    """What all processes saw of one kind, each item once, by rising id."""

    ids: npt.NDArray[np.int64]  # int64 [N], rows in the split
    codes: Bytes  # uint8 [N, ceil(bits / 8)], packed
    labels: Bools  # bool [N, L]


class HammingRetrieval(Metric):
    """mAP@k over Hamming distances, fed batch by batch: ``{"map@1000": ..., "map@all": ...}``.

    States are the packed codes, labels and row ids of what a process saw. Across processes they are
    gathered, sorted by id and freed of the repetitions that a padding ``DistributedSampler`` adds,
    so the value is that of one process to the last bit, with uneven shards too. Never average the
    values of processes: that is another number.

    Call ``update`` and ``compute``; ``forward`` would score a single batch. ``compute`` leaves all
    else in ``report``. The arguments are as of :func:`evaluate_codes`.

    Example:
        >>> import torch
        >>> metric = HammingRetrieval(bits=2, ks=(None,))
        >>> query, labels = torch.tensor([[0.9, 0.8]]), torch.tensor([[True]])
        >>> metric.update(query, labels, torch.tensor([0]), kind="query")
        >>> database = torch.tensor([[0.7, -0.2], [0.4, 0.3]])
        >>> labels = torch.tensor([[True], [False]])
        >>> metric.update(database, labels, torch.tensor([0, 1]), kind="database")
        >>> metric.compute()  # the relevant item comes second
        {'map@all': tensor(0.5000, dtype=torch.float64)}
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    label_count: Tensor

    def __init__(
        self, bits: int, ks: Sequence[Cutoff] = (1000, 5000, None), ties: Ties = "expected",
        denominator: Denominator = "retrieved", zero_hits: ZeroHits = "zero",
    ) -> None:  # fmt: skip
        super().__init__()
        if bits < 1:
            raise InputError(f"bits is {bits}: a code has at least one bit")
        self.bits, self.ks = bits, evaluation.check_cutoffs(ks)
        self.ties, self.denominator, self.zero_hits = ties, denominator, zero_hits
        self.report: RetrievalReport | None = None
        for state in STATES:
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.add_state("label_count", default=torch.tensor(0), dist_reduce_fx="max")
        self._start_lists()

    def update(
        self, codes: Tensor, labels: Tensor, index: Tensor, kind: Literal["query", "database"]
    ) -> None:
        """Take in a batch.

        Args:
            codes: [B, bits] real codes (bit = value >= 0) or bool, or packed uint8
            labels: bool [B, L]; without labels (L = 0) codes are gathered, but not scored
            index: long [B], rows in the split: an item that comes twice counts once
            kind: ``query`` or ``database``

        Raises ``InputError``: shapes that do not fit each other or an earlier batch.
        """
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}: give 'query' or 'database'")
        values = packing.to_numpy(codes, "codes")
        packed = values if values.dtype == np.uint8 else packing.pack_codes(values)
        packed = packing.check_codes(packed, self.bits, "codes")
        if tuple(labels.shape) == (len(packed), 0):  # pictures without labels are gathered alike
            marks = np.zeros((len(packed), 0), dtype=bool)
        else:
            marks = packing.check_labels(labels, len(packed), "labels")
        ids = packing.check_rows(index, len(packed), "index")
        count, columns = int(self.label_count), marks.shape[1]
        if count and count != columns:
            which = f"labels has {columns} columns, an earlier batch {count}"
            raise InputError(f"{which}: use one label set")
        self.label_count = torch.tensor(columns, device=self.device)
        # flat, because a process without a batch has no shape and must take part in the gathering
        self._append(f"{kind}_codes", packed)
        self._append(f"{kind}_labels", np.packbits(marks, axis=1))
        self._append(f"{kind}_ids", ids.astype(np.int64))

    def gather(self) -> dict[Kind, Rows]:
        """The rows of all processes, which all must call it; a kind that none saw is left out."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            found = {kind: self._rows(kind) for kind in KINDS}
        return {kind: rows for kind, rows in found.items() if len(rows.ids)}

    def compute(self) -> dict[str, Tensor]:
        """Score everything seen; raises ``InputError`` without a query or a database item."""
        query, database = found = [self._rows(kind) for kind in KINDS]
        for kind, rows in zip(KINDS, found, strict=True):
            if not len(rows.ids):
                mend = f"call update(..., kind={kind!r}) before compute"
                raise InputError(f"no {kind} batch was seen: {mend}")
        self.report = self.evaluate(query, database)
        means = self.report.map.items()
        values = torch.tensor([mean for _, mean in means], dtype=torch.float64, device=self.device)
        names = [f"map@{'all' if k is None else k}" for k, _ in means]
        return dict(zip(names, values, strict=True))

    def evaluate(
        self, query: Rows, database: Rows, how: Evaluation | None = None
    ) -> RetrievalReport:
        """Score gathered rows, in this process alone; ``how`` says with what."""
        how = how or Evaluation()
        return evaluation.evaluate_codes(
            query.codes, database.codes, query.labels, database.labels, self.bits, self.ks,
            self.ties, self.denominator, self.zero_hits, device=how.device, engine=how.engine,
        )  # fmt: skip

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.report = None
        self._start_lists()

    def _start_lists(self) -> None:
        # torchmetrics skips an empty list when it gathers: the others would wait for ever
        for state, dtype in STATES.items():
            self._append(state, np.empty(0, dtype=dtype))

    def _append(self, state: str, values: Any) -> None:
        parts: list[Tensor] = getattr(self, state)
        parts.append(torch.from_numpy(values.reshape(-1)).to(self.device))
        # each part at most half of the one before: a small one a batch would keep the allocator
        # from using the room of the batch's large tensors again: 2.3 GB were lost on 193,734 rows
        while len(parts) > 1 and len(parts[-2]) <= 2 * len(parts[-1]):
            last = parts.pop()
            parts[-1] = torch.cat([parts[-1], last])

    def _rows(self, kind: Kind) -> Rows:
        ids, codes, labels = (
            dim_zero_cat(getattr(self, f"{kind}_{what}")).cpu().numpy()
            for what in ("ids", "codes", "labels")
        )
        # the first of each id, in the order of ids
        unique, first = np.unique(ids, return_index=True)
        count = int(self.label_count)
        octets = labels.reshape(len(ids), -(-count // 8))[first]
        marks = np.unpackbits(octets, axis=1, count=count).astype(bool)
        return Rows(unique, codes.reshape(len(ids), -(-self.bits // 8))[first], marks)
