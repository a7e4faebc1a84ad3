"""Write the codes of query and database to a file, each image once, in the order of its split."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning import Callback, LightningModule, Trainer

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.files import save_arrays
from udmsh_pl.retrieval.torchmetric import KINDS, HammingRetrieval


class EncodeCodes(Callback):
    """``udmsh predict`` writes ``codes.npz``: codes, labels and names, and ``bits``.

    ``query_codes`` and ``database_codes`` are packed, uint8 [N, ceil(bits / 8)].

    Args:
        output: file to write; None for ``codes.npz`` in the trainer's ``default_root_dir``
    """

    def __init__(self, output: Path | None = None) -> None:
        self.output = output
        self._metric: HammingRetrieval | None = None

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing seen."""
        self._metric = HammingRetrieval(int(cast(Any, pl_module).bits)).to(pl_module.device)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's codes; a single loader is the database's."""
        if self._metric is not None:
            loaders = trainer.predict_dataloaders
            alone = not isinstance(loaders, list) or len(loaders) == 1
            kind = KINDS[1 if alone else dataloader_idx]
            self._metric.update(outputs["codes"], batch["labels"], outputs["index"], kind)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and write, on one process."""
        if self._metric is None:
            return
        found = self._metric.gather()
        self._metric = None
        if not trainer.is_global_zero:
            return
        datamodule = getattr(trainer, "datamodule", None)
        arrays: dict[str, Any] = {"bits": np.int64(int(cast(Any, pl_module).bits))}
        for kind, rows in found.items():
            arrays[f"{kind}_codes"] = rows.codes
            arrays[f"{kind}_labels"] = rows.labels
            if isinstance(datamodule, RetrievalDataModule):
                images = datamodule.splits.by_name()[kind]
                arrays[f"{kind}_names"] = np.array([images.names[row] for row in rows.ids.tolist()])
        target = self.output or Path(trainer.default_root_dir) / "codes.npz"
        save_arrays(target, arrays)
        counts = ", ".join(f"{len(rows.ids):,} {kind}" for kind, rows in found.items())
        print(f"codes of {counts} images: {target}")
