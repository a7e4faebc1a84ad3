"""Running a cell: shallow methods on features at once, learned ones with a trainer."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from numpy.typing import NDArray

from udmsh_pl.baselines import ShallowHash
from udmsh_pl.callbacks import EvaluateRetrieval
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.models import HashingModule
from udmsh_pl.retrieval import RetrievalReport, evaluate_codes, pack_codes
from udmsh_pl.retrieval.evaluation import Evaluation

Codes = NDArray[np.uint8]


class Outcome(NamedTuple):
    """What running a cell gave.

    Args:
        report: every measure of query against database
        query_codes: packed, uint8 [Q, ceil(K / 8)]
        database_codes: packed, uint8 [N, ceil(K / 8)]
        seconds: of training, with the teacher
        encode_seconds: of encoding both
    """

    report: RetrievalReport
    query_codes: Codes
    database_codes: Codes
    seconds: float
    encode_seconds: float


def run_shallow(
    method: ShallowHash,
    data: RetrievalDataModule,
    ks: Sequence[int | None],
    evaluation: Evaluation,
) -> Outcome:
    """Fit on the train features, encode, score."""
    start = time.perf_counter()
    method.fit(global_features(data, "train"))
    fitted = time.perf_counter()
    query, database = (
        pack_codes(method.project(global_features(data, name))) for name in ("query", "database")
    )
    encoded = time.perf_counter()
    images = labelled(data)
    labels = images["query"].labels, images["database"].labels
    engine, device = evaluation.engine, evaluation.device
    report = evaluate_codes(
        query, database, *labels, method.bits, ks=ks, engine=engine, device=device
    )
    return Outcome(report, query, database, fitted - start, encoded - fitted)


def run_learned(
    model: HashingModule, data: RetrievalDataModule, trainer: Trainer, checkpoint: Path
) -> Outcome | None:
    """Train, save the weights, score what was saved; None on all processes but the first."""
    start = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - start
    trainer.save_checkpoint(checkpoint, weights_only=True)  # a finished cell is not trained further
    # a requeued SLURM job leaves one, which Lightning would load before it tests
    for stale in checkpoint.parent.glob("hpc_ckpt_*.ckpt"):
        stale.unlink(missing_ok=True)
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(kept["state_dict"])  # what is scored is what was saved
    trainer.test(model, datamodule=data, verbose=False)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    scored = next(one.scored for one in callbacks if isinstance(one, EvaluateRetrieval))
    if scored is None:
        return None
    return Outcome(
        scored.report, scored.query.codes, scored.database.codes, seconds, scored.encode_seconds
    )


def global_features(data: RetrievalDataModule, split: str) -> NDArray[np.float32]:
    """Cached global features of a split, float32 [N, D]."""
    return np.asarray(data.features(split)["global_feature"], dtype=np.float32)


def labelled(data: RetrievalDataModule) -> dict[str, Any]:
    """The query and the database split, which must have labels to score with.

    Raises:
        InputError: there are no labelled queries.
    """
    splits = data.splits.by_name()
    if "query" not in splits or not splits["query"].labels.shape[1]:
        raise InputError("no labelled queries to score; `udmsh fit` and `predict` need none")
    return {name: splits[name] for name in ("query", "database")}
