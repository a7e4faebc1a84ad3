import numpy as np
import pytest
from PIL import Image

from udmsh_pl.reports.curves import (
    map_against_bits_figure,
    precision_at_figure,
    precision_recall_figure,
    save_print,
    tie_interval_figure,
)
from udmsh_pl.retrieval import evaluate_codes, pack_codes


def report(bits, noise, seed=0):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 5, 40), rng.integers(0, 5, 600)
    centres = rng.standard_normal((5, bits))
    codes = [pack_codes(centres[c] + noise * rng.standard_normal((len(c), bits))) for c in classes]
    return evaluate_codes(
        *codes, *(c[:, None] == np.arange(5) for c in classes), bits, ks=(100, None)
    )


@pytest.fixture(scope="module")
def reports():
    return {"sharp": report(32, 0.8), "blurred": report(32, 1.6), "noise": report(32, 20.0)}


def test_precision_recall_is_drawn_as_reported(reports):
    curves = {name: found.precision_recall_curve() for name, found in reports.items()}
    figure = precision_recall_figure(curves, "32 bits")
    lines = figure.axes[0].get_lines()
    precision, recall = reports["sharp"].precision_recall_curve()
    assert np.array_equal(lines[0].get_ydata(), precision[recall > 1e-3])
    assert lines[0].get_xdata()[-1] == pytest.approx(1.0)


def test_methods_differ_without_colour(reports):
    lines = precision_at_figure(reports, (1, 10, 100)).axes[0].get_lines()
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == len(reports)


def test_precision_at_is_drawn_as_reported(reports):
    line = precision_at_figure(reports, (1, 10, 600)).axes[0].get_lines()[1]
    assert list(line.get_ydata()) == [reports["blurred"].precision_at(n) for n in (1, 10, 600)]


def test_error_bars_are_one_standard_deviation_over_seeds():
    figure = map_against_bits_figure({"udmsh": {16: [0.5, 0.7], 64: [0.8]}, "cosine": {0: [0.75]}})
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    spread = np.std([0.5, 0.7], ddof=1)
    assert bars[0][:, 1] == pytest.approx([0.6 - spread, 0.6 + spread])
    assert bars[1][:, 1] == pytest.approx([0.8, 0.8])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cosine", "udmsh"]


def test_tie_interval_runs_from_worst_to_best():
    short, long = report(4, 1.0), report(64, 1.0)
    figure = tie_interval_figure({"udmsh": {4: short, 64: long}}, k=100)
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    for bar, scored in zip(bars, (short, long), strict=True):
        assert bar[:, 1] == pytest.approx([scored.map_worst[100], scored.map_best[100]])


def test_png_and_vector_pdf_are_written(tmp_path, reports):
    curves = {name: found.precision_recall_curve() for name, found in reports.items()}
    save_print(precision_recall_figure(curves), tmp_path / "pr.png")
    with Image.open(tmp_path / "pr.png") as image:
        assert image.size == (1560, 1140)
    content = (tmp_path / "pr.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Subtype /Image" not in content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pr.pdf", "pr.png"]
