"""``udmsh duplicates``: groups of copies among the pictures of an index. Nothing is deleted."""

import argparse
import sys
from pathlib import Path

from udmsh_pl.safe.files import write_text
from udmsh_pl.search.index import ImageIndex
from udmsh_pl.search.sheet import Tile, sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh duplicates``."""
    parser.add_argument("index", type=Path, help="folder that `udmsh index` made")
    parser.add_argument(
        "--radius", type=int, help="bits that the codes of candidates may differ in (default: "
        "three eighths of them); each candidate is checked on its pixels"
    )  # fmt: skip
    parser.add_argument(
        "--report", type=Path, help="write the groups to this .html, with thumbnails"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print each group: its largest picture, then the others and how they came from it."""

    index = ImageIndex.open(arguments.index)
    groups = index.duplicates(arguments.radius)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # names on a disk may be no UTF-8
    for group in groups:
        for copy in group:
            print(f"{copy.relation:12s}  {copy.agreement:5.3f}  {copy.path}")
        print()
    extra = sum(len(group) - 1 for group in groups)
    print(
        f"{len(groups):,} groups, {extra:,} pictures beside the first of each; nothing is deleted"
    )
    if arguments.report is not None:
        sections = []
        for number, group in enumerate(groups, 1):
            tiles = []
            for copy in group:
                facts = index.rows.files[copy.row]
                size = f"{facts['width']} x {facts['height']}, {facts['size']:,} bytes"
                note = f"{copy.relation}, {size}"
                tiles.append(Tile(copy.path, index.thumbnail(copy.row), note))
            sections.append((f"Group {number}", tiles))
        title = f"Copies in {index.root}"
        write_text(arguments.report, sheet(title, sections))
        print(arguments.report)
    return 0
