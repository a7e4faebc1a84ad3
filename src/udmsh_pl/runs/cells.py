"""One cell: a configuration builds its method, a run directory keeps what running it gives."""

import copy
import difflib
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray

from udmsh_pl import __version__
from udmsh_pl.baselines import ShallowHash
from udmsh_pl.baselines.references import Quantiser, cosine_map, quantiser_map
from udmsh_pl.callbacks import EvaluateRetrieval, Figures
from udmsh_pl.callbacks.evaluate import evaluate_model
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.images.check import split_lines
from udmsh_pl.images.walk import write_skipped
from udmsh_pl.models import HashingModule
from udmsh_pl.reports.environment import write_environment
from udmsh_pl.reports.results import Cell, Result
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.retrieval import RetrievalReport, evaluate_codes, pack_codes
from udmsh_pl.retrieval.evaluation import Evaluation
from udmsh_pl.retrieval.measures import Measure, named_measure
from udmsh_pl.runs.checkpoints import import_class
from udmsh_pl.runs.lightning_cli import (
    SHARED_WITH_DATA,
    OneLineParser,
    ParsedCLI,
    instantiated,
    namespace,
    one_line,
)
from udmsh_pl.runs.loggers import cell_loggers, close
from udmsh_pl.runs.plan import Plan
from udmsh_pl.runs.workers import agreed, is_first, visible_gpus, wait_for_all, world_size
from udmsh_pl.safe.files import sweep, write_text
from udmsh_pl.safe.profile import clock

