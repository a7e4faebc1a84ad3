"""``udmsh duplicates``: groups of copies among the pictures of an index. Nothing is deleted."""

import argparse
import json
from pathlib import Path

from udmsh_pl.images.names import printable
from udmsh_pl.safe.files import write_text
from udmsh_pl.search.contact_sheet import Tile, contact_sheet
from udmsh_pl.search.duplicates import Copy
from udmsh_pl.search.index import ImageIndex

NOTES = {
    "link": "another name of a file of this group, or a link: frees no space",
    "similar": "differs in a part: no copy",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh duplicates``."""
    add = parser.add_argument
    add("index", type=Path, help="folder that `udmsh index` made")
    add("--radius", type=int, help="bits that the codes of candidates may differ in (default: "
        "three eighths of them); each candidate is checked on its pixels")  # fmt: skip
    shape = "{copies, bytes, groups: [[{path, relation, agreement, verified, size}]]}"
    add("--json", action="store_true", help=f"print {shape}")
    add("--report", type=Path, help="write the groups to this .html, with thumbnails")


def run(arguments: argparse.Namespace) -> int:
    """Print each group: the picture that is kept, then the others and how they came from it."""
    index = ImageIndex.open(arguments.index)
    groups = index.duplicates(arguments.radius, progress=True)
    copies = [copy for group in groups for copy in group if copy.is_copy]
    sizes = index.rows.files["size"]
    freed = sum(int(sizes[copy.row]) for copy in copies)
    if arguments.json:
        plain = [[_plain(copy, int(sizes[copy.row])) for copy in group] for group in groups]
        print(json.dumps({"copies": len(copies), "bytes": freed, "groups": plain}, indent=1))
    else:
        for group in groups:
            for copy in group:
                path, note = printable(copy.path), _note(copy)
                print(f"{copy.relation:12s}  {copy.agreement:5.3f}  {path}{note and f'  ({note})'}")
            print()
        print(
            f"{len(groups):,} groups, {len(copies):,} copies of the first of each, {freed:,} bytes;"
            " nothing is deleted"
        )
    if arguments.report is not None:
        sections = [
            (f"Group {number}", [_tile(index, copy) for copy in group])
            for number, group in enumerate(groups, 1)
        ]
        write_text(arguments.report, contact_sheet(f"Copies in {index.root}", sections))
        if not arguments.json:
            print(arguments.report)
    return 0


def _note(copy: Copy) -> str:
    unverified = "" if copy.verified else "unverified: a file cannot be read or has changed"
    return NOTES.get(copy.relation) or unverified


def _plain(copy: Copy, size: int) -> dict[str, object]:
    facts = {name: getattr(copy, name) for name in ("relation", "agreement", "verified")}
    return {"path": str(copy.path)} | facts | {"size": size}  # JSON escapes what is not UTF-8


def _tile(index: ImageIndex, copy: Copy) -> Tile:
    facts = index.rows.files[copy.row]
    size = f"{facts['width']} x {facts['height']}, {facts['size']:,} bytes"
    parts = [copy.relation, size, _note(copy)]
    return Tile(copy.path, index.thumbnail(copy.row), ", ".join(filter(None, parts)))
