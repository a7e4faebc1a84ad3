"""``udmsh index``: make a folder of pictures searchable, or bring its index up to date."""

import argparse
import time
from functools import partial
from pathlib import Path

from udmsh_pl.errors import InputError
from udmsh_pl.images.names import printable
from udmsh_pl.images.walk import SKIPPED, skipped_line, write_skipped
from udmsh_pl.safe.profile import FILE as PROFILE
from udmsh_pl.safe.profile import write_profile
from udmsh_pl.search.build import Elsewhere, build_index
from udmsh_pl.search.encoder import HashEncoder
from udmsh_pl.search.index import ImageIndex, check_root
from udmsh_pl.search.pictures import Report
from udmsh_pl.search.store import MANIFEST, RECALL, read_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh index``."""
    add = parser.add_argument
    add("pictures", type=Path, help="folder of your pictures")
    add("--out", type=Path, required=True, help="folder of the index; one that is there is updated")
    add("--model", type=Path, help="a .ckpt, or a folder of `udmsh export`; without it, a hash is "
        "learned from these pictures")  # fmt: skip
    add("--bits", type=int, help="code length where a hash is learned (default: 64)")
    add("--exclude", metavar="PATTERN", action="append", help="leave out files and folders like "
        "this: '*.png', Screenshots, '2019/*'; may be given several times; later updates keep it, "
        "and --exclude '' forgets it")  # fmt: skip
    add("--recall", type=float, help="share of the nearest codes that a search finds among a "
        "million pictures and more (default: 0.99; 1: all, by looking at every code)")  # fmt: skip
    add("--retrain", action="store_true", help="learn and encode anew, though there is an index")
    add("--ray", metavar="ADDRESS", help="encode on a Ray cluster: auto, or HOST:PORT; for a new "
        "index, or with --retrain")  # fmt: skip
    add("--moved", action="store_true", help="the pictures of the index lie in this folder now")
    add("--replace", action="store_true",
        help="index this folder instead of the index's former one")  # fmt: skip
    add("--allow-deletions", action="store_true", help="drop pictures that are gone, even if they "
        "are most of the index or lay outside of the folder")  # fmt: skip
    add("--verify", action="store_true", help="read every file again, also those that seem "
        "unchanged, and check the index's own files")  # fmt: skip
    profile = f"print where the time went, and write it to {PROFILE} in the index's folder"
    add("--profile", action="store_true", help=profile)


def run(arguments: argparse.Namespace) -> int:
    """Build or update; prints what was done, and what was left out: ``skipped.csv`` lists it."""
    start = time.perf_counter()
    out, pictures = arguments.out.expanduser(), arguments.pictures.expanduser()
    encoder = None if arguments.model is None else HashEncoder.load(arguments.model)
    recall = arguments.recall
    if recall is not None and not 0 < recall <= 1:
        raise InputError(f"--recall is {recall}: give a number above 0, at most 1")
    exists = (out / MANIFEST).is_file()
    if exists and not (arguments.moved or arguments.replace):
        check_root(out, pictures)
    anew = arguments.retrain or arguments.replace or not exists
    known = None if anew else ImageIndex.open(out)
    bits, exclude = arguments.bits, arguments.exclude
    _check_bits(out, bits, encoder or (known.encoder if known else None), arguments.model)
    if exclude is not None:
        exclude = [pattern for pattern in exclude if pattern.strip("/")]
    elif exists and not arguments.replace:
        exclude = read_manifest(out).exclude
    if known is not None and (encoder is None or encoder.spec == known.encoder.spec):
        if arguments.ray:
            raise InputError("--ray is for a new index; an update is encoded here, leave it out")
        report = known.update(
            pictures, arguments.moved, recall, arguments.allow_deletions, arguments.verify, exclude
        )
    else:
        elsewhere: Elsewhere | None = None
        if arguments.ray is not None:
            from udmsh_pl.runs.on_ray import encode_on

            elsewhere = partial(encode_on, arguments.ray)
        recall, bits, known = recall or RECALL, bits or 64, None
        report = build_index(out, pictures, encoder, bits, recall, elsewhere, exclude or ())
    write_skipped(report.skipped | dict(report.broken), out)
    index = ImageIndex.open(out) if known is None else known
    _print_report(report, index, time.perf_counter() - start)
    if arguments.profile:
        print(f"\n{write_profile(out)}")
    return 0


def _check_bits(
    out: Path, bits: int | None, encoder: HashEncoder | None, model: Path | None
) -> None:
    """Refuse a code length that the encoder does not have."""
    if bits is not None and bits < 1:
        raise InputError(f"--bits is {bits}: give 1 or more")
    if bits is None or encoder is None or encoder.bits == bits:
        return
    own = f"codes of {encoder.bits} bits"
    if model is not None:
        raise InputError(f"{model} gives {own}; leave --bits {bits} out")
    raise InputError(f"{out} has {own}; give --retrain to index anew with {bits}")


def _print_report(report: Report, index: ImageIndex, seconds: float) -> None:
    for name, reason in report.broken[:10]:
        print(printable(f"left out: {name}: {reason}"))
    if len(report.broken) > 10:
        print(f"left out: and {len(report.broken) - 10:,} more")
    if report.skipped or report.broken:
        left_out = skipped_line(report.skipped | dict(report.broken))
        print(printable(f"{left_out}; all are in {index.path / SKIPPED}"))
    for line in report.lines:
        print(line)
    print(f"{report}; {seconds:.1f} s")
    code, feature = index.encoder.spec.code_bytes, index.manifest.dims
    print(
        f"{index.path}: {len(index):,} pictures, {code} bytes of code and {feature} of re-rank "
        f"feature each; a search looks through {index.method}"
    )
