"""The command ``udmsh``: Lightning's subcommands on our base classes, and our own beside them."""

import argparse
import errno
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)

from udmsh_pl.callbacks import EncodeCodes, EvaluateRetrieval, Figures
from udmsh_pl.checkpoints import newest_checkpoint
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.models import HashingModule
from udmsh_pl.reports.environment import write_environment

SHARED_WITH_DATA = (
    "backbone",
    "weights",
    "finetune",
    "grid",
)  # the cache must hold the features of the model's backbone
LIGHTNING = ("fit", "validate", "test", "predict")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class ReproducePlan:
    """What ``udmsh reproduce`` runs; the Lightning subcommands ignore it.

    Args:
        bits: code lengths
        seeds: seeds; a table shows mean and spread over them
        ks: cut-offs of mAP; null is the whole database
        methods: name in the table -> ``class_path`` and ``init_args`` of a method; null is the
            configuration's own model
    """

    bits: list[int] = field(default_factory=lambda: [16, 32, 64])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    ks: list[int | None] = field(default_factory=lambda: [1000, None])
    methods: dict[str, dict[str, Any] | None] = field(default_factory=lambda: {"udmsh": None})


class OneLineParser(LightningArgumentParser):
    """Lightning's parser, but a mistake is one line instead of two screens of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message, cut to the part that names the option."""
        cause = _input_error(ex)
        if cause is not None:
            raise cause
        key = re.search(r'Parser key "([^"]+)"', message)
        problem = re.search(r"Errors:\s*- (.*?)(\n\s*- Expected|\n\s*Given|$)", message, re.DOTALL)
        text = f"{key[1]}: {problem[1]}" if key and problem else message
        raise InputError(f"{' '.join(text.split())}; `--help` lists what there is") from ex


class SaveRun(SaveConfigCallback):
    """Writes ``config.yaml`` and ``environment.json`` into the folder of a run's logs."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write both, on one process."""
        super().setup(trainer, pl_module, stage)
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks every process
        datamodule = getattr(trainer, "datamodule", None)
        if trainer.is_global_zero and isinstance(datamodule, RetrievalDataModule):
            write_environment(folder, datamodule)


