"""Print the table of a run directory."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh table``."""
    parser.add_argument("run", type=Path, help="the folder of a run, finished or not")
    parser.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown")
    parser.add_argument("--k", nargs="+", help="only these cut-offs: numbers, or all")
    parser.add_argument("--bits", type=int, nargs="+", help="only these code lengths")


def run(args: argparse.Namespace) -> int:
    """Print the table; gives the exit status 0."""
    from udmsh_pl.reports.run_directory import RunDirectory
    from udmsh_pl.reports.table import render_tables

    print(render_tables(RunDirectory(args.run).table(), args.format, args.k, args.bits))
    return 0
