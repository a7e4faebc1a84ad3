"""Lightning's command line on our base classes: parsing, links from model to data, saved config."""

import ctypes
import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from udmsh_pl import baselines, data, models
from udmsh_pl.baselines.shallow import METHODS
from udmsh_pl.callbacks import EncodeCodes, EvaluateRetrieval, Figures
from udmsh_pl.callbacks.figures import run_folder
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError, cause_of
from udmsh_pl.images.image_list import Splits
from udmsh_pl.images.usable import split_lines
from udmsh_pl.images.walk import write_skipped
from udmsh_pl.models import HashingModule
from udmsh_pl.reports.environment import write_environment
from udmsh_pl.retrieval.evaluation import Evaluation
from udmsh_pl.runs import checkpoints
from udmsh_pl.runs.plan import Plan
from udmsh_pl.safe.files import sweep
from udmsh_pl.safe.shipped import plan_file

# the cache must hold the features of the model's backbone
SHARED_WITH_DATA = ("backbone", "weights", "finetune", "grid", "fused")
NO_FILES = ("last", "best", "hpc", "registry")  # words that --ckpt_path knows
CONFIG = ("--config", "-c")
CLASSES = {"--model": [*models.__all__, *baselines.__all__], "--data": data.__all__}
SHALLOW = "udmsh_pl.baselines.shallow.Shallow"
LOGGERS = {"WandbLogger": "log", "TensorBoardLogger": "log"}  # in which extra their package is
COMMANDS = ("fit", "validate", "test", "predict")
HELP = (
    "--config NAME|FILE gives a plan's settings, all options below override it. Options of a model "
    "or of a data module depend on which one it is: `--model.help UDMSH` and `--data.help CIFAR10` "
    "list them."
)
PLUGINS = [{"class_path": "udmsh_pl.runs.checkpoints.AtomicCheckpoints"}]


class OneLineParser(LightningArgumentParser):
    """Lightning's parser, but a mistake is one line instead of two screens of usage."""

    def dump(self, *config: Any, **options: Any) -> str:
        """The text of a configuration, which was parsed: a second check would take a tenth of a
        second.
        """
        return str(super().dump(*config, **options | {"skip_validation": True}))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message, cut to the part that names the option."""
        if (mistake := cause_of(ex, InputError)) is not None:
            raise mistake
        raise InputError(f"{one_line(message)}; `--help` lists what there is") from ex


def one_line(message: str) -> str:
    """The part of jsonargparse's message that names the option and says what is wrong."""
    key = re.search(r'Parser key "([^"]+)"', message)
    errors = re.search(r"Errors:\s*- (.*?)(\n\s*Given|$)", message, re.DOTALL)
    if not key or not errors:
        return " ".join(message.split())
    # one problem for each type that the value might have had: what is no class name says more
    problems = re.split(r"\n\s*- ", errors[1])
    problem = next((one for one in problems if not one.startswith("Expected a ")), problems[0])
    if problem.endswith(" is abstract"):  # options alone, as of --data.num_workers, or a base class
        problem = f"no class is chosen; give --{key[1]} NAME (--help lists them)"
    return " ".join(f"{key[1]}: {problem}".split())


class SaveRun(SaveConfigCallback):
    """Writes ``config.yaml`` and ``environment.json`` into the folder of a run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder; Lightning then calls :meth:`save_config` on one process."""
        self.folder = run_folder(trainer)  # asks every process
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write both."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if trainer.loggers:  # else it is the working directory, where others may write
            sweep(self.folder.parent)
        config = self.folder / self.config_filename
        self.parser.save(self.config, str(config), skip_none=False, overwrite=True, multifile=False)
        datamodule = getattr(trainer, "datamodule", None)
        if isinstance(datamodule, RetrievalDataModule):
            facts = datamodule.splits, str(trainer.precision), trainer.world_size
            write_facts(self.folder, *facts)


def write_facts(folder: Path, splits: Splits, precision: Any, world: int) -> None:
    """Write ``environment.json`` and ``skipped.csv`` of a run, and print what its data are."""
    write_environment(folder, splits.fingerprint(), precision, world)
    write_skipped(splits.skipped, folder)
    print("\n".join(split_lines(splits, folder)), flush=True)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: the arrays of a step are as large in the next one.

    By default it returns large ones to the kernel, which clears each page anew: two thirds of the
    time of a step of NSH, which reads the feature maps of two views.
    """
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD, bytes


class UdmshCLI(LightningCLI):
    """LightningCLI with our base classes; any subclass of them can be named in a configuration."""

    def __init__(self, args: Sequence[str], run: bool = True) -> None:
        keep_freed_memory()
        self._arguments = long_form(args)
        # of eight GPUs, one: more are asked for, with --trainer.devices
        defaults = {"plugins": PLUGINS, "devices": 1}
        described = {command: {"description": HELP} for command in self.subcommands()}
        super().__init__(
            HashingModule, RetrievalDataModule, subclass_mode_model=True, subclass_mode_data=True,
            save_config_callback=SaveRun, save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults=defaults, parser_class=OneLineParser, auto_configure_optimizers=False,
            parser_kwargs=described, args=self._arguments, run=run,
        )  # fmt: skip

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for: the parser of each takes a tenth of a second."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in self._arguments[:1] if name in every} or every

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args`` alone (Lightning would warn that ``sys.argv`` is there too)."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the data module the model's backbone, and let a configuration carry a plan."""
        for name in SHARED_WITH_DATA:
            parser.link_arguments(f"model.init_args.{name}", f"data.init_args.{name}")
        parser.add_class_arguments(Plan, "reproduce")
        parser.add_class_arguments(Evaluation, "evaluation")
        note = "validate, test, predict: take random weights where no checkpoint is given"
        parser.add_argument("--untrained", type=bool, default=False, help=note)

    def before_instantiate_classes(self) -> None:
        """Give the trainer our callbacks, which score as the configuration says."""
        command = self.config.get("subcommand")
        own = self.config[command] if command else self.config
        score = EvaluateRetrieval(engine=own.evaluation.engine, device=own.evaluation.device)
        callbacks = [EncodeCodes(), score, Figures()]
        saves = (
            str(one.class_path).endswith("Checkpoint") for one in configs(own.trainer.callbacks)
        )
        if own.trainer.enable_checkpointing is not False and not any(saves):
            # Lightning's own saves only after a validation, which not every epoch has: it may never
            # save, or miss the last epochs
            callbacks.append(ModelCheckpoint(save_on_train_epoch_end=True))
        self.trainer_defaults["callbacks"] = callbacks

    def instantiate_classes(self) -> None:
        """Build the parts, once the loggers' logins are checked."""
        loggers = user_loggers(self._get(self.config, "trainer.logger"))
        for one in loggers:
            check_login(one)
        with extra_named(loggers):
            super().instantiate_classes()

    def before_fit(self) -> None:
        """Let ``--ckpt_path last`` be the run's newest checkpoint; without any it starts anew."""
        if self.config_init.fit.ckpt_path == "last":
            self.config_init.fit.ckpt_path = checkpoints.newest_checkpoint(self.trainer)

    def before_validate(self) -> None:
        """Resolve ``last`` to a file; without one, refuse to score unless ``--untrained``."""
        chosen = self.config_init[self.subcommand]
        if chosen.ckpt_path == "last":
            chosen.ckpt_path = checkpoints.newest_checkpoint(self.trainer)
            if chosen.ckpt_path is not None:
                checkpoints.check_fits(chosen.ckpt_path, self.model)
        if chosen.ckpt_path is None and not chosen.untrained:
            raise InputError(
                f"udmsh {self.subcommand} has no checkpoint to load: give --ckpt_path FILE, or "
                "`last` in the folder of a run; --untrained true takes random weights"
            )

    before_test = before_predict = before_validate

    def _parse_ckpt_path(self) -> None:
        """Take the settings that a checkpoint was trained with, once the file has been checked."""
        command = self.config.get("subcommand")
        path = self.config[command].get("ckpt_path") if command else None
        if path in (None, *NO_FILES):
            return
        given = str(self.config[command].model.class_path)
        checkpoints.check_checkpoint(Path(path), self._arguments, given)
        settings = checkpoints.settings_of(Path(path))
        kind = settings.pop("_class_path", None)
        former = checkpoints.import_class(kind or given, f"--ckpt_path {path}").former_options
        model = {name: value for name, value in settings.items() if name not in former}
        if kind:
            model = {"class_path": kind, "dict_kwargs": model}
        self.config = self.parser.parse_object({command: {"model": model}}, self.config)


def long_form(arguments: Sequence[str]) -> list[str]:
    """A command line as Lightning's parser takes it; three short forms are ours.

    ``--config sample`` names a plan that comes with the package, ``--model ITQ`` the model of a
    shallow method, and ``--ckpt_path FILE`` without ``--config`` and ``--model`` brings the class
    of its model along. An InputError says that there is no such plan, class or checkpoint.
    """
    found: list[str] = []
    has_class, checkpoint = False, ""
    rest = iter(arguments)
    for argument in rest:
        option, sign, value = argument.partition("=")
        if option not in (*CONFIG, *CLASSES, "--model.help", "--ckpt_path"):
            found.append(argument)
            continue
        if not sign and (value := next(rest, "")) == "":
            found.append(argument)
            continue
        has_class = has_class or option in (*CONFIG, "--model")
        method = value
        if option in CONFIG:
            value = str(plan_file(value))
        elif option in ("--model", "--model.help") and value in METHODS:
            value = SHALLOW
        elif option in CLASSES:
            _check_class_name(option, value)
        elif option == "--ckpt_path":
            checkpoint = value
        found += [f"{option}={value}"] if sign else [option, value]
        if option == "--model" and value == SHALLOW != method:
            found += ["--model.method", method]
    if has_class or checkpoint in ("", *NO_FILES):
        return found
    kind = checkpoints.class_of(Path(checkpoint))
    return [*found, "--model", kind] if kind else found


def _check_class_name(option: str, name: str) -> None:
    """Refuse a short name of a model or data module that is none of ours, and name the near one."""
    known = CLASSES[option]
    if name in known or not name.isidentifier():  # dotted paths and files are looked up later
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise InputError(f"{option} {name}: no such class; {hint} (or my_module.MyClass)")


def configs(given: Any) -> list[Namespace]:
    """The classes that a setting names, which takes one, a list of them, or none."""
    every = given if isinstance(given, list) else [given]
    return [one for one in every if isinstance(one, Namespace)]


def user_loggers(given: Any) -> list[Namespace]:
    """The loggers that ``trainer.logger`` names, but for CSV, which every cell has."""
    return [one for one in configs(given) if not one.class_path.endswith("CSVLogger")]


@contextmanager
def extra_named(loggers: Sequence[Namespace]) -> Iterator[None]:
    """Let an error name the extra of the first logger where a package is not installed."""
    try:
        yield
    except (ImportError, ValueError) as error:
        if cause_of(error, ImportError) is None or not loggers:  # the parser wraps what it gets
            raise
        name = str(loggers[0].class_path).rpartition(".")[2]
        extra = LOGGERS.get(name)
        mend = f"pip install 'udmsh-pl[{extra}]'" if extra else "install the package that it names"
        raise InputError(
            f"--trainer.logger {name} needs a package that is not installed; {mend}"
        ) from error


def check_login(logger: Namespace) -> None:
    """Refuse W&B's logger without a login, which would fail after the features are made."""
    options = {**(logger.get("dict_kwargs") or {}), **(logger.get("init_args") or {})}
    mode = options.get("mode") or os.environ.get("WANDB_MODE", "online")
    if not str(logger.class_path).endswith("WandbLogger") or options.get("offline"):
        return
    if mode != "online" or find_spec("wandb") is None:
        return
    import wandb

    try:
        wandb.login()
    except wandb.errors.UsageError as error:
        raise InputError(
            "W&B has no login on this machine: run `wandb login`, or set WANDB_MODE=offline and "
            "send the run later with `wandb sync`"
        ) from error


class ParsedCLI(UdmshCLI):
    """Parses a configuration and builds nothing: whoever runs a plan builds what a cell needs."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _set_seed(self) -> None:
        """Each cell sets its own."""


def instance(base: type, config: Namespace) -> Any:
    """The object of a subclass of ``base`` that a parsed configuration names."""
    parser = OneLineParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "it")
    return instantiate(parser, it=config)


def instantiate(parser: LightningArgumentParser, **config: Any) -> Any:
    """The object of a parsed configuration that has one key."""
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    (built,) = vars(build(namespace(**config))).values()
    return built


def namespace(**values: Any) -> Namespace:
    """A configuration made of ``values``."""
    return Namespace(**values)  # type: ignore[no-untyped-call]