class UdmshCLI(LightningCLI):
    """LightningCLI with our base classes; any subclass of them can be named in a configuration."""

    def __init__(self, args: Sequence[str], run: bool = True) -> None:
        super().__init__(
            HashingModule,
            RetrievalDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRun,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "callbacks": [EncodeCodes(), EvaluateRetrieval(), Figures()],
                "plugins": [{"class_path": "udmsh_pl.checkpoints.AtomicCheckpoints"}],
            },
            parser_class=OneLineParser,
            auto_configure_optimizers=False,
            args=list(args),
            run=run,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args`` alone (Lightning would warn that ``sys.argv`` is there too)."""
        self.config = parser.parse_args(cast("list[str]", args))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the data module the model's backbone, and let a configuration carry a plan for
        ``reproduce``.
        """
        for name in SHARED_WITH_DATA:
            parser.link_arguments(f"model.init_args.{name}", f"data.init_args.{name}")
        parser.add_class_arguments(ReproducePlan, "reproduce")

    def before_fit(self) -> None:
        """Let ``--ckpt_path last`` be the newest checkpoint of the run's folder; without any the
        run starts anew.
        """
        if self.config_init.fit.ckpt_path == "last":
            self.config_init.fit.ckpt_path = newest_checkpoint(self.trainer)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake of the user ends with one line on stderr and status 2."""
    arguments = list(sys.argv[1:] if args is None else args)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    warnings.filterwarnings(
        "ignore", message=".*LeafSpec.*"
    )  # Lightning against a newer torch; nothing a user can mend
    command = arguments[0] if arguments else "--help"
    try:
        status = _OWN[command](arguments[1:]) if command in _OWN else _lightning(arguments)
    except ValueError as error:
        cause = _input_error(error)
        if cause is None:
            raise
        message = (
            str(cause).rsplit("InputError: ", 1)[-1].strip()
        )  # a data worker's error arrives with its traceback
        print(f"udmsh: error: {message}", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # `udmsh table runs/x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = error.filename or "a log of the run"
        print(
            f"udmsh: error: {where} cannot be written ({error.strerror}); free some room and run "
            "again",
            file=sys.stderr,
        )
        status = 2
    sys.exit(status)


def _input_error(error: BaseException | None) -> InputError | None:
    """The user's mistake behind an exception, if there is one: jsonargparse wraps what a
    constructor raises.
    """
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def _lightning(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if arguments[0] == "--version":
        from udmsh_pl import __version__

        print(f"udmsh {__version__}")
        return 0
    if arguments[0] not in LIGHTNING:
        raise InputError(f"no command {arguments[0]!r}; there are {', '.join([*LIGHTNING, *_OWN])}")
    UdmshCLI(arguments)
    return 0


def _reproduce(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "udmsh reproduce", description="Train, score and report every method of a plan."
    )
    parser.add_argument("config", type=Path, help="a yaml of experiments/")
    parser.add_argument("--bits", type=int, nargs="+", help="code lengths instead of the plan's")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds instead of the plan's")
    parser.add_argument("--methods", nargs="+", help="only these methods of the plan")
    parser.add_argument("--out", type=Path, help="run directory (default: runs/<name of the yaml>)")
    own, overrides = parser.parse_known_args(arguments)
    from udmsh_pl.reproduce import reproduce

    out = own.out or Path("runs") / own.config.stem
    reproduce(own.config, out, own.bits, own.seeds, own.methods, overrides)
    return 0


def _table(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "udmsh table", description="Print the table of a run directory."
    )
    parser.add_argument("run", type=Path, help="a directory with results.csv")
    parser.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown")
    own = parser.parse_args(arguments)
    from udmsh_pl.reports.table import read_results, render_table

    print(render_table(read_results(own.run / "results.csv"), own.format))
    return 0


def _data(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "udmsh data", description="Check a benchmark's images and lists, or export its split."
    )
    parser.add_argument("action", choices=("check", "split"))
    parser.add_argument(
        "config", type=Path, help="a yaml of experiments/; --data.* overrides go after it"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="check: processes that decode"
    )
    parser.add_argument(
        "--write", type=Path, help="split: directory for query.txt, train.txt and database.txt"
    )
    own, overrides = parser.parse_known_args(arguments)
    from udmsh_pl.commands.data import run_check, run_split

    datamodule = UdmshCLI(["--config", str(own.config), *overrides], run=False).datamodule
    datamodule.download()
    if own.action == "check":
        return run_check(datamodule.splits, own.workers)
    if own.write is None:
        raise InputError("udmsh data split needs --write DIRECTORY")
    return run_split(datamodule.splits, own.write)


def _evaluate(arguments: list[str]) -> int:
    from udmsh_pl.commands import evaluate

    parser = argparse.ArgumentParser(
        "udmsh evaluate", description="Score codes that come from anywhere."
    )
    evaluate.add_arguments(parser)
    return evaluate.run(parser.parse_args(arguments))


_OWN: dict[str, Callable[[list[str]], int]] = {
    "reproduce": _reproduce,
    "table": _table,
    "data": _data,
    "evaluate": _evaluate,
}

_HELP = """usage: udmsh COMMAND ...

  reproduce experiments/X.yaml   train, score and report every method of a plan (--bits, --seeds,
  --methods, --out) table runs/X                   print a run's table (--format markdown|csv|latex)
  data check|split X.yaml        check a benchmark's images and lists; export its split
  evaluate                       score codes that come from anywhere
  fit|validate|test|predict      Lightning's subcommands: --config experiments/X.yaml and any
  --trainer.*, --model.*, --data.*

Each command has --help."""
