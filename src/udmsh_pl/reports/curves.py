"""Curves for print: precision against recall, precision against N, mAP against bits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from udmsh_pl.files import atomic_path
from udmsh_pl.retrieval import RetrievalReport

Floats = NDArray[np.float64]
# distinct in grey as well as in colour
MARKERS = "osD^vP*X<>"


def precision_recall_figure(reports: Mapping[str, RetrievalReport], title: str = "") -> Figure:
    """Mean precision against mean recall over Hamming radii 0..bits, one curve a method (empty lookups count 0)."""
    figure, axes = _axes("recall", "precision", title)
    for number, (name, report) in enumerate(reports.items()):
        precision, recall = report.precision_recall_curve()
        # radii that find next to nothing have a precision of 0 by definition and would draw a spike
        shown = recall > 1e-3
        axes.plot(recall[shown], precision[shown], label=name, marker=MARKERS[number % len(MARKERS)], **_LINE)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.legend()
    return figure


def precision_at_figure(reports: Mapping[str, RetrievalReport], numbers: Sequence[int], title: str = "") -> Figure:
    """Mean precision among the N nearest against N, one curve a method."""
    figure, axes = _axes("N, images returned", "precision@N", title)
    for number, (name, report) in enumerate(reports.items()):
        values = [report.precision_at(n) for n in numbers]
        axes.plot(numbers, values, label=name, marker=MARKERS[number % len(MARKERS)], **_LINE)
    axes.legend()
    return figure


def map_against_bits_figure(
    values: Mapping[str, Mapping[int, Sequence[float]]], ylabel: str = "mAP@ALL", title: str = ""
) -> Figure:
    """mAP against code length: mean over seeds, error bars of one standard deviation.

    Args:
        values: method -> bits -> one value a seed; the key 0 bits is a real-valued ranking, drawn as a level line
        ylabel: name of the measure
        title: over the axes
    """
    figure, axes = _axes("code length in bits", ylabel, title)
    lengths = sorted({bits for by_bits in values.values() for bits in by_bits if bits})
    for number, (name, by_bits) in enumerate(values.items()):
        if 0 in by_bits:
            axes.axhline(float(np.mean(by_bits[0])), color="0.4", linestyle=":", label=name)
            continue
        bits = sorted(by_bits)
        means = [float(np.mean(by_bits[b])) for b in bits]
        spreads = [float(np.std(by_bits[b], ddof=1)) if len(by_bits[b]) > 1 else 0.0 for b in bits]
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(bits, means, yerr=spreads, label=name, marker=marker, capsize=3, **_LINE)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(bits) for bits in lengths])
    axes.minorticks_off()
    axes.legend()
    return figure


def save_print(figure: Figure, target: Path) -> None:
    """Write ``target`` as PNG and, beside it, as vector PDF, each whole or not at all."""
    for suffix in (".png", ".pdf"):
        with atomic_path(target.with_suffix(suffix)) as partial:
            figure.savefig(partial, dpi=200)


_LINE: dict[str, float] = {"markersize": 4.0, "linewidth": 1.4}


def _axes(xlabel: str, ylabel: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes
