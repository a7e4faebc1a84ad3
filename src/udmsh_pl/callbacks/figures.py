"""Pictures during training, for loggers that take them: the structure, and what is found."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from udmsh_pl.callbacks.evaluate import EvaluateRetrieval
from udmsh_pl.callbacks.run_folder import run_folder
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.models.udmsh import UDMSH
from udmsh_pl.reports.curves import precision_recall_chart
from udmsh_pl.reports.drawing import figure_of, save_figure
from udmsh_pl.reports.gallery import gallery_figure, gallery_rows
from udmsh_pl.reports.histograms import distance_figure, structure_figure


class Figures(Callback):
    """Writes ``structure.png`` beside the logs; W&B and TensorBoard get all pictures."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the structure that was just fitted."""
        # asks every process, so before any of them returns
        folder = run_folder(trainer)
        if not trainer.is_global_zero or not isinstance(pl_module, UDMSH):
            return
        if pl_module.histogram is not None:
            figure = structure_figure(pl_module.histogram, pl_module.structure)
            save_figure(figure, folder / "structure.png")
            log_figure(trainer.loggers, "structure", figure, trainer.global_step)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what :class:`EvaluateRetrieval`, which comes before, found among train images."""
        if not trainer.sanity_checking:
            self._draw("val", trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what :class:`EvaluateRetrieval` found for the queries."""
        self._draw("test", trainer)

    def _draw(self, stage: str, trainer: Trainer) -> None:
        data = getattr(trainer, "datamodule", None)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        scored = next((one.scored for one in callbacks if isinstance(one, EvaluateRetrieval)), None)
        if (
            scored is None
            or not isinstance(data, RetrievalDataModule)
            or not shows(trainer.loggers)
        ):
            return
        splits = data.splits.by_name()
        names = ("train", "train") if stage == "val" else ("query", "database")
        query = splits[names[0]].select(scored.query.ids)
        database = splits[names[1]].select(scored.database.ids)
        report, codes = scored.report, (scored.query.codes, scored.database.codes)
        curve = {f"{report.bits} bits": report.precision_recall_curve()}
        rows = gallery_rows(len(query))
        for name, figure in (
            ("precision_recall", figure_of(precision_recall_chart(curve))),
            ("distances", distance_figure(report)),
            ("retrieved", gallery_figure(query, database, *codes, report.bits, rows)),
        ):
            log_figure(trainer.loggers, f"{stage}/{name}", figure, trainer.global_step)


def shows(loggers: Sequence[Logger]) -> bool:
    """Whether one of the loggers takes images."""
    return any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in loggers)


def log_figure(loggers: Sequence[Logger], name: str, figure: Figure, step: int) -> None:
    """Send a figure to each logger that takes images."""
    if not shows(loggers):
        return
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [pixels])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")
