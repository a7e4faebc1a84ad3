"""Loggers of a plan, one run a cell and one for the table, and a file for what Lightning says."""

import copy
import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table_rows import Cell
from udmsh_pl.runs.lightning_cli import check_login, extra_named, instance, user_loggers
from udmsh_pl.safe.files import sha256_file, write_text

CHATTY = ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning", "py.warnings")
REPORT = "report"  # name of the run that shows the table


def cell_loggers(
    asked: Any, run: RunDirectory, cell: Cell, facts: Mapping[str, Any]
) -> list[Logger]:
    """The CSV log of a cell, and the loggers of ``trainer.logger`` with a run of the cell's own,
    whose config are the cell and facts: settings, features, split, configuration.

    In W&B the run's group is the run directory, its name the cell's; in others what they have.
    """
    own = CSVLogger(str(run.folder(cell)), name="", version="logs")
    others = _build(asked, run.path, cell.name)
    for logger in others:
        logger.log_hyperparams(cell._asdict() | json.loads(json.dumps(facts, default=str)))
    return [own, *others]


def _build(asked: Any, folder: Path, name: str) -> list[Logger]:
    """The loggers that a configuration asks for, each with a run called ``name``."""
    found = []
    for config in copy.deepcopy(user_loggers(asked)):
        _place(config, folder, name)
        with extra_named([config]):
            found.append(instance(Logger, config))
    return found


def _place(config: Namespace, folder: Path, name: str) -> None:
    """Set what a logger calls its folder and its run."""
    kind, arguments = config.class_path.rsplit(".", 1)[-1], config.init_args
    if kind == "WandbLogger":
        check_login(config)
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            wandb.finish()  # a run that this process left open: the cell would go into it
        arguments.name = name
        arguments.save_dir = str(folder.resolve())  # W&B's service has a current folder of its own
        # Lightning passes ``offline`` to W&B by an environment variable, which W&B reads once
        offline = {"mode": "offline"} if arguments.offline else {}
        config.dict_kwargs = {"group": str(folder), **offline, **(config.get("dict_kwargs") or {})}
    elif kind == "TensorBoardLogger":
        arguments.save_dir, arguments.name = str(folder / "tensorboard"), ""
        arguments.version = name
    else:
        for key, value in (("save_dir", str(folder)), ("run_name", name), ("version", name)):
            if key in arguments and arguments[key] is None:
                arguments[key] = value


def close(loggers: Sequence[Logger]) -> None:
    """End the runs, so that the next cell begins one of its own."""
    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.close()


def log_report(asked: Any, run: RunDirectory, table: str, pictures: Sequence[Path]) -> None:
    """Show the table and the run's pictures in a run of their own, once for the same results."""
    stamp, shown = run.path / ".logged", sha256_file(run.results_path)
    if not user_loggers(asked) or (stamp.is_file() and stamp.read_text() == shown):
        return
    loggers = _build(asked, run.path, REPORT)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            rows = [line.split(",") for line in run.results_path.read_text().splitlines()]
            logger.log_table("results", columns=rows[0], data=rows[1:])
            for picture in pictures:
                logger.log_image(picture.stem, [str(picture)])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("table", table)
            for picture in pictures:
                with Image.open(picture, formats=["PNG"]) as image:
                    pixels = np.asarray(image.convert("RGB"))
                logger.experiment.add_image(picture.stem, pixels, dataformats="HWC")
    close(loggers)
    write_text(stamp, shown)


def log_to(path: Path) -> None:
    """Send what Lightning and warnings say to a file instead of the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    for name in CHATTY:
        logger = logging.getLogger(name)
        for former in logger.handlers:
            if isinstance(former, logging.FileHandler):  # of another run of this process
                former.close()
        logger.handlers = [handler]
        logger.propagate = False
