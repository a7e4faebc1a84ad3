"""A plan on its way into a run directory: which cells are finished, and one cell at a time."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from lightning import seed_everything

from udmsh_pl import __version__
from udmsh_pl.baselines.references import Quantiser, cosine_map, quantiser_map
from udmsh_pl.callbacks import EvaluateRetrieval, Figures
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.safe.files import sweep, write_text
from udmsh_pl.images.check import split_lines
from udmsh_pl.images.walk import write_skipped
from udmsh_pl.reports.results import Cell
from udmsh_pl.runs.plan import Plan
from udmsh_pl.reports.environment import write_environment
from udmsh_pl.reports.results import Result
from udmsh_pl.retrieval.measures import Measure, named_measure
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.runs.cells import Outcome, global_features, labelled, run_learned, run_shallow
from udmsh_pl.runs.experiment import Experiment
from udmsh_pl.runs.loggers import cell_loggers, close
from udmsh_pl.runs.ranks import agreed, is_first, wait_for_all, world_size

REFERENCE = Cell("cosine (real-valued)", 0, 0)
# ru_maxrss counts bytes there, KiB elsewhere
KIBIBYTES_A_GB = 1e9 if sys.platform == "darwin" else 1e9 / 1024

State = Literal["was finished", "ran", "runs elsewhere"]


@dataclass
class PlanRun:
    """A plan, the directory that it fills, and the data module that its cells share.

    Args:
        experiment: the configuration
        plan: its plan, perhaps narrowed
        directory: where the results go
        verbose: show Lightning's progress bars
    """

    experiment: Experiment
    plan: Plan
    directory: RunDirectory
    verbose: bool = False

    def prepare(self) -> None:
        """Extract what is missing, write down what is run, and score the features themselves."""
        self.experiment.evaluation.check()
        self.data = self.experiment.datamodule()
        self.measures = [named_measure(name) for name in self.plan.measures]
        if is_first():
            self.data.prepare_data()
            labelled(self.data)
        wait_for_all()
        self.data.setup()
        if is_first():
            sweep(self.directory.path)
            write_text(self.directory.path / "config.yaml", self.experiment.resolved)
            precision = self.experiment.trainer_config.precision
            split = self.data.splits.fingerprint()
            write_environment(self.directory.path, split, precision, world_size())
            write_skipped(self.data.splits.skipped, self.directory.path)
            print("\n".join(split_lines(self.data.splits, self.directory.path)), flush=True)
            dropped = self.directory.drop_stale(split)
            if dropped:
                print(f"{len(dropped)} cells are of another split or altered: not in results.csv")
            self._reference()
            for cell in self.plan.quantiser_cells():
                self._quantiser(cell)

    def run(self, cell: Cell, launch: str | None = None) -> State:
        """Train, encode and score a cell, unless it is finished or another process has it.

        With several ranks all train a learned method together; the first does the rest alone.

        Args:
            cell: what to run
            launch: noted in the cell's ``tries`` until it is finished
        """
        if agreed(is_first() and self.finished(cell)):
            return "was finished"
        if not is_first():
            self._run(cell)
            return "ran"
        with self.directory.working(cell) as mine:
            if not mine:
                return "runs elsewhere"
            if self.finished(cell):  # by another worker, between the two questions
                return "was finished"
            noted = self.directory.folder(cell) / "tries"
            if launch is not None:
                with noted.open("a", encoding="utf-8") as stream:
                    stream.write(f"{launch}\n")
            self._run(cell)
            noted.unlink(missing_ok=True)
        return "ran"

    def finished(self, cell: Cell) -> bool:
        """Whether the cell's results are there, under the settings of now."""
        return self.directory.finished(cell, self._stamp(cell, self._data_of(cell)))

    def _run(self, cell: Cell) -> None:
        seed_everything(cell.seed, workers=True, verbose=False)
        data = self._data_of(cell)
        if not self.experiment.is_shallow(cell.method):
            outcome = self._learned(cell, data)
        else:
            outcome = self._shallow(cell, data) if is_first() else None
        if outcome is not None:
            self._keep(cell, data, outcome)
        wait_for_all()

    def _shallow(self, cell: Cell, data: RetrievalDataModule) -> Outcome:
        method = self.experiment.shallow(cell)
        return run_shallow(method, data, self.plan.ks, self.experiment.evaluation)

    def _learned(self, cell: Cell, data: RetrievalDataModule) -> Outcome | None:
        folder = self.directory.folder(cell)
        if is_first():
            write_text(folder / "config.yaml", self.experiment.cell_config(cell))
            self.directory.begin(cell, self._stamp(cell, data))
        wait_for_all()  # others look for a checkpoint to go on from
        facts = self._stamp(cell, data) | {"config": self.experiment.resolved}
        loggers = cell_loggers(self.experiment.trainer_config.logger, self.directory, cell, facts)
        how = self.experiment.evaluation
        score = EvaluateRetrieval(self.plan.ks, self.plan.measures, how.engine, how.device)
        callbacks = [score, Figures()]
        trainer = self.experiment.trainer(folder, loggers, callbacks, self.verbose)
        model = self.experiment.learned(cell)
        try:
            return run_learned(model, data, trainer, folder / "last.ckpt")
        finally:
            close(loggers)

    def _keep(self, cell: Cell, data: RetrievalDataModule, outcome: Outcome) -> None:
        labels = {f"{split}_labels": images.labels for split, images in labelled(data).items()}
        codes = {"query_codes": outcome.query_codes, "database_codes": outcome.database_codes}
        self.directory.save_scored(cell, codes | labels, outcome.report)
        measures = [one for function in self.measures for one in function(outcome.report)]
        rows = self._rows(cell, measures, data, outcome.seconds, outcome.encode_seconds)
        self.directory.keep(cell, self._stamp(cell, data), rows)

    def _reference(self) -> None:
        """Score the cosine ranking of the features themselves, once."""
        stamp = self._stamp(REFERENCE, self.data)
        if self.directory.finished(REFERENCE, stamp):
            return
        images = labelled(self.data)
        query, database = (global_features(self.data, name) for name in images)
        labels = images["query"].labels, images["database"].labels
        values = cosine_map(query, database, *labels, self.plan.ks)
        measures = [Measure("map", k, v, v, v, ties="none") for k, v in values.items()]
        self.directory.keep(REFERENCE, stamp, self._rows(REFERENCE, measures, self.data, 0.0, 0.0))

    def _quantiser(self, cell: Cell) -> None:
        """Score a product quantiser of the features, once."""
        stamp = self._stamp(cell, self.data)
        if self.directory.finished(cell, stamp, has_codes=False):
            return
        images = labelled(self.data)
        features = [global_features(self.data, name) for name in ("train", *images)]
        labels = images["query"].labels, images["database"].labels
        start = time.perf_counter()
        values = quantiser_map(
            cast(Quantiser, cell.method.split()[0]),
            cell.bits,
            (features[0], features[1], features[2]),
            labels,
            self.plan.ks,
        )
        measures = [Measure("map", k, v, v, v, ties="none") for k, v in values.items()]
        seconds = time.perf_counter() - start
        self.directory.keep(cell, stamp, self._rows(cell, measures, self.data, seconds, 0.0))

    def _data_of(self, cell: Cell) -> RetrievalDataModule:
        """The shared data module, unless the cell's model has a backbone of its own."""
        if self._is_reference(cell) or self.experiment.is_shallow(cell.method):
            return self.data
        asked = self.experiment.backbone_settings(cell.method)
        if all(getattr(self.data, name) == value for name, value in asked.items()):
            return self.data
        return self.experiment.datamodule(asked)

    def _is_reference(self, cell: Cell) -> bool:
        return cell.method not in self.plan.methods

    def _stamp(self, cell: Cell, data: RetrievalDataModule) -> dict[str, Any]:
        """Everything that decides a cell's rows: another stamp means that they are stale."""
        settings = {} if self._is_reference(cell) else self.experiment.settings(cell)
        return {
            "settings": settings | {"ks": list(self.plan.ks), "measures": self.plan.measures},
            "features": data.feature_keys(),
            "split": data.splits.fingerprint(),
            "version": __version__,
        }

    def _rows(
        self,
        cell: Cell,
        measures: Sequence[Measure],
        data: RetrievalDataModule,
        seconds: float,
        encode_seconds: float,
    ) -> list[Result]:
        protocol, split = data.splits.protocol, data.splits.fingerprint()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES_A_GB
        return [
            Result(
                dataset=protocol.dataset,
                protocol=data.splits.protocol_name,
                split_sha256=split,
                method=cell.method,
                backbone=f"{data.backbone} {'fine-tuned' if data.finetune else 'frozen'}",
                bits=cell.bits,
                seed=cell.seed,
                metric=measure.name,
                k=measure.cutoff,
                ties=measure.ties,
                denominator="retrieved",
                value=round(measure.value, 6),
                lower=round(measure.value if measure.lower is None else measure.lower, 6),
                upper=round(measure.value if measure.upper is None else measure.upper, 6),
                seconds=round(seconds, 2),
                encode_seconds=round(encode_seconds, 3),
                peak_gb=round(peak, 3),
                version=__version__,
            )
            for measure in measures
        ]
