"""``udmsh export``: a checkpoint as one graph for other programs."""

import argparse
from pathlib import Path

from udmsh_pl.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh export``."""
    add = parser.add_argument
    add("model", type=Path, help="a .ckpt, an index, or another export's folder")
    add("--format", choices=("onnx", "openvino", "torchscript"), required=True)
    add("--out", type=Path, required=True, help="folder for the graph")
    check = "count the bits that graph and torch give differently on the pictures of this folder"
    add("--check", type=Path, metavar="PICTURES", help=check)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder; prints its size and, with ``--check``, how the graph agrees with torch."""
    from udmsh_pl.search.export import GRAPHS, differing_bits, export

    out = arguments.out.expanduser()
    if out.is_file():
        raise InputError(f"{out} is a file; give --out a folder")
    spec = export(arguments.model.expanduser(), arguments.format, out)
    graph = out / GRAPHS[arguments.format]
    size = sum((out / name).stat().st_size for name in spec.files)
    print(f"{graph}: {spec.bits} bits, re-rank feature of {spec.dims}; {size / 1e6:.1f} MB in all")
    if arguments.check is not None:
        found = differing_bits(out, spec, arguments.format, arguments.check)
        bits, all_bits, features, pictures = found
        share = 100 * bits / max(all_bits, 1)
        print(
            f"{pictures:,} pictures: {bits} of {all_bits:,} bits differ from torch "
            f"({share:.4f} %), features by at most {features} of 127"
        )
    return 0
