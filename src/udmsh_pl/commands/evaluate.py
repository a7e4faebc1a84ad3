"""``udmsh evaluate``: score codes that come from anywhere, and say how far ties alone could move
the number.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.evaluation import Engine, RetrievalReport, evaluate_codes
from udmsh_pl.retrieval.external import Array, ExternalFile, external_codes, external_labels
from udmsh_pl.retrieval.measures import named_measure
from udmsh_pl.retrieval.ties import Cutoff, Denominator
from udmsh_pl.safe.files import write_text

Row = tuple[str, float, float | None, float | None, float | None]
MEASURES = (
    "mean_average_precision", "mean_average_precision_by_row", "precision", "recall",
)  # fmt: skip
COLUMNS = ("metric", "expected", "worst", "best", "by row")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh evaluate``."""
    parser.add_argument("codes", nargs="?", help="one file that holds all four: codes.npz of a run")
    parser.add_argument(
        "--query",
        help="file of query codes: .npz .npy .pt .mat or text; FILE:NAME chooses an array",
    )
    parser.add_argument("--database", help="file of database codes")
    parser.add_argument(
        "--query-labels",
        help="0/1 matrix (a single column of 0/1 is one label), or one class number an item "
        "(default: in the query file)",
    )
    parser.add_argument(
        "--database-labels", help="the same for the database (default: in the database file)"
    )
    parser.add_argument(
        "--bits", type=int, help="code length; needed for packed codes that do not fill their bytes"
    )
    parser.add_argument(
        "--k", nargs="+", default=["1000", "5000", "all"], help="cut-offs (default: 1000 5000 all)"
    )
    parser.add_argument(
        "--denominator",
        choices=get_args(Denominator),
        default="retrieved",
        help="of AP@k: relevant items inside k (default), min(k, all relevant), or all relevant",
    )
    parser.add_argument(
        "--drop-zero-hits", action="store_true", help="leave queries without relevant items out"
    )
    note = "of udmsh_pl.retrieval.measures, or my_module.my_measure"
    parser.add_argument("--measures", nargs="+", default=list(MEASURES), help=note)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument(
        "--engine",
        choices=get_args(Engine),
        default="exact",
        help="who ranks by row: the exact evaluator (default) or a FAISS binary index",
    )
    parser.add_argument("--device", help="cuda to count, and let FAISS rank, on a GPU")
    parser.add_argument("--out", type=Path, help="write the table here too: .csv or .md")


def run(args: argparse.Namespace) -> int:
    """Score, print, and write what ``--out`` names; raises ``InputError`` for files that do not
    fit.
    """
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
        try:
            write_text(args.out, _csv(rows) if args.out.suffix == ".csv" else text + "\n")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"--out {args.out} cannot be written ({reason})") from error
    return 0


def score(args: argparse.Namespace, ks: tuple[Cutoff, ...]) -> RetrievalReport:
    """Read the files that ``args`` names and score them."""
    query_source, database_source = args.query or args.codes, args.database or args.codes
    if query_source is None or database_source is None:
        raise InputError(
            "which codes? Give one file that holds all, or --query FILE --database FILE"
        )
    query = ExternalFile.open(query_source)
    database = query if database_source == query_source else ExternalFile.open(database_source)
    wanted = _labels(query, "query", args.query_labels)
    have = _labels(database, "database", args.database_labels)
    stated = {bits for bits in (args.bits, query.bits(), database.bits()) if bits is not None}
    if len(stated) > 1 or min(stated, default=1) < 1:
        raise InputError(
            f"bits is {' and '.join(map(str, sorted(stated)))}: check --bits and what the files "
            "state"
        )
    bits = min(stated, default=None)
    codes = query.codes("query"), database.codes("database")
    query_codes, query_bits = external_codes(
        codes[0], bits, _rows(wanted.shape, codes[0].shape), str(query.path)
    )
    database_codes, length = external_codes(
        codes[1], bits, _rows(have.shape, codes[1].shape), str(database.path)
    )
    if query_bits != length:
        raise InputError(
            f"query codes have {query_bits} bits, database codes {length}: both need the same hash "
            "function"
        )
    labels = external_labels(wanted, have, len(query_codes), len(database_codes))
    return evaluate_codes(
        query_codes,
        database_codes,
        *labels,
        length,
        ks=ks,
        denominator=args.denominator,
        zero_hits="drop" if args.drop_zero_hits else "zero",
        threads=args.threads,
        engine=args.engine,
        device=args.device,
    )


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
    rows.append(("precision, radius 2", near["precision"], None, None, None))
    rows.append(("recall, radius 2", near["recall"], None, None, None))
    rows.append(("empty lookups, radius 2", near["empty"], None, None, None))
    return rows


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
        lines.append(
            f"| {name} | " + " | ".join("" if v is None else f"{v:.4f}" for v in values) + " |"
        )
    widest = max(report.ks, key=lambda k: report.map_best[k] - report.map_worst[k])
    name, worst, best = _name(widest), report.map_worst[widest], report.map_best[widest]
    low, high = report.interval(widest)
    lines += [
        "",
        f"Items at one Hamming distance are tied: their order alone can put {name} anywhere from "
        f"{worst:.4f} to "
        f"{best:.4f}. 'expected' is the mean over all orders, 'by row' the order of the database "
        "file.",
        "",
        f"95 % bootstrap interval of {name} over queries: {low:.4f} to {high:.4f}.",
    ]
    return "\n".join(lines)


def _csv(rows: list[Row]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([("" if value is None else value for value in row) for row in rows])
    return stream.getvalue()


def _labels(codes: ExternalFile, role: str, source: str | None) -> Array:
    labels = (
        codes.labels(role, own_file=False)
        if source is None
        else ExternalFile.open(source).labels(role, True)
    )
    if labels is None:
        raise InputError(
            f"{codes.path} names no {role} labels (it holds {codes.listing()}): give "
            f"--{role}-labels FILE"
        )
    return labels


def _rows(labels: tuple[int, ...], codes: tuple[int, ...]) -> int | None:
    """Number of items: the size that labels and codes have in common."""
    return next(
        (size for size in labels if size in codes[:1]),
        next((size for size in labels if size in codes), None),
    )


def _name(k: Cutoff) -> str:
    return f"mAP@{'ALL' if k is None else k}"


def _cutoff(text: str) -> Cutoff:
    if text.lower() in ("all", "none", "-1"):
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--k {text}: a cut-off is a whole number from 1, or all")
    return int(text)
