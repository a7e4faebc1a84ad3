"""Score the codes of query and database: exact under ties, once, over the rows of all processes."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from lightning import Callback, LightningModule, Trainer

from udmsh_pl.callbacks.figures import log_retrieval
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.models import HashingModule
from udmsh_pl.retrieval.evaluation import Engine, Evaluation, RetrievalReport
from udmsh_pl.retrieval.measures import MEASURES, MeasureFunction, named_measure
from udmsh_pl.retrieval.torchmetric import KINDS, HammingRetrieval, Rows
from udmsh_pl.safe.profile import clock


class Retrieval(NamedTuple):
    """What one pass over query and database found; ``encode_seconds`` are of all batches."""

    report: RetrievalReport
    query: Rows
    database: Rows
    encode_seconds: float


def score_rows(
    trainer: Trainer, stage: str, metric: HammingRetrieval, evaluation: Evaluation, started: float
) -> Retrieval | None:
    """Gather the codes of all processes, and score and draw them in the first.

    All processes call ``metric.update`` and then this function; only the first gets a result.
    ``stage`` is ``val`` or ``test``, ``started`` the ``time.perf_counter()`` before the first
    batch. Raises ``InputError`` where there are no queries or no database.
    """
    seconds = time.perf_counter() - started
    found = metric.gather()
    if len(found) != len(KINDS):
        raise InputError(f"{stage} needs two loaders, of queries and of the database")
    if not trainer.is_global_zero:
        return None
    query, database = found["query"], found["database"]
    report = metric.evaluate(query, database, evaluation)
    log_retrieval(trainer, stage, report, query, database)
    return Retrieval(report, query, database, seconds)


def evaluate_model(
    trainer: Trainer, model: HashingModule, data: RetrievalDataModule, ks: Sequence[int | None],
    measures: Sequence[str], evaluation: Evaluation,
) -> Retrieval | None:  # fmt: skip
    """Encode query and database, score them, and log the measures as ``test/...``.

    Cut-offs and measures are as of :class:`EvaluateRetrieval`. Gives None in all processes but the
    first.
    """
    metric = HammingRetrieval(model.bits, ks).to(trainer.strategy.root_device)
    started = time.perf_counter()
    loaders = cast(Any, trainer.predict(model, datamodule=data))
    for kind, batches in zip(KINDS, loaders, strict=True):
        labels = torch.from_numpy(data.splits.by_name()[kind].labels)
        for batch in batches:
            rows = batch["index"].cpu()
            metric.update(batch["codes"], labels[rows], rows, kind)
    found = score_rows(trainer, "test", metric, evaluation, started)
    if found is not None:
        values = values_of("test", found.report, [named_measure(name) for name in measures])
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
            logger.save()
    return found


def values_of(
    stage: str, report: RetrievalReport, measures: Sequence[MeasureFunction]
) -> dict[str, float]:
    """Values of measures by the names that loggers show."""
    found = (measure for function in measures for measure in function(report))
    return {f"{stage}/{measure.key}": measure.value for measure in found}


class EvaluateRetrieval(Callback):
    """Measures in validation and test, to any logger: ``val/map@1000``, ``test/map@all``, ...

    Validation scores its queries (train images) against the rest of the train list.

    Args:
        ks: cut-offs; None is the whole database
        measures: names of :mod:`udmsh_pl.retrieval.measures`, or ``my_module.my_measure``
        engine: ``exact``, or ``faiss``: a binary index ranks the database, and mAP in order of
            rows is shown too
        device: ``cuda`` scores on a GPU; None on the processor
    """

    def __init__(
        self,
        ks: Sequence[int | None] = (1000, 5000, None),
        measures: Sequence[str] = MEASURES[:1],
        engine: Engine = "exact",
        device: str | None = None,
    ) -> None:
        self.ks = tuple(ks)
        self.evaluation = Evaluation(engine, device)
        by_row = [MEASURES[1]] if engine == "faiss" and MEASURES[1] not in measures else []
        self.measures = [named_measure(name) for name in (*measures, *by_row)]
        self._metric: HammingRetrieval | None = None
        self._started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a device that is not here, before anything is trained."""
        self.evaluation.check()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing seen."""
        metric = HammingRetrieval(int(cast(Any, pl_module).bits), self.ks)
        self._metric = metric.to(pl_module.device)  # where the processes' collectives want tensors
        self._started = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep the batch's codes, but not the sanity check's, which sees a part of the database."""
        if self._metric is not None and not trainer.sanity_checking:
            kind = KINDS[dataloader_idx]
            self._metric.update(outputs["codes"], batch["labels"], outputs["index"], kind)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the queries against the database."""
        if self._metric is None or trainer.sanity_checking:
            return
        stage = "test" if trainer.testing else "val"
        with clock("evaluation"):
            found = score_rows(trainer, stage, self._metric, self.evaluation, self._started)
        self._metric = None
        values = {} if found is None else values_of(stage, found.report, self.measures)
        for name, value in trainer.strategy.broadcast(values).items():
            pl_module.log(name, value, prog_bar=name.endswith("/map@all"), rank_zero_only=False)

    on_validation_epoch_start = on_test_epoch_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end
