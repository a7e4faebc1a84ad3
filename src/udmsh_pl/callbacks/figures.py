"""Pictures during training: the semantic structure as a file and in any logger that takes images."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from udmsh_pl.files import atomic_path
from udmsh_pl.models.udmsh import UDMSH
from udmsh_pl.reports.structure import structure_figure


class Figures(Callback):
    """Writes ``structure.png`` beside the logs and sends it to W&B and TensorBoard when they are the logger."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the structure that was just fitted."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks every process, so before any of them returns
        if not trainer.is_global_zero or not isinstance(pl_module, UDMSH) or pl_module.histogram is None:
            return
        figure = structure_figure(pl_module.histogram, pl_module.structure)
        save_figure(figure, folder / "structure.png")
        log_figure(trainer, "structure", figure)


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
