"""What a run says of its images: how many, what the protocol lacks, and what was left out."""

import csv
import io
from pathlib import Path

from udmsh_pl.images.folder import told_skipped
from udmsh_pl.images.image_list import Splits
from udmsh_pl.safe.files import write_text

SKIPPED = "skipped.csv"


def told_lists(splits: Splits, folder: Path) -> list[str]:
    """A line on the splits, and one on what was left out, all of which :func:`write_skipped`
    lists.
    """
    sizes = ", ".join(f"{len(images):,} {name}" for name, images in splits.by_name().items())
    lines = [f"{splits.protocol.dataset}, protocol {splits.protocol_name}: {sizes} images"]
    if splits.skipped:
        lines.append(f"{told_skipped(splits.skipped)}; all are in {folder / SKIPPED}")
    return lines


def write_skipped(splits: Splits, folder: Path) -> None:
    """Write ``skipped.csv``: name and reason of each file that was left out; none, no file."""
    if not splits.skipped:
        (folder / SKIPPED).unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "reason"))
    writer.writerows(splits.skipped.items())
    # names need not be UTF-8
    write_text(folder / SKIPPED, text.getvalue().encode(errors="backslashreplace").decode())
