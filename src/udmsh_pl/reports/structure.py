"""A picture of the semantic structure: pair distances, the two half-Gaussians, the thresholds."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

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
    peak = density.max()
    for sigma, side, colour in (
        (fitted.sigma_left, -1, "tab:blue"),
        (fitted.sigma_right, 1, "tab:orange"),
    ):
        x = fitted.mode + side * np.linspace(0, 4 * sigma, 200)
        name = "left" if side < 0 else "right"
        axes.plot(
            x,
            peak * np.exp(-((x - fitted.mode) ** 2) / (2 * sigma**2)),
            color=colour,
            label=f"{name} half-Gaussian, σ = {sigma:.3f}",
        )
    share = histogram.numpy().cumsum() / max(int(histogram.sum()), 1)
    edges = np.clip([int(near * BINS / 2), int(far * BINS / 2)], 0, BINS - 1)
    axes.axvline(fitted.mode, color="black", linewidth=1, label=f"mode m = {fitted.mode:.3f}")
    axes.axvline(
        near,
        color="tab:green",
        linestyle="--",
        label=f"$d_s$ = {near:.3f}: {share[edges[0]]:.1%} surely similar",
    )
    axes.axvline(
        far,
        color="tab:red",
        linestyle="--",
        label=f"$d_d$ = {far:.3f}: {1 - share[edges[1]]:.1%} surely dissimilar",
    )
    used = centres[counts > 0]
    axes.set_xlim(min(used.min(), near) - 0.05, max(used.max(), far) + 0.05)
    axes.set_xlabel("distance of two train images in the structure")
    axes.set_ylabel("density")
    axes.set_title(title or "Semantic structure of the train set")
    axes.legend(fontsize=8)
    return figure
