"""Curves for print: precision against recall, precision against N, mAP against bits, and what ties
leave open.

Every method has a marker and a line style of its own, so that a grey print tells them apart as
colours do.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from udmsh_pl.reports.looks import COLOURS, STYLES, look_of
from udmsh_pl.retrieval import RetrievalReport
from udmsh_pl.retrieval.ties import Float64s
from udmsh_pl.safe.files import atomic_path


def precision_recall_figure(
    curves: Mapping[str, tuple[Float64s, Float64s]], title: str = ""
) -> Figure:
    """Mean precision against mean recall over Hamming radii 0..bits, one curve a method.

    Args:
        curves: method -> (precision, recall), of ``RetrievalReport.precision_recall_curve``
        title: over the axes
    """
    figure, axes = _axes("recall", "precision", title)
    for name, (precision, recall) in curves.items():
        # radii that find next to nothing have a precision of 0 by definition: a spike in a drawing
        shown = recall > 1e-3
        axes.plot(recall[shown], precision[shown], label=name, markevery=0.06, **look_of(name))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    _legend(figure)
    return figure


def precision_at_figure(
    reports: Mapping[str, RetrievalReport], numbers: Sequence[int], title: str = ""
) -> Figure:
    """Mean expected precision among the N nearest against N, one curve a method."""
    figure, axes = _axes("N, images returned", "precision@N", title)
    for name, report in reports.items():
        values = [report.precision_at(n) for n in numbers]
        axes.plot(numbers, values, label=name, **look_of(name))
    axes.set_xlim(0, None)
    _legend(figure)
    return figure


def map_against_bits_figure(
    values: Mapping[str, Mapping[int, Sequence[float]]], ylabel: str = "mAP@ALL", title: str = ""
) -> Figure:
    """mAP against code length: mean over seeds, error bars of one standard deviation.

    Args:
        values: method -> bits -> one value a seed; the key 0 bits is a real-valued ranking, drawn
            as a level line
        ylabel: name of the measure
        title: over the axes
    """
    figure, axes = _axes("code length in bits", ylabel, title)
    for name, by_bits in values.items():
        if 0 in by_bits:
            axes.axhline(float(np.mean(by_bits[0])), color="0.4", linestyle=":", label=name)
        bits = sorted(length for length in by_bits if length)
        if bits:
            means = [float(np.mean(by_bits[b])) for b in bits]
            spreads = [
                float(np.std(by_bits[b], ddof=1)) if len(by_bits[b]) > 1 else 0.0 for b in bits
            ]
            axes.errorbar(
                bits,
                means,
                yerr=spreads,
                label=None if 0 in by_bits else name,
                capsize=3,
                **look_of(name),
            )
    _bit_ticks(axes, sorted({bits for by_bits in values.values() for bits in by_bits if bits}))
    _legend(figure)
    return figure


def distance_figure(report: RetrievalReport, title: str = "") -> Figure:
    """Histogram of Hamming distances from queries to relevant and to other images, each as a share
    of its pairs.
    """
    figure, axes = _axes("Hamming distance in bits", "share of the pairs", title)
    relevant, others = report.relevant.sum(0), (report.items - report.relevant).sum(0)
    for number, (name, counts) in enumerate(
        (("a label in common", relevant), ("no label in common", others))
    ):
        shares = counts / max(int(counts.sum()), 1)
        axes.step(
            np.arange(len(counts)),
            shares,
            where="mid",
            label=name,
            color=COLOURS[number],
            linestyle=STYLES[number],
        )
    axes.set_xlim(0, report.bits)
    axes.set_ylim(0, None)
    _legend(figure)
    return figure


def tie_interval_figure(
    reports: Mapping[str, Mapping[int, RetrievalReport]], k: int | None = None, title: str = ""
) -> Figure:
    """How far the order of tied items alone can move mAP@k: bars from worst to best, the
    expectation marked.

    Args:
        reports: method -> bits -> report; every report holds the cut-off ``k``
        k: cut-off, None for the whole database
        title: over the axes
    """
    figure, axes = _axes("code length in bits", f"mAP@{'ALL' if k is None else k}", title)
    for number, (name, by_bits) in enumerate(reports.items()):
        # side by side: on a logarithmic axis, a factor keeps methods at one length apart
        shift = 1.06 ** (number - (len(reports) - 1) / 2)
        bits = sorted(by_bits)
        means = np.array([by_bits[b].map[k] for b in bits])
        low = means - np.array([by_bits[b].map_worst[k] for b in bits])
        high = np.array([by_bits[b].map_best[k] for b in bits]) - means
        look = look_of(name)
        axes.errorbar(
            [b * shift for b in bits],
            means,
            yerr=np.maximum([low, high], 0.0),
            label=name,
            capsize=3,
            **look,
        )
    _bit_ticks(axes, sorted({bits for by_bits in reports.values() for bits in by_bits}))
    _legend(figure)
    return figure


def save_print(figure: Figure, target: Path) -> None:
    """Write ``target`` as PNG and, beside it, as vector PDF with text that stays text, each whole
    or not at all.
    """
    for suffix in (".png", ".pdf"):
        # type 42: journals refuse the type 3 fonts that Matplotlib embeds otherwise
        with atomic_path(target.with_suffix(suffix)) as partial, rc_context({"pdf.fonttype": 42}):
            figure.savefig(partial, dpi=300)


def _legend(figure: Figure) -> None:
    """Below the axes, where it hides no curve."""
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)


def _bit_ticks(axes: Axes, lengths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(bits) for bits in lengths])
    axes.minorticks_off()


def _axes(xlabel: str, ylabel: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes
