"""Histograms for loggers: pair distances of the semantic structure, with the two half-Gaussians and
the thresholds, and Hamming distances of queries.
"""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from udmsh_pl.reports.drawing import COLOURS, STYLES
from udmsh_pl.retrieval import RetrievalReport
from udmsh_pl.similarity.structure import BINS, BINS_PER_BAR, SemanticStructure


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
    axes.bar(centres, density, width, color="0.8", label="pairs of train images")
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
    axes.set_xlabel("distance of two train images in the structure")
    axes.set_ylabel("density")
    axes.set_title(title or "Semantic structure of the train set")
    axes.legend(fontsize=8)
    return figure


def distance_figure(report: RetrievalReport) -> Figure:
    """Histogram of Hamming distances from queries to relevant and to other images, each as a share
    of its pairs.
    """
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    relevant, others = report.relevant.sum(0), (report.items - report.relevant).sum(0)
    for name, counts, colour, style in (
        ("a label in common", relevant, COLOURS[0], STYLES[0]),
        ("no label in common", others, COLOURS[1], STYLES[1]),
    ):
        x, shares = range(len(counts)), counts / max(int(counts.sum()), 1)
        axes.step(x, shares, where="mid", label=name, color=colour, linestyle=style)
    axes.set_xlim(0, report.bits)
    axes.set_ylim(0, None)
    axes.set_xlabel("Hamming distance in bits")
    axes.set_ylabel("share of the pairs")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure
