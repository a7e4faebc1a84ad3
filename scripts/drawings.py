"""Make a data set of drawings from two Debian packages.

They are pictures of none of the benchmarks, to choose settings on.

    apt-get download openclipart-png tuxpaint-stamps-default
    for package in *.deb; do dpkg -x $package drawings; done
    python scripts/drawings.py drawings

writes ``fine-query.txt`` and ``fine-database.txt``, where a picture's class is the two folders it
lies in ("animals/birds"), and the same pictures as ``coarse-*.txt``, where it is the first folder
alone. In ``cross-*.txt`` the queries are clip art and the database holds photographs of the other
package, some of them of no query's class. The choice depends on the seed below alone.
"""

import argparse
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from udmsh_pl.safe.files import write_text

SEED = 2024
ROOTS = ("usr/share/openclipart/png", "usr/share/tuxpaint/stamps")
LEAST, MOST = (
    15,
    150,
)  # pictures of a class: smaller ones are left out, of larger ones some are drawn
QUERIES = 0.2
LARGEST = 4_000_000  # pixels
NO_SUBJECT = {
    "unsorted",
    "special",
    "logos",
    "cartoon",
    "photo",
}  # folders that do not say what a picture shows

ACROSS = {  # subjects of clip art, and of photographs that show the same
    "animals/mammals": "animals/mammals",
    "animals/birds": "animals/birds",
    "animals/fish": "animals/fish",
    "animals/bugs": "animals/insects",
    "animals/dinosaurs": "animals/dinosaur",
    "animals/amphibian": "animals/amphibians",
    "food/fruit": "food/fruit",
    "food/vegetables": "food/vegetables",
    "food/desserts": "food/dessert",
    "plants/flowers": "plants/flowers",
    "plants/trees": "plants/trees",
    "buildings/homes": "town/houses",
    "transportation/roadsigns": "town/roadsigns",
    "transportation/boating": "vehicles/ship",
    "signs_and_symbols/money": "symbols/money",
    "signs_and_symbols/flags": "town/flags",
}
QUERIES_OF_ONE = 40  # subject at most


def subject(folders: tuple[str, ...]) -> str:
    """The class of a picture by the folders it lies in: the first two that say what it shows."""
    return "/".join([folder for folder in folders if folder not in NO_SUBJECT][:2])


def huge(path: Path) -> bool:
    """Whether a picture has so many pixels that Pillow takes it for an attack, or nearly."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                return image.width * image.height > LARGEST
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            return True


def write_lists(root: Path, name: str, paths: list[str], classes: list[str], queries: int) -> None:
    names = sorted(set(classes) - {""})  # "" is of no class
    lines = [
        " ".join([path, *("01"[one == label] for label in names)])
        for path, one in zip(paths, classes, strict=True)
    ]
    write_text(root / f"{name}-query.txt", "\n".join(lines[:queries]) + "\n")
    write_text(root / f"{name}-database.txt", "\n".join(lines[queries:]) + "\n")
    print(
        f"{name}: {queries} queries, {len(lines) - queries} database pictures, {len(names)} classes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make list files of drawings.")
    parser.add_argument(
        "root",
        type=Path,
        help="folder that both packages were unpacked into; gets the four list files",
    )
    root = parser.parse_args().root
    found: dict[str, list[str]] = defaultdict(list)
    for folder in ROOTS:
        if not (root / folder).is_dir():
            raise SystemExit(
                f"{root / folder} does not exist; unpack both packages into {root} first"
            )
        for path in sorted((root / folder).rglob("*.png")):
            if (
                path.is_file()
                and not path.is_symlink()
                and " " not in str(path.relative_to(root))
                and not huge(path)
            ):
                found[subject(path.relative_to(root / folder).parts[:-1])].append(
                    str(path.relative_to(root))
                )
    generator = np.random.default_rng(SEED)
    kept = {name: paths for name, paths in sorted(found.items()) if name and len(paths) >= LEAST}
    if not kept:
        raise SystemExit(
            f"{root} holds no kind of drawing with {LEAST} pictures; unpack both packages whole"
        )
    chosen = [
        (path, name)
        for name, paths in kept.items()
        for path in generator.permutation(paths)[:MOST].tolist()
    ]
    paths, classes = zip(*(chosen[row] for row in generator.permutation(len(chosen))), strict=True)
    queries = int(QUERIES * len(paths))
    write_lists(root, "fine", list(paths), list(classes), queries)
    write_lists(root, "coarse", list(paths), [name.split("/")[0] for name in classes], queries)
    drawn, photographs = (
        {name: [path for path in paths if path.startswith(folder)] for name, paths in found.items()}
        for folder in ROOTS
    )
    asked = [
        (path, shown)
        for name, shown in ACROSS.items()
        for path in generator.permutation(drawn.get(name, []))[:QUERIES_OF_ONE].tolist()
    ]
    known = [
        (path, name if name in ACROSS.values() else "")
        for name, paths in sorted(photographs.items())
        for path in paths
        if "cartoon" not in path
    ]
    if asked and known:
        paths, classes = zip(*asked, *known, strict=True)
        write_lists(root, "cross", list(paths), list(classes), len(asked))


if __name__ == "__main__":
    main()
