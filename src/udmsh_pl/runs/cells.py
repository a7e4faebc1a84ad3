"""One cell: a configuration builds its method, a run directory keeps what running it gives."""

import copy
import difflib
import gc
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray

from udmsh_pl import __version__
from udmsh_pl.baselines import ShallowHash
from udmsh_pl.baselines.references import Quantiser, Values, cosine_map, quantiser_map
from udmsh_pl.callbacks import EvaluateRetrieval, Figures
from udmsh_pl.callbacks.evaluate import evaluate_model
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.models import HashingModule
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table_rows import Cell, Result
from udmsh_pl.retrieval import RetrievalReport, evaluate_codes, pack_codes
from udmsh_pl.retrieval.evaluation import Evaluation
from udmsh_pl.retrieval.measures import Measure, named_measure
from udmsh_pl.runs import lightning_cli
from udmsh_pl.runs.checkpoints import import_class
from udmsh_pl.runs.lightning_cli import SHARED_WITH_DATA, OneLineParser, instantiate, namespace
from udmsh_pl.runs.loggers import cell_loggers, close
from udmsh_pl.runs.plan import Plan
from udmsh_pl.runs.rankings import rank
from udmsh_pl.runs.workers import agreed, is_first, visible_gpus, wait_for_all, world_size
from udmsh_pl.safe.files import sha256_file, sweep, write_text
from udmsh_pl.safe.profile import clock