REFERENCE = Cell("cosine (real-valued)", 0, 0)
# what changes how a run is shown or how fast it goes, but no result
SHOWN_ONLY = ("logger", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
SPEED_ONLY = ("cache_dir", "num_workers")
# ru_maxrss counts bytes there, KiB elsewhere
KIBIBYTES_A_GB = 1e9 if sys.platform == "darwin" else 1e9 / 1024

Codes = NDArray[np.uint8]
State = Literal["was finished", "ran", "runs elsewhere"]


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


@dataclass(frozen=True)
class Configuration:
    """A yaml with its plan, parsed and checked, and what it builds for a cell.

    Args:
        source: the yaml
        cli: the parsed configuration
        plan: the yaml's own plan
        kinds: class of each method of the plan
        overrides: arguments that were given beside the yaml
    """

    source: Path
    cli: ParsedCLI
    plan: Plan
    kinds: dict[str, type[ShallowHash] | type[HashingModule]] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @classmethod
    def parse(cls, source: Path, overrides: Sequence[str] = ()) -> "Configuration":
        """Read a yaml, with further arguments for Lightning's parser, and check its plan.

        Raises:
            InputError: the file, a key, a method or one of its settings is wrong.
        """
        if not source.is_file():
            raise InputError(f"{source} does not exist; experiments/ holds one yaml a benchmark")
        cli = ParsedCLI(["--config", str(source), *overrides])
        given = cli.config.reproduce
        plan = Plan(
            given.bits, given.seeds, given.ks, given.methods, given.measures, given.quantisers
        )
        plan.check(str(source))
        configuration = cls(source, cli, plan, overrides=tuple(overrides))
        for name in plan.methods:
            configuration.kinds[name] = configuration._kind(name)
        return configuration

    @cached_property
    def resolved(self) -> str:
        """The whole configuration as yaml, defaults included."""
        text: str = self.cli.parser.dump(self.cli.config, skip_link_targets=False)
        return text

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The whole configuration as plain values."""
        return dict(yaml.safe_load(self.resolved))

    def datamodule(self, backbone: Mapping[str, Any] | None = None) -> RetrievalDataModule:
        """A data module with the configuration's settings.

        Args:
            backbone: other values of what the data module takes from the model
        """
        data = copy.deepcopy(self.cli.config.data)
        for name, value in (backbone or {}).items():
            if name in data.init_args:
                data.init_args[name] = value
        parser = OneLineParser(exit_on_error=False)
        parser.add_subclass_arguments(RetrievalDataModule, "data")
        return cast(RetrievalDataModule, instantiated(parser, namespace(data=data)).data)

    def backbone_settings(self, name: str) -> dict[str, Any]:
        """What the data module of a learned method must have in common with it."""
        own = self._init_args(name)
        return {key: own[key] for key in SHARED_WITH_DATA if key in own}

    def is_shallow(self, name: str) -> bool:
        """Whether a method is fitted on features at once, not trained in steps."""
        return issubclass(self.kinds[name], ShallowHash)

    def shallow(self, cell: Cell) -> ShallowHash:
        """The cell's shallow method."""
        own = {"bits": cell.bits, "seed": cell.seed}
        return cast(ShallowHash, self._build(cell.method, own))

    def learned(self, cell: Cell) -> HashingModule:
        """The cell's network, on the configuration's backbone unless the method names another."""
        model = cast(HashingModule, self._build(cell.method, {"bits": cell.bits}))
        # so that `udmsh predict --ckpt_path` knows what to build
        model.save_hyperparameters({"_class_path": _path_of(self.kinds[cell.method])})
        return model

    def cell_config(self, cell: Cell) -> str:
        """The yaml with which ``udmsh fit`` trains just this cell."""
        config = copy.deepcopy(self.cli.config)
        init_args = namespace(**self._init_args(cell.method), bits=cell.bits)
        path = _path_of(self.kinds[cell.method])
        config.model = namespace(class_path=path, init_args=init_args)
        config.seed_everything = cell.seed
        text: str = self.cli.parser.dump(config, skip_validation=True)
        return text

    def trainer(
        self, root: Path, loggers: Sequence[Logger], callbacks: Sequence[Callback], verbose: bool
    ) -> Trainer:
        """A trainer of its own, with the configuration's settings and these callbacks too."""
        settings = copy.deepcopy(self.cli.config.trainer)
        settings.logger = None
        settings = dict(instantiated(self._trainer_parser, namespace(trainer=settings)).trainer)
        asked = settings.get("callbacks") or []
        asked = asked if isinstance(asked, list) else [asked]
        settings["callbacks"] = [*asked, *callbacks]
        settings["logger"] = list(loggers)
        settings["default_root_dir"] = str(root)
        if not asked and len(loggers) == 1:  # the CSV log: nobody looks at measures on the way
            settings["limit_val_batches"] = 0
        # only what the user asks for: Lightning would keep the last step too, beside last.ckpt
        settings["enable_checkpointing"] = any(isinstance(one, Checkpoint) for one in asked)
        if not verbose:
            settings["enable_progress_bar"] = False
            settings["enable_model_summary"] = False
        return Trainer(**settings)

    @cached_property
    def _trainer_parser(self) -> OneLineParser:
        parser = OneLineParser(exit_on_error=False)
        parser.add_lightning_class_args(Trainer, "trainer")
        return parser

    def ranks(self) -> int:
        """How many processes of this machine the trainer's settings ask for."""
        devices, strategy = self.trainer_config.devices, str(self.trainer_config.strategy)
        count = len(devices) if isinstance(devices, list) else devices
        if isinstance(count, str) and count.isdecimal():
            count = int(count)
        if not isinstance(count, int) or count < 0:  # "auto", -1: all GPUs there are
            count = max(1, len(visible_gpus())) if count in ("auto", -1, "-1") else 1
        return count if "ddp" in strategy or "fsdp" in strategy or count == 1 else 1

    @property
    def trainer_config(self) -> Any:
        """The configuration's trainer section."""
        return self.cli.config.trainer

    @property
    def evaluation(self) -> Evaluation:
        """How codes are scored."""
        given = self.cli.config.evaluation
        return Evaluation(given.engine, given.device)

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Everything in the configuration that decides the cell's result, for its stamp."""
        own: dict[str, Any] = {"bits": cell.bits, "seed": cell.seed}
        own |= {"method": self._class_path(cell.method), "init_args": self._init_args(cell.method)}
        if self.is_shallow(cell.method):
            return own
        trainer = {k: v for k, v in self.facts["trainer"].items() if k not in SHOWN_ONLY}
        data = {k: v for k, v in self.facts["data"]["init_args"].items() if k not in SPEED_ONLY}
        return own | {"trainer": trainer, "data": data}

    def _kind(self, name: str) -> type[ShallowHash] | type[HashingModule]:
        """Class of a method, whose settings are checked by building it once."""
        where = f"{self.source}: method {name!r}"
        path = self._class_path(name)
        kind: type = import_class(path, where)
        if not issubclass(kind, ShallowHash | HashingModule):
            raise InputError(f"{where}: {path} is neither a ShallowHash nor a HashingModule")
        self.kinds[name] = kind
        own: dict[str, Any] = {"bits": self.plan.bits[0]}
        self._build(name, own | ({"seed": 0} if issubclass(kind, ShallowHash) else {}))
        return kind

    def _class_path(self, name: str) -> str:
        method = self.plan.methods[name]
        return str(self.cli.config.model.class_path if method is None else method["class_path"])

    def _init_args(self, name: str) -> dict[str, Any]:
        """Settings of a method; learned ones get the configuration's backbone unless they say."""
        method, base = self.plan.methods[name], self.cli.config.model.init_args
        if method is None:
            return {key: value for key, value in base.as_dict().items() if key != "bits"}
        own: dict[str, Any] = method.get("init_args") or {}
        if issubclass(self.kinds[name], ShallowHash):
            return own
        _, options = self._method_parser(name)
        shared = [k for k in ("backbone", "weights", "grid") if k in base and k in options]
        return {**{key: base[key] for key in shared}, **own}

    @cached_property
    def _parsers(self) -> dict[type, tuple[OneLineParser, list[str]]]:
        return {}

    def _method_parser(self, name: str) -> tuple[OneLineParser, list[str]]:
        """A parser of a method's settings, and their names."""
        kind = self.kinds[name]
        if kind not in self._parsers:
            parser = OneLineParser(exit_on_error=False)
            known = parser.add_class_arguments(kind, "method")
            self._parsers[kind] = parser, [option.removeprefix("method.") for option in known]
        return self._parsers[kind]

    def _build(self, name: str, own: dict[str, Any]) -> Any:
        where = f"{self.source}: method {name!r}"
        parser, options = self._method_parser(name)
        settings = self._init_args(name) | own
        for key in settings:
            if key not in options:
                near = difflib.get_close_matches(key, options, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(options)}"
                raise InputError(
                    f"{where}: {self._class_path(name)} has no setting {key!r}; {hint}"
                )
        try:
            return instantiated(parser, parser.parse_object({"method": settings})).method
        except InputError as error:
            raise InputError(f"{where}: {str(error).removeprefix('method.')}") from error
        except (ArgumentError, TypeError, ValueError) as error:
            raise InputError(f"{where}: {one_line(str(error))}") from error


@dataclass
class Runner:
    """Runs the cells of a plan, one at a time, into a directory; they share a data module.

    Args:
        configuration: what builds the cells
        plan: the configuration's plan, perhaps narrowed
        directory: where the results go
        verbose: show Lightning's progress bars
    """

    configuration: Configuration
    plan: Plan
    directory: RunDirectory
    verbose: bool = False

    def prepare(self) -> None:
        """Extract what is missing, write down what is run, and score the features themselves."""
        self.configuration.evaluation.check()
        self.measures = [named_measure(name) for name in self.plan.measures]
        self.data = self.configuration.datamodule()
        if is_first():
            self.data.prepare_data()
            labelled(self.data)
        wait_for_all()
        self.data.setup()
        self._data = {_backbone(self.data): self.data}
        self._constant: dict[int, dict[str, Any]] = {}  # parts of stamps, by data module
        if is_first():
            sweep(self.directory.path)
            write_text(self.directory.path / "config.yaml", self.configuration.resolved)
            precision = self.configuration.trainer_config.precision
            split = self.data.splits.fingerprint()
            write_environment(self.directory.path, split, precision, world_size())
            write_skipped(self.data.splits.skipped, self.directory.path)
            print("\n".join(split_lines(self.data.splits, self.directory.path)), flush=True)
            self.directory.take_over()
            if left := self.directory.left_out():
                print(f"{len(left)} cells are of another split or altered: not in results.csv")
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
        if not self.configuration.is_shallow(cell.method):
            outcome = self._learned(cell, data)
        else:
            outcome = self._shallow(cell, data) if is_first() else None
        if outcome is not None:
            self._keep(cell, data, outcome)
        wait_for_all()

    def _shallow(self, cell: Cell, data: RetrievalDataModule) -> Outcome:
        """Fit on the train features, encode, score."""
        method, how = self.configuration.shallow(cell), self.configuration.evaluation
        start = time.perf_counter()
        with clock("steps"):
            method.fit(global_features(data, "train"))
        fitted = time.perf_counter()
        query, database = (
            pack_codes(method.project(global_features(data, name)))
            for name in ("query", "database")
        )
        encoded = time.perf_counter()
        with clock("evaluation"):
            report = evaluate_codes(
                query, database, *_labels(data), method.bits, ks=self.plan.ks,
                engine=how.engine, device=how.device,
            )  # fmt: skip
        return Outcome(report, query, database, fitted - start, encoded - fitted)

    def _learned(self, cell: Cell, data: RetrievalDataModule) -> Outcome | None:
        """Train, save the weights, score what was saved; None on all processes but the first."""
        folder, stamp = self.directory.folder(cell), self._stamp(cell, data)
        if is_first():
            write_text(folder / "config.yaml", self.configuration.cell_config(cell))
            self.directory.begin(cell, stamp)
        wait_for_all()  # others look for a checkpoint to go on from
        facts = stamp | {"config": self.configuration.facts}
        asked = self.configuration.trainer_config.logger
        loggers = cell_loggers(asked, self.directory, cell, facts)
        how = self.configuration.evaluation
        score = EvaluateRetrieval(self.plan.ks, self.plan.measures, how.engine, how.device)
        trainer = self.configuration.trainer(folder, loggers, [score, Figures()], self.verbose)
        model = self.configuration.learned(cell)
        try:
            start = time.perf_counter()
            with clock("steps"):
                trainer.fit(model, datamodule=data)
            seconds = time.perf_counter() - start
            kept = folder / "last.ckpt"
            trainer.save_checkpoint(kept, weights_only=True)  # a finished cell trains no further
            # a requeued SLURM job leaves checkpoints, which Lightning would load when it encodes
            self.directory.forget_interrupted(cell)
            weights = torch.load(kept, map_location="cpu", weights_only=True)
            model.load_state_dict(weights["state_dict"])  # what is scored is what was saved
            with clock("evaluation"):
                found = evaluate_model(trainer, model, data, self.plan.ks, self.plan.measures, how)
        finally:
            close(loggers)
        if found is None:
            return None
        codes = found.query.codes, found.database.codes
        return Outcome(found.report, *codes, seconds, found.encode_seconds)

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
        query, database = (global_features(self.data, name) for name in labelled(self.data))
        with clock("evaluation"):
            values = cosine_map(query, database, _labels(self.data), self.plan.ks)
        self._keep_values(REFERENCE, stamp, values, 0.0)

    def _quantiser(self, cell: Cell) -> None:
        """Score a product quantiser of the features, once."""
        stamp = self._stamp(cell, self.data)
        if self.directory.finished(cell, stamp, has_codes=False):
            return
        train, query, database = (
            global_features(self.data, name) for name in ("train", *labelled(self.data))
        )
        start = time.perf_counter()
        kind, features = cast(Quantiser, cell.method.split()[0]), (train, query, database)
        values = quantiser_map(kind, cell.bits, features, _labels(self.data), self.plan.ks)
        self._keep_values(cell, stamp, values, time.perf_counter() - start)

    def _keep_values(
        self, cell: Cell, stamp: dict[str, Any], values: Mapping[int | None, float], seconds: float
    ) -> None:
        measures = [Measure("map", k, v, v, v, ties="none") for k, v in values.items()]
        self.directory.keep(cell, stamp, self._rows(cell, measures, self.data, seconds, 0.0))

    def _data_of(self, cell: Cell) -> RetrievalDataModule:
        """The shared data module, unless the cell's model has a backbone of its own."""
        if self._is_reference(cell) or self.configuration.is_shallow(cell.method):
            return self.data
        asked = self.configuration.backbone_settings(cell.method)
        shared = zip(SHARED_WITH_DATA, _backbone(self.data), strict=True)
        wanted = tuple(asked.get(name, own) for name, own in shared)
        if wanted not in self._data:
            self._data[wanted] = self.configuration.datamodule(asked)
        return self._data[wanted]

    def _is_reference(self, cell: Cell) -> bool:
        return cell.method not in self.plan.methods

    def _stamp(self, cell: Cell, data: RetrievalDataModule) -> dict[str, Any]:
        """Everything that decides a cell's rows: another stamp means that they are stale."""
        settings = {} if self._is_reference(cell) else self.configuration.settings(cell)
        if id(data) not in self._constant:
            features, split = data.feature_keys(), data.splits.fingerprint()
            self._constant[id(data)] = {"features": features, "split": split}
        return {
            "settings": settings | {"ks": list(self.plan.ks), "measures": self.plan.measures},
            **self._constant[id(data)],
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


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _backbone(data: RetrievalDataModule) -> tuple[Any, ...]:
    return tuple(getattr(data, name) for name in SHARED_WITH_DATA)


def _labels(data: RetrievalDataModule) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    images = labelled(data)
    return images["query"].labels, images["database"].labels
