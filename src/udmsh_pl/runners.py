"""Runs the cells of a plan: shallow methods on features at once, learned ones with a trainer."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray

from udmsh_pl import __version__
from udmsh_pl.baselines import ShallowHash
from udmsh_pl.baselines.cosine import cosine_map
from udmsh_pl.callbacks import EvaluateRetrieval, Figures
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.experiment import Experiment
from udmsh_pl.files import write_text
from udmsh_pl.lightning_cli import SHARED_WITH_DATA
from udmsh_pl.models import HashingModule
from udmsh_pl.plan import Cell, Plan
from udmsh_pl.reports.environment import write_environment
from udmsh_pl.reports.run_report import write_report
from udmsh_pl.results import Result
from udmsh_pl.retrieval import RetrievalReport, evaluate_codes, pack_codes
from udmsh_pl.retrieval.measures import Measure, named_measure
from udmsh_pl.run_directory import RunDirectory

Codes = NDArray[np.uint8]
REFERENCE = Cell("cosine (real-valued)", 0, 0)
# ru_maxrss counts bytes there, KiB elsewhere
KIBIBYTES_A_GB = 1e9 if sys.platform == "darwin" else 1e9 / 1024


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
    method: ShallowHash, data: RetrievalDataModule, ks: Sequence[int | None]
) -> Outcome:
    """Fit on the train features, encode, score."""
    start = time.perf_counter()
    method.fit(global_features(data, "train"))
    fitted = time.perf_counter()
    query, database = (
        pack_codes(method.project(global_features(data, name))) for name in ("query", "database")
    )
    encoded = time.perf_counter()
    labels = [images.labels for images in labelled(data).values()]
    report = evaluate_codes(query, database, *labels, method.bits, ks=ks)
    return Outcome(report, query, database, fitted - start, encoded - fitted)


def run_learned(
    model: HashingModule, data: RetrievalDataModule, trainer: Trainer, checkpoint: Path
) -> Outcome | None:
    """Train, save the weights, score what was saved; None on all processes but the first."""
    start = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - start
    trainer.save_checkpoint(checkpoint, weights_only=True)  # a finished cell is not trained further
    trainer.test(model, datamodule=data, verbose=False)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    scored = next(one.scored for one in callbacks if isinstance(one, EvaluateRetrieval))
    if scored is None:
        return None
    return Outcome(
        scored.report, scored.query.codes, scored.database.codes, seconds, scored.encode_seconds
    )


def reproduce(experiment: Experiment, plan: Plan, out: Path) -> list[Result]:
    """Run a plan, resuming what is there: a cell finished with the same settings is not run again.

    Args:
        experiment: the configuration
        plan: its plan, perhaps narrowed
        out: run directory; gets ``results.csv``, ``table.md``, figures, ``config.yaml``,
            ``environment.json`` and ``cells/``

    Raises:
        InputError: there is nothing to score with, or a setting is wrong.
    """
    run = PlanRun(experiment, plan, RunDirectory(out))
    run.prepare()
    run.reference()
    cells = plan.cells()
    for number, cell in enumerate(cells, 1):
        told = f"{cell.method}, {cell.bits} bits, seed {cell.seed}"
        print(f"[{number}/{len(cells)}] {told}", flush=True)
        run.run(cell)
    wanted = {*cells, REFERENCE}
    results = [result for result in run.directory.results() if result.cell in wanted]
    table = write_report(run.directory, results, run.data.splits, plan)
    print(f"\n{table}\nWritten to {out}/: results.csv, table.md, figures, config.yaml, cells/")
    return results


@dataclass
class PlanRun:
    """A plan, the directory that it fills, and the data module that its cells share."""

    experiment: Experiment
    plan: Plan
    directory: RunDirectory

    def prepare(self) -> None:
        """Extract what is missing and write down what is run."""
        self.data = self.experiment.datamodule()
        self.data.prepare_data()
        self.data.setup()
        labelled(self.data)
        self.measures = [named_measure(name) for name in self.plan.measures]
        write_text(self.directory.path / "config.yaml", self.experiment.resolved)
        write_environment(self.directory.path, self.data.splits.fingerprint())
        dropped = self.directory.drop_other_splits(self.data.splits.fingerprint())
        if dropped:
            print(f"rows of {len(dropped)} cells are of another split: left out of results.csv")

    def reference(self) -> None:
        """Score the cosine ranking of the features themselves, once."""
        stamp = self._stamp({"ks": list(self.plan.ks)}, self.data)
        if self.directory.finished(REFERENCE, stamp):
            return
        images = labelled(self.data)
        query, database = (global_features(self.data, name) for name in images)
        values = cosine_map(query, database, *(one.labels for one in images.values()), self.plan.ks)
        measures = [Measure("map", k, v, v, v, ties="none") for k, v in values.items()]
        self.directory.keep(REFERENCE, stamp, self._rows(REFERENCE, measures, self.data, 0.0, 0.0))

    def run(self, cell: Cell) -> None:
        """Train, encode and score one cell unless it is finished."""
        experiment, folder = self.experiment, self.directory.folder(cell)
        settings = experiment.settings(cell) | {"ks": list(self.plan.ks)}
        settings["measures"] = self.plan.measures
        if experiment.is_shallow(cell.method):
            data = self.data
            stamp = self._stamp(settings, data)
            if self.directory.finished(cell, stamp):
                return
            seed_everything(cell.seed, workers=True, verbose=False)
            outcome: Outcome | None = run_shallow(experiment.shallow(cell), data, self.plan.ks)
        else:
            seed_everything(cell.seed, workers=True, verbose=False)
            model = experiment.learned(cell)
            data = self._data_of(model)
            stamp = self._stamp(settings, data)
            if self.directory.finished(cell, stamp):
                return
            write_text(folder / "config.yaml", experiment.cell_config(cell))
            outcome = run_learned(model, data, self._trainer(folder), folder / "last.ckpt")
        if outcome is None:
            return
        labels = {f"{split}_labels": images.labels for split, images in labelled(data).items()}
        codes = {"query_codes": outcome.query_codes, "database_codes": outcome.database_codes}
        self.directory.save_scored(cell, codes | labels, outcome.report)
        measures = [one for function in self.measures for one in function(outcome.report)]
        times = outcome.seconds, outcome.encode_seconds
        self.directory.keep(cell, stamp, self._rows(cell, measures, data, *times))

    def _data_of(self, model: HashingModule) -> RetrievalDataModule:
        """The shared data module, unless the model has a backbone of its own."""
        if any(getattr(self.data, key) != getattr(model, key) for key in SHARED_WITH_DATA):
            return self.experiment.datamodule(model)
        return self.data

    def _trainer(self, folder: Path) -> Trainer:
        asked = self.experiment.trainer_config.callbacks or []
        # only what the user asks for: Lightning would keep the last step too, beside last.ckpt
        kinds = [str(getattr(one, "class_path", "")).rsplit(".", 1)[-1] for one in _listed(asked)]
        checkpointing = any(name.endswith("Checkpoint") for name in kinds)
        logger = CSVLogger(str(folder), name="", version="logs")
        callbacks = [EvaluateRetrieval(self.plan.ks, self.plan.measures), Figures()]
        return self.experiment.trainer(folder, [logger], callbacks, checkpointing)

    def _stamp(self, settings: dict[str, Any], data: RetrievalDataModule) -> dict[str, Any]:
        features = {"backbone": data.backbone, "weights": data.weights, "size": data.image_size}
        split = data.splits.fingerprint()
        return {"settings": settings, "features": features, "split": split, "version": __version__}

    def _rows(
        self,
        cell: Cell,
        measures: Sequence[Measure],
        data: RetrievalDataModule,
        seconds: float,
        encode_seconds: float,
    ) -> list[Result]:
        protocol = data.splits.protocol
        return [
            Result(
                dataset=protocol.dataset,
                protocol=protocol.name,
                split_sha256=data.splits.fingerprint(),
                method=cell.method,
                backbone=f"{data.backbone} {'fine-tuned' if data.finetune else 'frozen'}",
                bits=cell.bits,
                seed=cell.seed,
                metric=measure.name,
                k=measure.cutoff,
                ties=measure.ties,
                denominator="retrieved",
                value=round(measure.value, 6),
                lower=round(measure.lower, 6),
                upper=round(measure.upper, 6),
                seconds=round(seconds, 2),
                encode_seconds=round(encode_seconds, 3),
                peak_gb=round(
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES_A_GB, 3
                ),
                version=__version__,
            )
            for measure in measures
        ]


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


def _listed(asked: Any) -> list[Any]:
    return list(asked) if isinstance(asked, list) else [asked]
