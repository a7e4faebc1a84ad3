"""Charts: their values are those of the run, and both renderers draw the same places."""

import re

import numpy as np
import pytest
import yaml
from PIL import Image

from udmsh_pl.reports.curves import Chart, Line, Point, measure_charts, precision_recall_chart
from udmsh_pl.reports.drawing import (
    COLOURS,
    KNOWN,
    MARKERS,
    SvgAxes,
    figure_of,
    marker_path,
    save_print,
    style_of,
)
from udmsh_pl.reports.table_rows import Result
from udmsh_pl.retrieval import evaluate_codes, pack_codes
from udmsh_pl.safe.shipped import plans


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


def curves_of(reports):
    return {name: found.precision_recall_curve() for name, found in reports.items()}


def row(method, bits, seed, value):
    return Result(
        "toy", "p", "0" * 64, method, "backbone", bits, seed, "map", "all", "expected", "retrieved",
        value, value - 0.01, value + 0.01, 1.0, 0.1, 1.5, "0",
    )  # fmt: skip


def test_precision_recall_is_drawn_as_reported(reports):
    figure = figure_of(precision_recall_chart(curves_of(reports), "32 bits"))
    lines = figure.axes[0].get_lines()
    precision, recall = reports["sharp"].precision_recall_curve()
    assert np.array_equal(lines[0].get_ydata(), precision[recall > 1e-3])
    assert lines[0].get_xdata()[-1] == pytest.approx(1.0)
    assert figure.axes[0].get_title() == "32 bits"


def test_methods_differ_without_colour(reports):
    lines = figure_of(precision_recall_chart(curves_of(reports))).axes[0].get_lines()
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == len(reports)


def test_error_bars_are_one_standard_deviation_over_seeds():
    rows = [row("udmsh", 16, 0, 0.5), row("udmsh", 16, 1, 0.7), row("udmsh", 64, 0, 0.8)]
    chart = measure_charts([*rows, row("cosine", 0, 0, 0.75)])["mAP@ALL"]
    figure = figure_of(chart)
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    spread = np.std([0.5, 0.7], ddof=1)
    assert bars[0][:, 1] == pytest.approx([0.6 - spread, 0.6 + spread])
    assert bars[1][:, 1] == pytest.approx([0.8, 0.8])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"cosine", "udmsh"}
    (line,) = [line for line in chart.lines if not line.level]
    assert line.points[0].note.endswith("0.600 ± 0.141\nties: 0.590 to 0.610")


@pytest.mark.parametrize("powers", [(), (16, 32, 64)])
def test_both_renderers_draw_the_same_places(powers):
    xs = powers or (0.0, 0.25, 1.0)
    points = [Point(x, 0.2 + 0.1 * number, "") for number, x in enumerate(xs)]
    chart = Chart("", "x", "y", [Line("itq", points)], powers)
    figure, svg = figure_of(chart), SvgAxes(chart)
    axes = figure.axes[0]
    drawn = axes.get_lines()[0].get_xydata()
    assert drawn.tolist() == [[point.x, point.y] for point in points]
    figure.draw_without_rendering()
    places = axes.transData.transform(drawn)
    numbers = re.findall(r"[\d.]+", svg.path(chart.lines[0]))
    ours = np.array(numbers, float).reshape(-1, 2)
    for side, sign in ((0, 1), (1, -1)):  # up to a scale, and SVG counts from above
        shares = (places[:, side] - places[0, side]) / np.ptp(places[:, side])
        assert sign * (ours[:, side] - ours[0, side]) / np.ptp(ours[:, side]) == pytest.approx(
            shares, abs=2e-3
        )


def test_every_marker_has_a_shape_of_its_own_around_its_place():
    shapes = {marker: marker_path(marker, 50, 50) for marker in MARKERS}
    assert len(set(shapes.values())) == len(MARKERS)
    for marker in set(MARKERS) - {"o"}:
        places = np.array(re.findall(r"[\d.]+", shapes[marker]), float).reshape(-1, 2)
        assert np.abs(places - 50).max() < 4.3
        assert places.mean(0) == pytest.approx([50, 50], abs=0.1)


def test_what_is_most_often_compared_has_a_colour_of_its_own():
    colours = [style_of(method)["color"] for method in KNOWN[: len(COLOURS)]]
    assert len(set(colours)) == len(colours) == 12
    assert {"udmsh", "udmsh-plus", "itq", "lsh", "pcah", "sh"} <= set(KNOWN[: len(COLOURS)])


def test_all_methods_differ_without_colour():
    styles = {(style_of(one)["linestyle"], style_of(one)["marker"]) for one in KNOWN}
    assert len(styles) == len(KNOWN)


def test_methods_of_the_comparison_are_known():
    named = yaml.safe_load(plans()["compare"].read_text())["reproduce"]["methods"]
    assert {name for name in named if "(" not in name} <= set(KNOWN)  # but for upper bounds


def test_a_foreign_method_has_the_style_of_its_name():
    assert style_of("mine") == style_of("mine") != style_of("yours")


def test_png_and_vector_pdf_are_written(tmp_path, reports):
    save_print(figure_of(precision_recall_chart(curves_of(reports))), tmp_path / "pr.png")
    with Image.open(tmp_path / "pr.png") as image:
        assert image.size == (1560, 1140)
    content = (tmp_path / "pr.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Subtype /Image" not in content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pr.pdf", "pr.png"]
