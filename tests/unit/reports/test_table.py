"""Tables: columns, costs, and a lead that is as sure as it says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table import lead_matrices, leads, render_costs, render_leads, render_tables
from udmsh_pl.reports.table_rows import COLUMNS, Cell, Result, read_results, write_results
from udmsh_pl.retrieval import evaluate_codes, pack_codes
from udmsh_pl.runs.plan import Plan


def result(method: str, seed: int, value: float, bits: int = 16, seconds: float = 1.0) -> Result:
    return Result(
        "toy", "p", "0" * 64, method, "backbone", bits, seed, "map", "10", "expected", "retrieved",
        value, value, value, seconds, seconds / 10, 1.5, "0",
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [result("a", 0, 0.25), result("b", 1, 0.5)]
    write_results(tmp_path / "results.csv", rows)
    assert read_results(tmp_path / "results.csv") == rows


@pytest.mark.parametrize(("second", "bold"), [(0.30, False), (0.60, True)])
def test_bold_is_a_lead_beyond_both_spreads(second: float, bold: bool) -> None:
    rows = [
        result("a", 0, 0.2),
        result("a", 1, 0.3),
        result("b", 0, second),
        result("b", 1, second + 0.05),
    ]
    assert ("**" in render_tables(rows)) is bold


@pytest.mark.parametrize(("third", "bold"), [((0.1, 0.7), False), ((0.39, 0.41), True)])
def test_a_third_method_whose_spread_reaches_the_best_prevents_bold(
    third: tuple[float, float], bold: bool
) -> None:
    rows = [result("a", seed, 0.6) for seed in (0, 1)]
    rows += [result("b", seed, 0.5) for seed in (0, 1)]
    rows += [result("c", seed, value) for seed, value in enumerate(third)]
    assert ("**" in render_tables(rows)) is bold


def test_what_learns_from_labels_stands_below_and_is_compared_with_nothing() -> None:
    rows = [
        result("b (labels)", 0, 0.9),
        result("b (labels)", 1, 0.9),
        *(
            result(method, seed, value)
            for method, value in (("a", 0.6), ("c", 0.2))
            for seed in (0, 1)
        ),
    ]
    lines = render_tables(rows).splitlines()
    assert [line.split(" |")[0] for line in lines[2:5]] == ["| a", "| c", "| b (labels)"]
    assert ["**" in line for line in lines[2:5]] == [True, False, False]
    assert "upper bound" in lines[-1]
    assert "upper bound" not in render_tables(rows[2:])


def test_costs_are_means_over_cells() -> None:
    table = render_costs(
        [
            result("a", 0, 0.2, seconds=2),
            result("a", 1, 0.2, seconds=4),
            result("cosine", 0, 0.3, bits=0),
        ]
    )
    assert "| a | 3.0 | 0.30 |" in table
    assert "cosine" not in table
    assert "1.50 GB" in table


def test_lead_is_the_mean_difference_of_the_two_best(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.eye(4, dtype=bool)[np.arange(40) % 4]
    values, run = {}, RunDirectory(tmp_path)
    for method, noise in (("good", 0.4), ("fair", 0.9), ("poor", 4.0)):
        for seed in (0, 1):
            centres = np.random.default_rng(9).choice([-1.0, 1.0], (4, 16))
            codes = pack_codes(
                (labels @ centres + noise * generator.standard_normal((40, 16))).astype(np.float32)
            )
            report = evaluate_codes(codes[:15], codes[15:], labels[:15], labels[15:], 16, ks=[10])
            arrays = {"query_codes": codes[:15], "database_codes": codes[15:]}
            run.save_scored(Cell(method, 16, seed), arrays, report)
            values[method, seed] = report.map[10]
    methods = dict.fromkeys(("poor", "good", "fair"))
    [table] = render_leads(leads(run, Plan([16], [0, 1], [10], methods)))
    lead = np.mean([values["good", s] - values["fair", s] for s in (0, 1)])
    assert f"| mAP@10, 16 bits | good | fair | {lead:+.3f} |" in table
    assert leads(run, Plan([16], [0], [10], {"good": None})) == []
    [(title, rows)] = lead_matrices(run, Plan([16], [0, 1], [10], methods), 16)
    assert title == "mAP@10, 16 bits"
    assert rows[0] == ("", "good", "fair", "poor")
    assert rows[1][0] == "good"
    assert rows[1][2].strip("*") == f"{lead:+.3f}".replace("0.", ".")
    assert rows[2][1].strip("*") == f"{-lead:+.3f}".replace("0.", ".")


def test_a_wide_table_becomes_one_a_code_length() -> None:
    ks = ("1", "10", "100", "1000", "all")
    rows = [
        replace(result(method, 0, value + bits / 1000, bits), k=k)
        for method, value in (("cosine", 0.1), ("b", 0.3))
        for bits in ((0,) if method == "cosine" else (16, 32))
        for k in ks
    ]
    first, second, notes = render_tables(rows).split("\n\n")
    assert first.splitlines()[0].startswith("| method | mAP@1, 16 bits | mAP@10, 16 bits |")
    assert first.splitlines()[0].endswith("| mAP@ALL, 16 bits |")
    assert "0.316" in first
    assert "0.332" in second
    assert "0.100" in first.splitlines()[2]  # the cosine has no code length: it is in both
    assert "0.100" in second.splitlines()[2]
    assert "Expected mAP" in notes
    [narrow, _] = render_tables(rows, ks=["1", "all"]).split("\n\n")
    assert narrow.splitlines()[0].count("bits") == 4
    assert render_tables(rows, "csv").splitlines()[0].count("bits") == 10


def test_other_measures_are_columns_behind_map() -> None:
    rows = [result("a", 0, 0.2), replace(result("a", 0, 0.4), metric="ndcg", k="100")]
    assert render_tables(rows).splitlines()[0] == "| method | mAP@10, 16 bits | NDCG@100, 16 bits |"
    assert "NDCG" not in render_tables(rows, ks=["10"])


def test_results_of_two_splits_make_no_table() -> None:
    rows = [result("a", 0, 0.2), replace(result("b", 0, 0.4), split_sha256="1" * 64)]
    with pytest.raises(InputError, match=r"2 splits \(000000000000, 111111111111\)"):
        render_tables(rows)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a,b", "2 fields where there are 18 columns"),
        ("{same}", "the same measure as on line 2"),
        ("{nan}", "value is nan, not a number"),
        ("{word}", "could not convert string to float"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "results.csv"
    write_results(path, [result("a", 0, 0.25)])
    same = path.read_text().splitlines()[1]
    fields = same.split(",")
    value = COLUMNS.index("value")
    other = ["b" if name == "method" else text for name, text in zip(COLUMNS, fields, strict=True)]
    nan = ",".join([*other[:value], "nan", *other[value + 1 :]])
    word = ",".join([*other[:value], "word", *other[value + 1 :]])
    path.write_text(path.read_text() + line.format(same=same, nan=nan, word=word) + "\n")
    with pytest.raises(InputError, match=rf"results.csv:3: {problem}"):
        read_results(path)


def test_a_run_of_version_0_1_0_is_read(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        "dataset,protocol,split_sha256,method,backbone,bits,seed,metric,k,ties,denominator,value,"
        "lower,upper,seconds,encode_seconds,peak_gb,version\n"
        "fashion-sample,500-5k,536b,cosine (real-valued),tf_efficientnet_lite0 frozen,0,0,map,1000,"
        "none,retrieved,0.605047,0.605047,0.605047,0.0,0.0,1.026,0.1.0\n"
        "fashion-sample,500-5k,536b,lsh,tf_efficientnet_lite0 frozen,16,0,map,1000,expected,"
        "retrieved,0.309955,0.247,0.38,0.12,0.1,1.03,0.1.0\n"
    )
    assert "| lsh | 0.310 |" in render_tables(read_results(path))


def test_a_backbone_of_some_methods_alone_is_told_under_the_table() -> None:
    tuned = [replace(result(method, 0, 0.5), backbone="backbone tuned") for method in ("b", "c")]
    assert "backbone backbone; backbone tuned in b, c." in render_tables(
        [result("a", 0, 1), *tuned]
    )
    assert "backbone backbone." in render_tables([result("a", 0, 1.0)])
