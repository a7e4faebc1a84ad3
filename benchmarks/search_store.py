"""Time and memory to open and search an index of many pictures that does not fit its budget.

    python benchmarks/search_store.py [--rows 500000] [--out FILE]

The rows are made: random codes of 64 bits, features of 128, names of 30 characters, thumbnails of
200 bytes, in segments of 8,192 as `udmsh index` writes them. Each case runs in a process of its
own; times are of its processor, one thread; memory is what opening and searching add to a process
that has imported everything.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from udmsh_pl.safe.files import write_text
from udmsh_pl.search import store
from udmsh_pl.search.encoder import Codes
from udmsh_pl.search.searching import Searcher
from udmsh_pl.search.segment import FILES, Rows, write_segment

SEGMENT, BITS, DIMS = 8192, 64, 128


def write(path: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    with store.writing(path):
        made = []
        for start in range(0, count, SEGMENT):
            size = min(SEGMENT, count - start)
            rows = Rows(
                [f"folder/of/pictures/{start + row:07d}.jpg" for row in range(size)],
                np.zeros(size, FILES),
                generator.integers(0, 256, (size, BITS // 8), dtype=np.uint8),
                generator.integers(-127, 128, (size, DIMS), dtype=np.int8),
                [b"\0" * 200] * size,
            )
            made.append(write_segment(path / store.SEGMENTS, f"000001-{len(made):04d}", rows))
        manifest = store.Manifest(1, "/pictures", "encoder-000001", BITS, DIMS, tuple(made))
        store.write_manifest(path, manifest)


def measure(path: Path, mapped: bool) -> dict[str, float]:
    if mapped:
        store.IN_MEMORY = 0
    generator = np.random.default_rng(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    manifest, rows = store.open_rows(path)
    searcher = Searcher(path, manifest, rows)
    opened = time.process_time() - start
    seconds = []
    for _ in range(21):
        code = generator.integers(0, 256, (1, BITS // 8), dtype=np.uint8)
        feature = generator.integers(-127, 128, (1, DIMS), dtype=np.int8)
        start = time.process_time()
        _, found, _ = searcher.search(Codes(["#0"], code, feature), 20, 200)
        names = [rows.names[int(row)] for row in found]
        seconds.append(time.process_time() - start)
    assert len(names) == 20
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {
        "open": opened,
        "first": seconds[0],
        "search": float(np.median(seconds[1:])),
        "mb": grown,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--case", nargs=2, metavar=("INDEX", "KIND"), help="in this process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_store.md"))
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(Path(arguments.case[0]), arguments.case[1] == "mapped")))
        return
    lines = [
        f"# An index of {arguments.rows:,} made rows",
        "",
        "64 bits, features of 128, in segments of 8,192; mapped rows are what an index beyond "
        "256 MB has.",
        "",
        "| rows are | open, CPU s | first search, CPU ms | a search, CPU ms | memory added, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "index")
        start = time.process_time()
        write(path, arguments.rows)
        written = time.process_time() - start
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        for kind in ("in memory", "mapped"):
            command = [sys.executable, __file__, "--case", str(path), kind]
            found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            lines.append(
                f"| {kind} | {found['open']:.2f} | {1000 * found['first']:.0f} | "
                f"{1000 * found['search']:.1f} | {found['mb']:.0f} |"
            )
    lines += ["", f"Written in {written:.1f} CPU s, {size:,.0f} MB on the disk."]
    print("\n".join(lines))
    write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
