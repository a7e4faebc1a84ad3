"""Tables: columns, costs, and a lead that is as sure as it says."""

from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.cli import ReproducePlan
from udmsh_pl.reports.significance import best_against_runner_up
from udmsh_pl.reports.table import Result, read_results, render_costs, render_table, write_results
from udmsh_pl.retrieval import evaluate_codes, pack_codes


def result(method: str, seed: int, value: float, bits: int = 16, seconds: float = 1.0) -> Result:
    return Result(
        "toy", "p", "0" * 64, method, "backbone", bits, seed, "map", "10", "expected", "retrieved", value, value, value,
        seconds, seconds / 10, 1.5, "0",
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
    assert ("**" in render_table(rows)) is bold


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
    values, rows = {}, []
    for method, noise in (("good", 0.4), ("fair", 0.9), ("poor", 4.0)):
        for seed in (0, 1):
            centres = np.random.default_rng(9).choice([-1.0, 1.0], (4, 16))
            codes = pack_codes(
                (labels @ centres + noise * generator.standard_normal((40, 16))).astype(np.float32)
            )
            cell = tmp_path / "cells" / f"{method}-16-{seed}"
            cell.mkdir(parents=True)
            arrays = {
                "query_codes": codes[:15],
                "database_codes": codes[15:],
                "query_labels": labels[:15],
            }
            np.savez(cell / "codes.npz", **arrays, database_labels=labels[15:])
            report = evaluate_codes(codes[:15], codes[15:], labels[:15], labels[15:], 16, ks=[10])
            values[method, seed] = report.map[10]
            rows.append(result(method, seed, report.map[10]))
    methods = dict.fromkeys(("poor", "good", "fair"))
    [table] = best_against_runner_up(
        tmp_path, rows, ReproducePlan(bits=[16], seeds=[0, 1], ks=[10], methods=methods)
    )
    lead = np.mean([values["good", s] - values["fair", s] for s in (0, 1)])
    assert f"| mAP@10, 16 bits | good | fair | {lead:+.3f} |" in table
    assert (
        best_against_runner_up(
            tmp_path, rows, ReproducePlan(bits=[16], seeds=[0], ks=[10], methods={"good": None})
        )
        == []
    )
