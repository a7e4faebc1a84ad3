"""``udmsh evaluate``: score codes from anywhere, and say how far ties alone could move a number."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.evaluation import Engine, RetrievalReport, evaluate_codes
from udmsh_pl.retrieval.external import Array, ExternalFile, external_codes, external_labels
from udmsh_pl.retrieval.measures import named_measure
from udmsh_pl.retrieval.ties import Cutoff, Denominator
from udmsh_pl.safe.files import csv_text, write_text
from udmsh_pl.safe.untrusted import reason_of

Row = tuple[str, float, float | None, float | None, float | None]
MEASURES = (
    "mean_average_precision", "mean_average_precision_by_row", "precision", "recall",
)  # fmt: skip
COLUMNS = ("metric", "expected", "worst", "best", "by row")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh evaluate``."""
    add = parser.add_argument
    add("codes", nargs="?", help="one file that holds all four: codes.npz of a run")
    kinds = ".npz .npy .pt .mat or text; FILE:NAME chooses an array"
    add("--query", help=f"file of query codes: {kinds}")
    add("--database", help="file of database codes")
    add("--query-labels", help="0/1 matrix (a single column of 0/1 is one label), or one class "
        "number an item (default: in the query file)")  # fmt: skip
    note = "the same for the database (default: in the database file)"
    add("--database-labels", help=note)
    note = "code length; needed for packed codes that do not fill their bytes"
    add("--bits", type=int, help=note)
    add("--k", nargs="+", default=["1000", "5000", "all"], help="cut-offs (default: 1000 5000 all)")
    note = "of AP@k: relevant items inside k (default), min(k, all relevant), or all relevant"
    add("--denominator", choices=get_args(Denominator), default="retrieved", help=note)
    note = "leave out queries without a hit inside k"
    add("--drop-zero-hits", action="store_true", help=note)
    note = "of udmsh_pl.retrieval.measures, or my_module.my_measure"
    add("--measures", nargs="+", default=list(MEASURES), help=note)
    add("--threads", type=int, help="default: all cores")
    note = "rank by row with the exact evaluator (default) or a FAISS binary index"
    add("--engine", choices=get_args(Engine), default="exact", help=note)
    add("--device", help="cuda to count, and let FAISS rank, on a GPU")
    add("--out", type=Path, help="write the table here too: .csv or .md")


def run(args: argparse.Namespace) -> int:
    """Score, print, and write what ``--out`` names."""
    ks = tuple(_cutoff(text) for text in args.k)
    if args.out is not None and args.out.suffix not in (".csv", ".md"):
        raise InputError(f"--out {args.out}: give a name that ends in .csv or .md")
    if args.out is not None and args.out.is_dir():
        raise InputError(f"--out {args.out} is a folder: give the name of a file")
    if args.threads is not None and args.threads < 1:
        raise InputError(f"--threads is {args.threads}: give 1 or more")
    report = score(args, ks)
    rows = table(report, args.measures)
    text = render(report, rows)
    print(text)
    if args.out is not None:
        text = csv_text([COLUMNS, *rows]) if args.out.suffix == ".csv" else text + "\n"
        try:
            write_text(args.out, text)
        except OSError as error:
            raise InputError(f"--out {args.out}: {reason_of(error)}; give another file") from error
    return 0


def score(args: argparse.Namespace, ks: tuple[Cutoff, ...]) -> RetrievalReport:
    """Read the files that ``args`` names and score them."""
    sources = args.query or args.codes, args.database or args.codes
    if None in sources:
        mend = "Give one file that holds all, or --query FILE --database FILE"
        raise InputError(f"which codes? {mend}")
    query = ExternalFile.open(sources[0])
    database = query if sources[1] == sources[0] else ExternalFile.open(sources[1])
    wanted = _labels(query, "query", args.query_labels)
    have = _labels(database, "database", args.database_labels)
    stated = {bits for bits in (args.bits, query.bits(), database.bits()) if bits is not None}
    if len(stated) > 1 or min(stated, default=1) < 1:
        lengths = " and ".join(map(str, sorted(stated)))
        raise InputError(f"bits is {lengths}: check --bits and what the files state")
    bits = min(stated, default=None)
    query_codes, query_bits = _codes(query, "query", wanted, bits)
    database_codes, length = _codes(database, "database", have, bits)
    if query_bits != length:
        problem = f"query codes have {query_bits} bits, database codes {length}"
        raise InputError(f"{problem}: both need the same hash function")
    labels = external_labels(wanted, have, len(query_codes), len(database_codes))
    return evaluate_codes(
        query_codes, database_codes, *labels, length, ks=ks, denominator=args.denominator,
        zero_hits="drop" if args.drop_zero_hits else "zero", threads=args.threads,
        engine=args.engine, device=args.device,
    )  # fmt: skip


def table(report: RetrievalReport, measures: Sequence[str] = MEASURES) -> list[Row]:
    """Rows (metric, expected, worst, best, by row); what is not known of a measure is None."""
    found = [measure for name in measures for measure in named_measure(name)(report)]
    by_row = {(one.name, one.k): one.value for one in found if one.ties == "id"}
    rows: list[Row] = [
        (one.title, one.value, one.lower, one.upper, by_row.get((one.name, one.k)))
        for one in found
        if one.ties == "expected"
    ]
    near = report.within_radius(2)
    names = {"precision": "precision", "recall": "recall", "empty": "empty lookups"}
    return rows + [(f"{names[key]}, radius 2", near[key], None, None, None) for key in names]


def render(report: RetrievalReport, rows: list[Row]) -> str:
    """Markdown table with a line of settings above and the tie interval in words below."""
    queries, items = len(report.items), int(report.items[0].sum())
    lines = [
        f"{queries} queries, {items} database items, {report.bits} bits; AP denominator: "
        f"{report.denominator}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, *values in rows:
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {' | '.join([name, *cells])} |")
    widest = max(report.ks, key=lambda k: report.map_best[k] - report.map_worst[k])
    name = f"mAP@{'ALL' if widest is None else widest}"
    worst, best = report.map_worst[widest], report.map_best[widest]
    low, high = report.interval(widest)
    lines += [
        "",
        f"Items at one Hamming distance are tied: their order alone can put {name} anywhere from "
        f"{worst:.4f} to {best:.4f}. 'expected' is the mean over all orders, 'by row' the order of "
        "the database file.",
        "",
        f"95 % bootstrap interval of {name} over queries: {low:.4f} to {high:.4f}.",
    ]
    return "\n".join(lines)


def _labels(codes: ExternalFile, role: str, source: str | None) -> Array:
    file = codes if source is None else ExternalFile.open(source)
    labels = file.labels(role, own_file=source is not None)
    if labels is None:
        problem = f"{codes.path} names no {role} labels (it holds {codes.listing()})"
        raise InputError(f"{problem}: give --{role}-labels FILE")
    return labels


def _codes(file: ExternalFile, role: str, labels: Array, bits: int | None) -> tuple[Array, int]:
    """Packed codes and their length; the number of items is a size of both labels and codes."""
    codes = file.codes(role)
    common = [size for size in labels.shape if size in codes.shape]
    first = [size for size in common if size in codes.shape[:1]]
    items = next(iter(first + common), None)
    return external_codes(codes, bits, items, str(file.path))


def _cutoff(text: str) -> Cutoff:
    if text.lower() in ("all", "none", "-1"):
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--k {text}: a cut-off is a whole number from 1, or all")
    return int(text)
