"""How sure the lead is: the best method of each column against its runner-up, query by query."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from udmsh_pl.cli import ReproducePlan
from udmsh_pl.reports.table import Result
from udmsh_pl.retrieval import evaluate_codes
from udmsh_pl.retrieval.bootstrap import paired_difference
from udmsh_pl.retrieval.ties import Float64s


def best_against_runner_up(out: Path, results: Sequence[Result], plan: ReproducePlan) -> list[str]:
    """Markdown of a paired bootstrap over queries, per code length and cut-off; nothing when the
    plan has one method.

    A query's value is its expected AP@k, averaged over the seeds: the interval is about other
    queries, the table's spread about other seeds.

    Args:
        out: run directory with the cells' codes
        results: rows of ``results.csv``
        plan: what was run
    """
    if len(plan.methods) < 2:
        return []
    lines = [
        "| column | best | runner-up | lead | 95 % interval | p |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    known: dict[tuple[str, int], dict[int | None, Float64s]] = {}
    for k in plan.ks:
        name = "all" if k is None else str(k)
        for bits in plan.bits:
            means = {
                method: statistics.fmean(
                    r.value
                    for r in results
                    if (r.method, r.bits, r.k, r.ties) == (method, bits, name, "expected")
                )
                for method in plan.methods
            }
            pair = sorted(means, key=lambda method: -means[method])[:2]
            for method in pair:
                if (method, bits) not in known:
                    known[method, bits] = _values(out, method, bits, plan)
            found = paired_difference(known[pair[0], bits][k], known[pair[1], bits][k])
            column = f"mAP@{name.upper()}, {bits} bits"
            interval = f"{found.lower:+.3f} to {found.upper:+.3f}"
            lines.append(
                f"| {column} | {pair[0]} | {pair[1]} | {found.mean:+.3f} | {interval} | "
                f"{found.p_value:.4f} |"
            )
    note = "Paired bootstrap over queries (2,000 resamples) of each query's expected AP, averaged over seeds."
    return ["\n".join([*lines, "", note])]


def _values(out: Path, method: str, bits: int, plan: ReproducePlan) -> dict[int | None, Float64s]:
    totals: dict[int | None, Float64s] = {}
    for seed in plan.seeds:
        with np.load(
            out / "cells" / f"{method}-{bits}-{seed}" / "codes.npz", allow_pickle=False
        ) as codes:
            pair = codes["query_codes"], codes["database_codes"]
            report = evaluate_codes(
                *pair, codes["query_labels"], codes["database_labels"], bits, ks=plan.ks
            )
        for k in plan.ks:
            totals[k] = totals.get(k, 0.0) + report.average_precision[k] / len(plan.seeds)
    return totals
