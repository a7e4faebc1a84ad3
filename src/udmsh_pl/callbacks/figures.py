"""Pictures during training: the semantic structure as a file, and what is found in any logger that
takes images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from udmsh_pl.callbacks.evaluate import EvaluateRetrieval
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.files import atomic_path
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.models.udmsh import UDMSH
from udmsh_pl.reports.curves import distance_figure, precision_recall_figure
from udmsh_pl.reports.gallery import gallery_figure
from udmsh_pl.reports.structure import structure_figure

GALLERY_QUERIES = 8


class Figures(Callback):
    """Writes ``structure.png`` beside the logs and sends it to W&B and TensorBoard when they are
    the logger.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the structure that was just fitted."""
        folder = Path(
            trainer.log_dir or trainer.default_root_dir
        )  # asks every process, so before any of them returns
        if (
            not trainer.is_global_zero
            or not isinstance(pl_module, UDMSH)
            or pl_module.histogram is None
        ):
            return
        figure = structure_figure(pl_module.histogram, pl_module.structure)
        save_figure(figure, folder / "structure.png")
        log_figure(trainer, "structure", figure)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what :class:`EvaluateRetrieval` found among the train images; it comes before this
        callback.
        """
        if not trainer.sanity_checking and isinstance(
            data := getattr(trainer, "datamodule", None), RetrievalDataModule
        ):
            rows = data.val_rows()
            self._draw(
                "val",
                trainer,
                lambda: (data.splits.train.select(rows[0]), data.splits.train.select(rows[1])),
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what :class:`EvaluateRetrieval` found for the queries."""
        if isinstance(data := getattr(trainer, "datamodule", None), RetrievalDataModule):
            splits = data.splits.by_name()
            self._draw("test", trainer, lambda: (splits["query"], splits["database"]))

    def _draw(
        self, stage: str, trainer: Trainer, images: Callable[[], tuple[ImageList, ImageList]]
    ) -> None:
        found = next(
            (callback for callback in trainer.callbacks if isinstance(callback, EvaluateRetrieval)),
            None,
        )  # type: ignore[attr-defined]
        takes_images = any(
            isinstance(logger, WandbLogger | TensorBoardLogger) for logger in trainer.loggers
        )
        if not takes_images or not trainer.is_global_zero or found is None or found.report is None:
            return
        query, database = images()
        report, bits = found.report, found.report.bits
        rows = np.linspace(0, len(query) - 1, min(GALLERY_QUERIES, len(query))).astype(int).tolist()
        log_figure(
            trainer, f"{stage}/precision_recall", precision_recall_figure({f"{bits} bits": report})
        )
        log_figure(trainer, f"{stage}/distances", distance_figure(report))
        codes = found.codes["query"], found.codes["database"]
        log_figure(
            trainer, f"{stage}/retrieved", gallery_figure(query, database, *codes, bits, rows)
        )


def save_figure(figure: Figure, target: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=150)


def log_figure(trainer: Trainer, name: str, figure: Figure) -> None:
    """Send a figure to each logger that takes images."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [pixels])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
