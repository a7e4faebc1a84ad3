"""Collect packed codes from the steps of every process, merge them by row, and write them to a
file.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.files import atomic_path

Codes = NDArray[np.uint8]
SPLITS = ("query", "database")  # the order of the evaluation loaders


class CodeCollector:
    """Packed codes of each evaluation loader, by row of its split."""

    def __init__(self) -> None:
        self._parts: dict[int, list[tuple[NDArray[np.int64], Codes]]] = {}

    def add(self, loader: int, outputs: dict[str, Any]) -> None:
        """Keep one batch: ``outputs`` has ``codes`` uint8 [B, bytes] and ``index`` long [B]."""
        rows = outputs["index"].cpu().numpy()
        self._parts.setdefault(loader, []).append((rows, np.asarray(outputs["codes"])))

    def merge(self) -> dict[int, tuple[NDArray[np.int64], Codes]]:
        """Rows (sorted, each once) and codes of all processes; the distributed sampler repeats rows
        to even the load.
        """
        mine = {
            loader: (
                np.concatenate([rows for rows, _ in parts]),
                np.concatenate([codes for _, codes in parts]),
            )
            for loader, parts in self._parts.items()
        }
        everyone = [mine]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            everyone = [{} for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(everyone, mine)
        merged = {}
        for loader in sorted({loader for part in everyone for loader in part}):
            rows = np.concatenate([part[loader][0] for part in everyone if loader in part])
            codes = np.concatenate([part[loader][1] for part in everyone if loader in part])
            unique, first = np.unique(rows, return_index=True)
            merged[loader] = (unique, codes[first])
        self._parts.clear()
        return merged


class EncodeCodes(Callback):
    """``udmsh predict`` writes ``codes.npz``: ``query_codes``, ``database_codes`` (packed), labels,
    names and ``bits``.

    Args:
        output: file to write; None for ``codes.npz`` in the trainer's ``default_root_dir``
    """

    def __init__(self, output: Path | None = None) -> None:
        self.output = output
        self._collector = CodeCollector()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's codes."""
        self._collector.add(dataloader_idx, outputs)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge by row and write, on one process."""
        merged = self._collector.merge()
        datamodule = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero:
            return
        names = SPLITS if len(merged) == 2 else SPLITS[1:]
        arrays: dict[str, Any] = {"bits": np.int64(int(cast(Any, pl_module).bits))}
        for name, (rows, codes) in zip(names, merged.values(), strict=True):
            arrays[f"{name}_codes"] = codes
            if isinstance(datamodule, RetrievalDataModule):
                images = datamodule.splits.by_name()[name].select(rows)
                arrays[f"{name}_labels"] = images.labels
                arrays[f"{name}_names"] = np.array(images.names)
        target = self.output or Path(trainer.default_root_dir) / "codes.npz"
        save_arrays(target, arrays)
        print(
            f"codes of {', '.join(f'{len(codes):,} {name}' for name, (_, codes) in zip(names, merged.values(), strict=True))}"
            f" images: {target}"
        )


def save_arrays(target: Path, arrays: dict[str, Any]) -> None:
    """Write a compressed ``.npz`` without pickle, whole or not at all.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    try:
        with atomic_path(target) as partial:
            np.savez_compressed(partial, allow_pickle=False, **arrays)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error}); free some room or give another folder"
        ) from error
