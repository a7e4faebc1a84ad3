"""Pictures during training, for loggers that take them: the structure, and what is found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.models.udmsh import UDMSH
from udmsh_pl.reports.curves import precision_recall_chart
from udmsh_pl.reports.drawing import COLOURS, STYLES, figure_of, save_figure
from udmsh_pl.reports.gallery import gallery_figure, gallery_rows
from udmsh_pl.retrieval.evaluation import RetrievalReport
from udmsh_pl.retrieval.torchmetric import Rows
from udmsh_pl.similarity.structure import BINS, BINS_PER_BAR, SemanticStructure


class Figures(Callback):
    """Writes ``structure.png`` beside the logs; W&B and TensorBoard get it too."""

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


def log_retrieval(
    trainer: Trainer, stage: str, report: RetrievalReport, query: Rows, database: Rows
) -> None:
    """Draw what a pass over query and database found, for loggers that take images.

    The rows are of the train split where ``stage`` is ``val``, of query and database for ``test``.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, RetrievalDataModule) or not shows(trainer.loggers):
        return
    splits = data.splits.by_name()
    names = ("train", "train") if stage == "val" else ("query", "database")
    pair = splits[names[0]].select(query.ids), splits[names[1]].select(database.ids)
    codes = query.codes, database.codes
    curve = {f"{report.bits} bits": report.precision_recall_curve()}
    figures = {
        "precision_recall": figure_of(precision_recall_chart(curve)),
        "distances": distance_figure(report),
        "retrieved": gallery_figure(*pair, *codes, report.bits, gallery_rows(len(query.ids))),
    }
    for name, figure in figures.items():
        log_figure(trainer.loggers, f"{stage}/{name}", figure, trainer.global_step)


def run_folder(trainer: Trainer) -> Path:
    """The folder of this run's files alone. All processes must call this.

    Lightning's ``trainer.log_dir`` is the run's own with CSV and TensorBoard, but W&B and
    others share it among runs; there this is the folder of the run's checkpoints.
    """
    logger = trainer.loggers[0] if trainer.loggers else None
    if logger is None or isinstance(logger, CSVLogger | TensorBoardLogger):
        return Path(trainer.log_dir or trainer.default_root_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    path = Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)
    return Path(trainer.strategy.broadcast(str(path)))  # W&B's name of the run is the first's alone


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


def structure_figure(histogram: Tensor, structure: SemanticStructure, title: str = "") -> Figure:
    """Draw the distances' histogram (from ``SemanticStructure.fit``) with what was fitted to it."""
    counts = histogram.view(-1, BINS_PER_BAR).sum(1).numpy().astype(float)
    width = 2 * BINS_PER_BAR / BINS
    density = counts / counts.sum() / width
    centres = (np.arange(len(counts)) + 0.5) * width
    fitted = structure.half_gaussians
    near, far = structure.similar_below, structure.dissimilar_above
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bars = np.arange(len(counts) + 1) * width  # one path: a patch a bar takes a fifth of a second
    axes.stairs(density, bars, fill=True, color="0.8", label="pairs of train images")
    for name, sigma, side, colour in (
        ("left", fitted.sigma_left, -1, "tab:blue"),
        ("right", fitted.sigma_right, 1, "tab:orange"),
    ):
        away = np.linspace(0, 4 * sigma, 200)
        height = density.max() * np.exp(-(away**2) / (2 * sigma**2))
        label = f"{name} half-Gaussian, σ = {sigma:.3f}"
        axes.plot(fitted.mode + side * away, height, color=colour, label=label)
    share = histogram.numpy().cumsum() / max(int(histogram.sum()), 1)
    edges = np.clip([int(near * BINS / 2), int(far * BINS / 2)], 0, BINS - 1)
    axes.axvline(fitted.mode, color="black", linewidth=1, label=f"mode m = {fitted.mode:.3f}")
    similar = f"$d_s$ = {near:.3f}: {share[edges[0]]:.1%} surely similar"
    dissimilar = f"$d_d$ = {far:.3f}: {1 - share[edges[1]]:.1%} surely dissimilar"
    axes.axvline(near, color="tab:green", linestyle="--", label=similar)
    axes.axvline(far, color="tab:red", linestyle="--", label=dissimilar)
    used = centres[counts > 0]
    axes.set_xlim(min(used.min(), near) - 0.05, max(used.max(), far) + 0.05)
    axes.set(xlabel="distance of two train images in the structure", ylabel="density")
    axes.set_title(title or "Semantic structure of the train set")
    axes.legend(fontsize=8)
    return figure


def distance_figure(report: RetrievalReport) -> Figure:
    """Hamming distances from queries to relevant and to other images, as shares of the pairs."""
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    relevant, others = report.relevant.sum(0), (report.items - report.relevant).sum(0)
    for name, counts, colour, style in (
        ("a label in common", relevant, COLOURS[0], STYLES[0]),
        ("no label in common", others, COLOURS[1], STYLES[1]),
    ):
        x, shares = range(len(counts)), counts / max(int(counts.sum()), 1)
        axes.step(x, shares, where="mid", label=name, color=colour, linestyle=style)
    axes.set(xlim=(0, report.bits), ylim=(0, None))
    axes.set(xlabel="Hamming distance in bits", ylabel="share of the pairs")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure
