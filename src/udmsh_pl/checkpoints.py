"""Checkpoints that are whole or absent on any disk, and the newest one of a run."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from udmsh_pl.files import atomic_path


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the target; Lightning's own writes to the system's temporary folder, perhaps
    another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; a kill or a full disk leaves what was there."""
        buffer = io.BytesIO()  # torch's writer would turn a full disk into an error without a cause
        torch.save(checkpoint, buffer)
        with atomic_path(Path(path)) as partial, partial.open("wb") as stream:
            stream.write(buffer.getbuffer())


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """The checkpoint that was written last, among all versions of the run that the trainer's logger
    names.
    """
    logger = trainer.logger
    root = Path((logger.save_dir if logger else None) or trainer.default_root_dir)
    folders = (
        list((root / str(logger.name)).glob("*/checkpoints")) if logger else [root / "checkpoints"]
    )
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            folders.append(Path(callback.dirpath))
    found = [path for folder in folders for path in folder.glob("[!.]*.ckpt")]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
