"""Score the codes of query and database: exact under ties, once, over the merged rows of all
processes.
"""

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from udmsh_pl.callbacks.encode import CodeCollector
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import RetrievalReport, evaluate_codes

Bools = NDArray[np.bool_]


class EvaluateRetrieval(Callback):
    """mAP@k in validation and test, to any logger: ``val/map@1000``, ``test/map@all`` and so on.

    Args:
        ks: cut-offs; None is the whole database
    """

    def __init__(self, ks: Sequence[int | None] = (1000, 5000, None)) -> None:
        self.ks = tuple(ks)
        self.report: RetrievalReport | None = None
        self.codes: dict[str, NDArray[np.uint8]] = {}
        self.encode_seconds = 0.0  # of the last test: all batches of both loaders
        self._collector = CodeCollector()
        self._started = 0.0

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of encoding."""
        self._started = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's codes, but not those of the sanity check, which sees a part of the
        database only.
        """
        if not trainer.sanity_checking:
            self._collector.add(dataloader_idx, outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's codes."""
        self._collector.add(dataloader_idx, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the validation queries (train images) against the rest of the train list."""
        if not trainer.sanity_checking:
            self._score("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the query split against the database."""
        self.encode_seconds = time.perf_counter() - self._started
        self._score("test", trainer, pl_module)

    def _score(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        merged = self._collector.merge()
        datamodule = getattr(trainer, "datamodule", None)
        if len(merged) != 2 or not isinstance(datamodule, RetrievalDataModule):
            raise InputError(
                f"{stage} needs the query and the database loader of a data module of udmsh_pl.data"
            )
        values: dict[str, float] = {}
        if trainer.is_global_zero:
            splits = datamodule.splits.by_name()
            names = ("train", "train") if stage == "val" else ("query", "database")
            labels = [
                splits[name].labels[rows]
                for name, (rows, _) in zip(names, merged.values(), strict=True)
            ]
            self.codes = dict(
                zip(("query", "database"), (codes for _, codes in merged.values()), strict=True)
            )
            self.report = self._evaluate(labels, int(cast(Any, pl_module).bits))
            values = {
                f"{stage}/map@{'all' if k is None else k}": self.report.map[k] for k in self.ks
            }
        values = trainer.strategy.broadcast(values)
        for name, value in values.items():
            pl_module.log(name, value, prog_bar=name.endswith("map@all"), rank_zero_only=False)

    def _evaluate(self, labels: list[Bools], bits: int) -> RetrievalReport:
        return evaluate_codes(
            self.codes["query"], self.codes["database"], labels[0], labels[1], bits, ks=self.ks
        )