REFERENCE = Cell("cosine (real-valued)", 0, 0)
# what changes how a run is shown or how fast it goes, but no result
SHOWN_ONLY = ("logger", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
SPEED_ONLY = ("cache_dir", "num_workers")
# ru_maxrss counts bytes there, KiB elsewhere
KIBIBYTES_A_GB = 1e9 if sys.platform == "darwin" else 1e9 / 1024

Codes = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # of query and database, packed
Spent = tuple[float, float]  # seconds of training with the teacher, and of encoding both
State = Literal["was finished", "ran", "runs elsewhere"]


class PlannedMethod:
    """A method of a plan: its class, its settings, and what builds it for a cell.

    ``where`` begins each InputError: there is no such class at ``path``, or it is no method. A
    learned method takes the ``shared`` settings that it knows and ``given`` does not set.
    """

    def __init__(
        self, where: str, path: str, given: Mapping[str, Any], shared: Mapping[str, Any]
    ) -> None:
        self.where, self.path = where, path
        self.kind = import_class(path, where)
        if not issubclass(self.kind, ShallowHash | HashingModule):
            raise InputError(f"{where}: {path} is neither a ShallowHash nor a HashingModule")
        # fitted on features at once, not trained in steps
        self.is_shallow = issubclass(self.kind, ShallowHash)
        self.init_args = dict(given)
        if not self.is_shallow:
            _, options = _parser_of(self.kind)
            self.init_args = {k: shared[k] for k in shared if k in options} | self.init_args
            if self.kind.fuses:  # also in a plan that gives each other method the fused feature
                self.init_args["fused"] = False

    @property
    def class_path(self) -> str:
        """Where the class is defined."""
        return f"{self.kind.__module__}.{self.kind.__qualname__}"

    def check_rankings(self, kinds: Sequence[str]) -> None:
        """Raise an InputError for rankings that this method cannot have."""
        problem = ""
        if kinds and (self.is_shallow or self.init_args.get("finetune")):
            problem = "they need a learned method with a frozen backbone"
        elif "two-stages" in kinds and not self.kind.fuses:
            problem = "two-stages need a method with a fused feature of its own, as udmsh-plus"
        elif "asymmetric" in kinds and self.init_args.get("isometry") == "rotation":
            problem = "a rotation makes codes that are not signs of the encoder's output"
        if problem:
            raise InputError(f"{self.where}: reproduce.rankings: {problem}; remove this one")

    def build(self, cell: Cell) -> Any:
        """The cell's shallow method or network; an InputError names a setting that is wrong."""
        parser, options = _parser_of(self.kind)
        settings = self.init_args | {"bits": cell.bits}
        settings |= {"seed": cell.seed} if self.is_shallow else {}
        for key in settings:
            if key not in options:
                near = difflib.get_close_matches(key, options, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(options)}"
                raise InputError(f"{self.where}: {self.path} has no setting {key!r}; {hint}")
        try:
            parsed = parser.parse_object({"method": settings})
            method = instantiate(parser, method=parsed.method)
        except InputError as error:
            raise InputError(f"{self.where}: {str(error).removeprefix('method.')}") from error
        except (ArgumentError, TypeError, ValueError) as error:
            raise InputError(f"{self.where}: {lightning_cli.one_line(str(error))}") from error
        if not self.is_shallow:  # so that `udmsh predict --ckpt_path` knows what to build
            method.save_hyperparameters({"_class_path": self.class_path})
        return method


@cache
def _parser_of(kind: type) -> tuple[OneLineParser, list[str]]:
    """A parser of a method's settings, and their names."""
    parser = OneLineParser(exit_on_error=False)
    known = parser.add_class_arguments(kind, "method")
    return parser, [option.removeprefix("method.") for option in known]


class Configuration:
    """A yaml with its plan, and what it builds for a cell; an InputError names what is wrong in the
    file, a key, a method or one of its settings. ``overrides`` are for Lightning's parser.
    """

    def __init__(self, source: Path, overrides: Sequence[str] = ()) -> None:
        if not source.is_file():
            raise InputError(f"{source} does not exist; experiments/ holds one yaml a benchmark")
        self.source, self.overrides = source, tuple(overrides)
        cli = lightning_cli.ParsedCLI(["--config", str(source), *overrides], run=False)
        self.parser, self.config = cli.parser, cli.config
        self.plan = Plan(**vars(self.config.reproduce))
        self.plan.check(str(source))
        self.evaluation = Evaluation(self.config.evaluation.engine, self.config.evaluation.device)
        self.methods: dict[str, PlannedMethod] = {}
        for name in self.plan.methods:
            self.methods[name] = self._method(name)
            self.methods[name].build(Cell(name, self.plan.bits[0], 0))  # checks the settings
            self.methods[name].check_rankings(self.plan.rankings.get(name, ()))

    def _method(self, name: str) -> PlannedMethod:
        """A method of the plan; learned ones get the model's backbone unless they name another."""
        where, given = f"{self.source}: method {name!r}", self.plan.methods[name]
        model = self.config.model
        own = {key: one for key, one in model.init_args.as_dict().items() if key != "bits"}
        if given is None:
            return PlannedMethod(where, str(model.class_path), own, {})
        shared = {key: own[key] for key in ("backbone", "weights", "grid", "fused") if key in own}
        return PlannedMethod(where, given["class_path"], given.get("init_args") or {}, shared)

    @cached_property
    def resolved(self) -> str:
        """The whole configuration as yaml, defaults included."""
        text: str = self.parser.dump(self.config, skip_link_targets=False)
        return text

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The whole configuration as plain values."""
        return dict(yaml.safe_load(self.resolved))

    def datamodule(self, backbone: Mapping[str, Any] | None = None) -> RetrievalDataModule:
        """A data module with the configuration's settings, but for those of another backbone."""
        data = copy.deepcopy(self.config.data)
        for name, value in (backbone or {}).items():
            if name in data.init_args:
                data.init_args[name] = value
        return cast(RetrievalDataModule, lightning_cli.instance(RetrievalDataModule, data))

    def cell_config(self, cell: Cell) -> str:
        """The yaml with which ``udmsh fit`` trains just this cell."""
        config, method = copy.deepcopy(self.config), self.methods[cell.method]
        init_args = namespace(**method.init_args, bits=cell.bits)
        config.model = namespace(class_path=method.class_path, init_args=init_args)
        config.seed_everything = cell.seed
        text: str = self.parser.dump(config, skip_validation=True)
        return text

    def trainer(
        self, root: Path, loggers: Sequence[Logger], callbacks: Sequence[Callback], verbose: bool
    ) -> Trainer:
        """A trainer of its own, with the configuration's settings and these callbacks too."""
        settings: Namespace = copy.deepcopy(self.config.trainer)
        settings.logger = None
        parts = dict(instantiate(self._trainer_parser, trainer=settings))
        asked = parts.get("callbacks") or []
        asked = asked if isinstance(asked, list) else [asked]
        parts |= {"callbacks": [*asked, *callbacks], "logger": list(loggers)}
        parts["default_root_dir"] = str(root)
        if not asked and len(loggers) == 1:  # the CSV log: nobody looks at measures on the way
            parts["limit_val_batches"] = 0
        # only what the user asks for: Lightning would keep the last step too, beside last.ckpt
        parts["enable_checkpointing"] = any(isinstance(one, Checkpoint) for one in asked)
        if not verbose:
            parts |= {"enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(**parts)

    @cached_property
    def _trainer_parser(self) -> OneLineParser:
        parser = OneLineParser(exit_on_error=False)
        parser.add_lightning_class_args(Trainer, "trainer")
        return parser

    def ranks(self) -> int:
        """How many processes of this machine the trainer's settings ask for."""
        devices, strategy = self.config.trainer.devices, str(self.config.trainer.strategy)
        if "ddp" not in strategy and "fsdp" not in strategy:
            return 1
        if isinstance(devices, list):
            return len(devices)
        if str(devices) in ("auto", "-1"):  # all GPUs there are
            return max(1, len(visible_gpus()))
        return int(devices) if str(devices).isdecimal() else 1

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Everything in the configuration that decides the cell's result, for its stamp."""
        method = self.methods[cell.method]
        own: dict[str, Any] = {"bits": cell.bits, "seed": cell.seed}
        own |= {"method": method.path, "init_args": method.init_args}
        if method.is_shallow:
            return own
        trainer = {k: v for k, v in self.facts["trainer"].items() if k not in SHOWN_ONLY}
        data = {k: v for k, v in self.facts["data"]["init_args"].items() if k not in SPEED_ONLY}
        return own | {"trainer": trainer, "data": data}


@dataclass
class Runner:
    """Runs the cells of a plan, one at a time, into a directory; they share a data module."""

    configuration: Configuration
    plan: Plan  # the configuration's, perhaps narrowed
    directory: RunDirectory
    verbose: bool = False  # shows Lightning's progress bars
    profile: bool = False  # the report shows where the time went until then

    def prepare(self) -> None:
        """Extract what is missing, write down what is run, and score the features themselves."""
        self.configuration.evaluation.check()
        self.measures = [named_measure(name) for name in self.plan.measures]
        self.data = self.configuration.datamodule()
        if is_first():
            self.data.prepare_data()
            labels_of(self.data)
        wait_for_all()
        self.data.setup()
        backbone = tuple(getattr(self.data, name) for name in SHARED_WITH_DATA)
        self._data: dict[tuple[Any, ...], RetrievalDataModule] = {backbone: self.data}
        self._constant: dict[int, dict[str, Any]] = {}  # parts of stamps, by data module
        if is_first():
            path = self.directory.path
            sweep(path)
            write_text(path / "config.yaml", self.configuration.resolved)
            precision = self.configuration.config.trainer.precision
            lightning_cli.write_facts(path, self.data.splits, precision, world_size())
            self.directory.take_over()
            if left := self.directory.left_out():
                print(f"{len(left)} cells are of another split or altered: not in results.csv")
            for cell in (REFERENCE, *self.plan.quantiser_cells()):
                self._score_features(cell)
        gc.collect()
        gc.freeze()  # what is here stays, so that a search for garbage takes hundredths of a second

    def run(self, cell: Cell, launch: str | None = None) -> State:
        """Train, encode and score a cell, unless it is finished or another process has it.

        With several ranks all train a learned method together; the first does the rest alone. A
        launch is noted in the cell's ``tries`` until the cell is finished.
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
        return self.directory.finished(cell, self._stamp(cell))

    def _run(self, cell: Cell) -> None:
        seed_everything(cell.seed, workers=True, verbose=False)
        planned = self.configuration.methods[cell.method]
        if not planned.is_shallow:
            self._train(cell, planned.build(cell))
        elif is_first():
            self._fit(cell, planned.build(cell))
        wait_for_all()
        gc.collect()  # a trainer and its model hold each other: tens of MB a cell would pile up

    def _fit(self, cell: Cell, method: ShallowHash) -> None:
        """Fit a shallow method on the train features, encode, score."""
        data = self.data
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
            labels, how = labels_of(data), self.configuration.evaluation
            report = evaluate_codes(
                query, database, labels["query"], labels["database"], cell.bits, self.plan.ks,
                device=how.device, engine=how.engine,
            )  # fmt: skip
        self._keep(cell, report, (query, database), (fitted - start, encoded - fitted))

    def _train(self, cell: Cell, model: HashingModule) -> None:
        """Train a network, save its weights, score what was saved."""
        folder, stamp, data = self.directory.folder(cell), self._stamp(cell), self._data_of(cell)
        if is_first():
            write_text(folder / "config.yaml", self.configuration.cell_config(cell))
            self.directory.begin(cell, stamp)
        wait_for_all()  # others look for a checkpoint to go on from
        facts = stamp | {"config": self.configuration.facts}
        asked = self.configuration.config.trainer.logger
        loggers = cell_loggers(asked, self.directory, cell, facts)
        ks, measures, how = self.plan.ks, self.plan.measures, self.configuration.evaluation
        score = EvaluateRetrieval(ks, measures, how.engine, how.device)
        trainer = self.configuration.trainer(folder, loggers, [score, Figures()], self.verbose)
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
                found = evaluate_model(trainer, model, data, ks, measures, how)
        finally:
            close(loggers)
        if found is not None:  # in the first process
            codes = found.query.codes, found.database.codes
            self._keep(cell, found.report, codes, (seconds, found.encode_seconds))

    def _keep(self, cell: Cell, report: RetrievalReport, codes: Codes, spent: Spent) -> None:
        labels, names = labels_of(self._data_of(cell)), ("query_codes", "database_codes")
        arrays: dict[str, Any] = dict(zip(names, codes, strict=True))
        arrays |= {f"{split}_labels": own for split, own in labels.items()}
        self.directory.save_scored(cell, arrays, report)
        measures = [one for function in self.measures for one in function(report)]
        self.directory.keep(cell, self._stamp(cell), self._rows(cell, measures, spent))

    def _score_features(self, cell: Cell) -> None:
        """Score the cosine ranking of the features, or a product quantiser of them, once."""
        stamp, start = self._stamp(cell), time.perf_counter()
        if self.directory.finished(cell, stamp, has_codes=False):
            return
        labels = labels_of(self.data)
        both, ks = (labels["query"], labels["database"]), self.plan.ks
        query, database = (global_features(self.data, name) for name in labels)
        with clock("evaluation"):
            if cell == REFERENCE:
                values = cosine_map(query, database, both, ks)
            else:
                kind = cast(Quantiser, cell.method.split()[0])
                features = global_features(self.data, "train"), query, database
                values = quantiser_map(kind, cell.bits, features, both, ks)
        seconds = 0.0 if cell == REFERENCE else time.perf_counter() - start
        self.directory.keep(cell, stamp, self._rows(cell, _untied(values), (seconds, 0.0)))

    def score_rankings(self) -> None:
        """Score the plan's other rankings by codes of cells that are finished.

        Raises ``InputError``: a cell's checkpoint is missing.
        """
        for cell, (source, kind) in self.plan.ranking_cells().items():
            folder, data = self.directory.folder(source), self._data_of(source)
            if not self.finished(source):
                continue
            stamp = self._stamp(source)
            stamp |= {"ranking": kind, "codes": sha256_file(folder / "codes.npz")}
            if self.directory.finished(cell, stamp, has_codes=False):
                continue
            start, labels = time.perf_counter(), labels_of(data)
            if not (kept := folder / "last.ckpt").is_file():
                mend = f"remove {folder} and run again, or leave out reproduce.rankings"
                raise InputError(f"{kept} is missing, and other rankings need it; {mend}")
            model = self.configuration.methods[source.method].build(source)
            weights = torch.load(kept, map_location="cpu", weights_only=True)
            model.load_state_dict(weights["state_dict"])
            with clock("evaluation"):
                values = rank(
                    kind, model, (data.features("query"), data.features("database")),
                    self.directory.codes(source), (labels["query"], labels["database"]),
                    self.plan.ks,
                )  # fmt: skip
            rows = self._rows(source, _untied(values), (0.0, time.perf_counter() - start))
            rows = [replace(row, method=cell.method) for row in rows]
            self.directory.keep(cell, stamp, rows)

    def _data_of(self, cell: Cell) -> RetrievalDataModule:
        """The shared data module, unless the cell's model has a backbone of its own."""
        method = self.configuration.methods.get(cell.method)
        if method is None or method.is_shallow:
            return self.data
        given = method.init_args
        own = {name: given.get(name, getattr(self.data, name)) for name in SHARED_WITH_DATA}
        if (wanted := tuple(own.values())) not in self._data:
            self._data[wanted] = self.configuration.datamodule(own)
        return self._data[wanted]

    def _stamp(self, cell: Cell) -> dict[str, Any]:
        """Everything that decides a cell's rows: another stamp means that they are stale."""
        data, planned = self._data_of(cell), cell.method in self.plan.methods
        settings = self.configuration.settings(cell) if planned else {}
        if id(data) not in self._constant:
            features, split = data.feature_keys(), data.splits.fingerprint()
            self._constant[id(data)] = {"features": features, "split": split}
        return {
            "settings": settings | {"ks": list(self.plan.ks), "measures": self.plan.measures},
            **self._constant[id(data)],
            "version": __version__,
        }

    def _rows(self, cell: Cell, measures: Sequence[Measure], spent: Spent) -> list[Result]:
        data = self._data_of(cell)
        splits, peak = data.splits, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        backbone = f"{data.backbone} {'fine-tuned' if data.finetune else 'frozen'}"
        if data.fused:
            backbone = f"{backbone}, fused feature"
        source = splits.protocol.dataset, splits.protocol_name, splits.fingerprint()
        facts = (*source, cell.method, backbone, cell.bits, cell.seed)
        costs = round(spent[0], 2), round(spent[1], 3), round(peak / KIBIBYTES_A_GB, 3)
        found = []
        for one in measures:
            lower = one.value if one.lower is None else one.lower
            upper = one.value if one.upper is None else one.upper
            values = round(one.value, 6), round(lower, 6), round(upper, 6)
            name = one.name, one.cutoff, one.ties, "retrieved"
            found.append(Result(*facts, *name, *values, *costs, __version__))
        return found


def _untied(values: Values) -> list[Measure]:
    """Measures of a ranking without ties."""
    return [Measure("map", k, v, v, v, ties="none") for k, v in values.items()]


def global_features(data: RetrievalDataModule, split: str) -> NDArray[np.float32]:
    """Cached global features of a split, float32 [N, D]."""
    return np.asarray(data.features(split)["global_feature"], dtype=np.float32)


def labels_of(data: RetrievalDataModule) -> dict[str, NDArray[np.bool_]]:
    """Labels of query and database split, bool [N, L]; an InputError where queries have none."""
    splits = data.splits.by_name()
    if "query" not in splits or not splits["query"].labels.shape[1]:
        raise InputError("no labelled queries to score; `udmsh fit` and `predict` need none")
    return {name: splits[name].labels for name in ("query", "database")}
