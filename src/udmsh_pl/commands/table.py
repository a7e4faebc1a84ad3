"""Print the table of a run directory."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh table``."""
    parser.add_argument("run", type=Path, help="a directory with results.csv")
    parser.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown")
    parser.add_argument("--k", nargs="+", help="only these cut-offs: numbers, or all")
    parser.add_argument("--bits", type=int, nargs="+", help="only these code lengths")


def run(args: argparse.Namespace) -> int:
    """Print the table; gives the exit status 0."""
    from udmsh_pl.reports.results import read_results
    from udmsh_pl.reports.table import render_tables

    results = read_results(args.run / "results.csv")
    print(render_tables(results, args.format, args.k, args.bits))
    return 0
