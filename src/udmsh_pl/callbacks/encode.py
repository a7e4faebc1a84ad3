"""Write the codes of query and database to a file, each image once, in the order of its split."""

import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning import Callback, LightningModule, Trainer

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.torchmetric import KINDS, HammingRetrieval
from udmsh_pl.safe.files import save_arrays


class EncodeCodes(Callback):
    """``udmsh predict`` writes codes, labels and names, and ``bits``, to ``output``; None is
    ``codes.npz`` in the trainer's ``default_root_dir``.

    ``query_codes`` and ``database_codes`` are packed, uint8 [N, ceil(bits / 8)]. Codes of other
    images are never overwritten; those of the same images, by other weights, are.
    """

    def __init__(self, output: Path | None = None) -> None:
        self.output = output
        self._metric: HammingRetrieval | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise ``InputError``, before anything is encoded, if codes of other images are there."""
        data, target = getattr(trainer, "datamodule", None), self._target(trainer)
        if stage != "predict" or not isinstance(data, RetrievalDataModule):
            return
        if target.exists() and _split_of(target) != data.splits.fingerprint():
            mend = "move it away, or give another folder with --trainer.default_root_dir"
            raise InputError(f"{target} holds codes of other images; {mend}")

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing seen."""
        self._metric = HammingRetrieval(int(cast(Any, pl_module).bits)).to(pl_module.device)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
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
        data = getattr(trainer, "datamodule", None)
        splits = data.splits if isinstance(data, RetrievalDataModule) else None
        arrays: dict[str, Any] = {"bits": np.int64(int(cast(Any, pl_module).bits))}
        if splits:
            arrays["split_sha256"] = np.array(splits.fingerprint())
        for kind, rows in found.items():
            arrays |= {f"{kind}_codes": rows.codes, f"{kind}_labels": rows.labels}
            if splits:
                names = splits.by_name()[kind].names
                arrays[f"{kind}_names"] = np.array([names[row] for row in rows.ids.tolist()])
        target = self._target(trainer)
        save_arrays(target, arrays)
        counts = ", ".join(f"{len(rows.ids):,} {kind}" for kind, rows in found.items())
        print(f"codes of {counts} images: {target}")

    def _target(self, trainer: Trainer) -> Path:
        return self.output or Path(trainer.default_root_dir) / "codes.npz"


def _split_of(path: Path) -> str:
    """The fingerprint of the lists whose codes a file holds, "" where it does not say."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays["split_sha256"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return ""
