"""The folder of a run, whatever logs it."""

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def run_folder(trainer: Trainer) -> Path:
    """Where a run's files go: no other run writes there. All processes must ask.

    Lightning's ``trainer.log_dir`` is the run's own with CSV and TensorBoard, but for W&B and
    others it is the folder of all runs; theirs is where Lightning puts the run's checkpoints.
    """
    logger = trainer.loggers[0] if trainer.loggers else None
    if logger is None or isinstance(logger, CSVLogger | TensorBoardLogger):
        return Path(trainer.log_dir or trainer.default_root_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    path = Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)
    return Path(trainer.strategy.broadcast(str(path)))  # W&B's name of the run is the first's alone
