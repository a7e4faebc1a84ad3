"""``udmsh search``: pictures of an index that look like a picture."""

import argparse
import json
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh search``."""
    add = parser.add_argument
    add("index", type=Path, help="folder that `udmsh index` made")
    add("picture", type=Path, help="query picture")
    add("-k", type=int, default=20, help="how many (default: 20)")
    add("--rerank", type=int, help="order this many nearest codes by their features (default: "
        "1000; 0: by code alone)")  # fmt: skip
    shape = "{results: [{path, distance, similarity, exists}]}"
    add("--json", action="store_true", help=f"print {shape}")
    add("--open", action="store_true", help="show the pictures in the browser")


def run(arguments: argparse.Namespace) -> int:
    """Search and print, most alike first."""
    # NumPy's second thread would spin for some 50 ms on the core that loads the network
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from udmsh_pl.backbones.openvino import import_openvino

    import_openvino()
    from udmsh_pl.search.encoder import HashEncoder

    encoder = HashEncoder.of_index(arguments.index)
    encoder.prepare()  # it is loaded while the rest goes on
    from udmsh_pl.images.names import printable
    from udmsh_pl.search.index import ImageIndex

    index = ImageIndex.open(arguments.index, encoder)
    matches = index.search(arguments.picture, arguments.k, arguments.rerank)
    there = [one.path.exists() for one in matches]
    if not index.root.is_dir():
        mend = f"udmsh index NEW_FOLDER --out {index.path} --moved"
        problem = f"{index.root} is not there; if its pictures have moved: {mend}"
        print(problem, file=sys.stderr)
    if arguments.json:
        results = [
            {"path": str(one.path), "distance": one.distance, "similarity": one.similarity}
            | {"exists": exists}
            for one, exists in zip(matches, there, strict=True)
        ]
        print(json.dumps({"results": results}, indent=1))
    else:
        for one, exists in zip(matches, there, strict=True):
            mark = "" if exists else "  (gone)"
            print(f"{one.similarity:6.3f}  {one.distance:3d}  {printable(one.path)}{mark}")
    if arguments.open:
        import tempfile
        import webbrowser

        from udmsh_pl.safe.files import write_text
        from udmsh_pl.search.contact_sheet import Tile, contact_sheet

        tiles = [
            Tile(one.path, index.thumbnail(one.row), f"{one.similarity:.3f}, {one.distance} bits")
            for one in matches
        ]
        page = Path(tempfile.mkdtemp(prefix="udmsh-")) / "search.html"
        write_text(page, contact_sheet(f"Like {arguments.picture.name}", [("", tiles)]))
        print(page, file=sys.stderr)
        webbrowser.open(page.as_uri())
    return 0
