"""An experiment: a parsed configuration, and what it builds for each cell of its plan."""

import copy
import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import ArgumentError
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger

from udmsh_pl.baselines import ShallowHash
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.runs.checkpoints import import_class
from udmsh_pl.runs.lightning_cli import (
    SHARED_WITH_DATA,
    OneLineParser,
    ParsedCLI,
    instantiated,
    namespace,
    one_line,
)
from udmsh_pl.models import HashingModule
from udmsh_pl.reports.results import Cell
from udmsh_pl.runs.plan import Plan
from udmsh_pl.retrieval.engine import Evaluation
from udmsh_pl.runs.parallel import visible_gpus

# what changes how a run is shown or how fast it goes, but no result
SHOWN_ONLY = ("logger", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
SPEED_ONLY = ("cache_dir", "num_workers")


@dataclass(frozen=True)
class Experiment:
    """A configuration and a plan, parsed and checked; nothing is built before it is asked for.

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
    def parse(cls, source: Path, overrides: Sequence[str] = ()) -> "Experiment":
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
        experiment = cls(source, cli, plan, overrides=tuple(overrides))
        for name in plan.methods:
            experiment.kinds[name] = experiment._kind(name)
        return experiment

    @cached_property
    def resolved(self) -> str:
        """The whole configuration as yaml, defaults included."""
        text: str = self.cli.parser.dump(self.cli.config, skip_link_targets=False)
        return text

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
        kind = self.kinds[cell.method]
        # so that `udmsh predict --ckpt_path` knows what to build
        model.save_hyperparameters({"_class_path": f"{kind.__module__}.{kind.__qualname__}"})
        return model

    def cell_config(self, cell: Cell) -> str:
        """The yaml with which ``udmsh fit`` trains just this cell."""
        config = copy.deepcopy(self.cli.config)
        kind, init_args = self.kinds[cell.method], self._init_args(cell.method)
        config.model = namespace(
            class_path=f"{kind.__module__}.{kind.__qualname__}",
            init_args=namespace(**init_args, bits=cell.bits),
        )
        config.seed_everything = cell.seed
        text: str = self.cli.parser.dump(config, skip_validation=True)
        return text

    def trainer(
        self, root: Path, loggers: Sequence[Logger], callbacks: Sequence[Callback], verbose: bool
    ) -> Trainer:
        """A trainer of its own, with the configuration's settings and these callbacks too."""
        parser = OneLineParser(exit_on_error=False)
        parser.add_lightning_class_args(Trainer, "trainer")
        settings = copy.deepcopy(self.cli.config.trainer)
        settings.logger = None
        settings = dict(instantiated(parser, namespace(trainer=settings)).trainer)
        asked = settings.get("callbacks") or []
        asked = asked if isinstance(asked, list) else [asked]
        settings["callbacks"] = [*asked, *callbacks]
        settings["logger"] = list(loggers)
        settings["default_root_dir"] = str(root)
        # only what the user asks for: Lightning would keep the last step too, beside last.ckpt
        settings["enable_checkpointing"] = any(isinstance(one, Checkpoint) for one in asked)
        if not verbose:
            settings["enable_progress_bar"] = False
            settings["enable_model_summary"] = False
        return Trainer(**settings)

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
        whole = yaml.safe_load(self.resolved)
        trainer = {k: v for k, v in whole["trainer"].items() if k not in SHOWN_ONLY}
        data = {k: v for k, v in whole["data"]["init_args"].items() if k not in SPEED_ONLY}
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
        taken, wanted = (
            inspect.signature(self.kinds[name]).parameters,
            ("backbone", "weights", "grid"),
        )
        shared = {key: base[key] for key in wanted if key in base and key in taken}
        return {**shared, **own}

    def _build(self, name: str, own: dict[str, Any]) -> Any:
        where = f"{self.source}: method {name!r}"
        parser = OneLineParser(exit_on_error=False)
        known = parser.add_class_arguments(self.kinds[name], "method")
        settings = self._init_args(name) | own
        options = [option.removeprefix("method.") for option in known]
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
