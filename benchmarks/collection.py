"""A collection of many small pictures: first index, updates, search, copies and page, with memory.

    python benchmarks/collection.py PICTURES [--counts 10000 100000] [--work FOLDER] [--out FILE]

PICTURES is a folder of CIFAR-10's JPEGs; a collection holds so many of them, and where they do not
suffice recompressed, mirrored, cut, brightened and resized variants. Each row is one command in a
process of its own, with the largest memory that it and its children had.
"""

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from udmsh_pl.safe.files import write_text

ROOT = Path(__file__).parents[1]
NEW = 100  # pictures of an update
AIMS = {  # of 100,000 pictures: seconds, MB
    "first index": ("", "1500"),
    "update, nothing new": ("2", "300"),
    f"update, {NEW} new": ("15", ""),
    "search": ("0.3", ""),
    "duplicates": ("180", "1000"),
    "page opens": ("1", ""),
}


def make(root: Path, sources: list[Path], count: int, folder: Path) -> None:
    """``count`` pictures: links to sources, and variants of some of them."""
    for path in sources[:count]:
        place = folder / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, place)
    for number, path in enumerate(sources[: max(0, count - len(sources))]):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        kind = number % 5
        if kind == 1:
            image = ImageOps.mirror(image)
        elif kind == 2:
            image = image.crop((1, 2, 30, 31))
        elif kind == 3:
            image = ImageEnhance.Brightness(image).enhance(1.25)
        elif kind == 4:
            image = image.resize((48, 48))
        (folder / "variants").mkdir(exist_ok=True)
        image.save(folder / "variants" / f"{number:06d}.jpg", quality=60 if kind == 0 else 88)


def udmsh(*arguments: object) -> tuple[float, float, float]:
    """:func:`timed` of an ``udmsh`` command, printed."""
    cost = timed([sys.executable, "-m", "udmsh_pl", *map(str, arguments)])
    print(*arguments, *(f"{value:.1f}" for value in cost), flush=True)
    return cost


def timed(command: list[str]) -> tuple[float, float, float]:
    """Seconds by the wall and of processors, and MB at the peak, of a command."""
    code = (
        "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, status)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    wall = time.perf_counter() - start
    processor, peak, status = map(float, done.stdout.splitlines()[-1].split())
    if status:
        sys.exit(f"{' '.join(command)} ended with status {status:.0f}")
    return wall, processor, peak


def page(index: Path) -> tuple[float, float, float]:
    """From the page's address to its first pictures, once the server runs; the server's memory."""
    command = [sys.executable, "-m", "udmsh_pl", "serve", str(index), "--port", "8977"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            start, before = time.perf_counter(), time.process_time()
            for place in ("", "pictures?limit=50"):
                with urllib.request.urlopen(f"http://127.0.0.1:8977/{place}") as answer:
                    answer.read()
            wall = time.perf_counter() - start
            status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
            peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
            return wall, time.process_time() - before, peak
        finally:
            server.terminate()


def measured(
    root: Path, sources: list[Path], count: int, work: Path
) -> dict[str, tuple[float, float, float]]:
    """Every row for a collection of ``count`` pictures."""
    folder, index = work / f"pictures-{count}", work / f"index-{count}"
    if not folder.is_dir():
        make(root, sources, count, folder)
    rows = {"first index": udmsh("index", folder, "--out", index)}
    rows["update, nothing new"] = udmsh("index", folder, "--out", index)
    (folder / "new").mkdir()
    for number, path in enumerate(sources[-NEW:]):
        with Image.open(path) as opened:
            opened.convert("RGB").rotate(7).save(folder / "new" / f"{number}.jpg")
    rows[f"update, {NEW} new"] = udmsh("index", folder, "--out", index)
    udmsh("search", index, sources[0])  # compiles, and reads the index from the disk
    rows["search"] = udmsh("search", index, sources[0])
    rows["duplicates"] = udmsh("duplicates", index, "--json")
    rows["page opens"] = page(index)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--work", type=Path, help="keep collections and indexes here")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/collection.md")
    arguments = parser.parse_args()
    if arguments.pictures is None:
        print("collection.py: left out, it wants a folder of real pictures")
        return
    sources = sorted(arguments.pictures.rglob("*.jpg"))
    random.Random(0).shuffle(sources)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        found = {}
        for count in arguments.counts:
            found[count] = measured(arguments.pictures, sources, count, work)
            print(count, found[count], flush=True)
    most = max(found)
    header = "| command | " + " | ".join(f"{count:,}: wall s, processor s, MB" for count in found)
    lines = [header + " | aim at 100,000 | exponent |", "|---" * (len(found) + 3) + "|"]
    for name, (seconds, room) in AIMS.items():
        cells = [f"{w:.1f}, {p:.1f}, {m:,.0f}" for w, p, m in (one[name] for one in found.values())]
        least = min(found)
        growth = math.log(found[most][name][1] / max(found[least][name][1], 1e-3))
        exponent = f"{growth / math.log(most / least):.2f}" if most > least else ""
        aim = ", ".join(filter(None, (seconds and f"{seconds} s", room and f"{room} MB")))
        lines.append(f"| {name} | " + " | ".join([*cells, aim, exponent]) + " |")
    text = (
        "# A collection of small pictures\n\n`python benchmarks/collection.py PICTURES`: JPEGs of "
        f"CIFAR-10 and variants of them, {os.cpu_count()} cores, commit {commit}, load {load:.1f} "
        "before the start. MB is the largest memory of one process. The exponent is that of the "
        "growth of processor time.\n\n" + "\n".join(lines) + "\n"
    )
    write_text(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
