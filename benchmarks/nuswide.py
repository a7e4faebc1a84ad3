"""NUS-WIDE at its size: a tree like the official one, run through ``udmsh reproduce nuswide``.

    python benchmarks/nuswide.py PICTURES LABELS --tree DIR [--image-size 64] [--bits 32]
        [--stages extract one jobs ray]

PICTURES is a folder of JPEG files, LABELS a list file whose rows have 21 columns. The tree has the
269,648 lines, 81 label files and 195,834 images with one of 21 concepts that NUS-WIDE has; its
pictures are hard links to those of PICTURES, of the same file system, and each has the labels of
one row of LABELS. So time and memory are measured, and scores mean nothing. What was measured is
kept in DIR; a stage that is there is not run again, and a killed extraction goes on.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from udmsh_pl.images.walk import walk
from udmsh_pl.reports.table_rows import read_results
from udmsh_pl.safe.files import write_text

LINES, WITH_21, WITH_81, CONCEPTS, FREQUENT = 269_648, 195_834, 209_347, 81, 21
STAGES = {
    "extract": ("data", "extract", "nuswide"),
    "one": ("reproduce", "nuswide"),
    "jobs": ("reproduce", "nuswide", "--jobs", "2"),
    "ray": ("reproduce", "nuswide", "--ray"),
}
TOLD = {
    "tree": "making the tree (links and label files)",
    "extract": "`udmsh data extract`",
    "one": "`udmsh reproduce`, one cell after the other",
    "jobs": "the same with `--jobs 2`",
    "ray": "the same with `--ray`, two nodes of one CPU in one machine",
}


def make_tree(pictures: Path, labels: Path, tree: Path) -> None:
    """Link the pictures and write the official text files."""
    generator = np.random.default_rng(0)
    real = [line.split()[1:] for line in labels.read_text(encoding="utf-8").splitlines()]
    rows = np.array(real, dtype=np.uint8)
    distinct = list(walk(pictures).files)
    own = rows[generator.choice(len(rows), len(distinct), replace=False)]
    table = np.zeros((LINES, CONCEPTS), dtype=np.uint8)
    which = np.arange(LINES) % len(distinct)
    order = generator.permutation(LINES)
    table[order[:WITH_21], :FREQUENT] = own[which[order[:WITH_21]]]
    rare = order[WITH_21:WITH_81]
    table[rare, generator.integers(FREQUENT, CONCEPTS, len(rare))] = 1
    lines = []
    for number, picture in enumerate(which):
        folder, name = f"folder{number % 704:03d}", f"{number:06d}.jpg"
        link = tree / "Flickr" / folder / name
        if number < 704:
            link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.hardlink_to(pictures / distinct[picture])
        lines.append(f"{folder}\\{name}")
    write_text(tree / "ImageList" / "Imagelist.txt", "\n".join(lines) + "\n")
    names = [f"concept{number:02d}" for number in range(CONCEPTS)]
    write_text(tree / "Concepts81.txt", "\n".join(names) + "\n")
    for number, name in enumerate(names):
        text = "\n".join(map(str, table[:, number])) + "\n"
        write_text(tree / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt", text)


def below(parent: int) -> list[int]:
    """A process and all that came of it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(stat[1])
    found = [parent]
    for process in found:
        found += [child for child, its in parents.items() if its == process]
    return found


def proportional_kb(process: int) -> int:
    """Memory of a process; a page that several share counts in parts."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


class Watch:
    """Samples the memory of a process and its children, once a second."""

    def __init__(self, process: int) -> None:
        self.process, self.peak_kb, self.ended = process, 0, threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()

    def _sample(self) -> None:
        while not self.ended.wait(1):
            here = sum(proportional_kb(one) for one in below(self.process))
            self.peak_kb = max(self.peak_kb, here)

    def stop(self) -> float:
        """The peak in GB."""
        self.ended.set()
        self.thread.join()
        return self.peak_kb * 1024 / 1e9


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    """A Ray cluster of two nodes with one CPU each in this machine; gives its address."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    store = 100 * 2**20
    options = {"num_cpus": 1, "object_store_memory": store, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=store)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def measured(command: list[str]) -> dict[str, float]:
    """Run a command of ``udmsh``; wall and CPU seconds, and peak memory in GB."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with contextlib.ExitStack() as stack:
        if command[-1] == "--ray":
            command = [*command, stack.enter_context(two_nodes())]
        watch = Watch(os.getpid())
        try:
            subprocess.run([sys.executable, "-m", "udmsh_pl", *command], check=True)
        finally:
            peak = watch.stop()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, "peak_gb": peak}


def values(run: Path) -> dict[tuple[object, ...], float]:
    """Every value of a run by what it is a value of."""
    return {(*r.cell, r.metric, r.k, r.ties): r.value for r in read_results(run / "results.csv")}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run NUS-WIDE's size.")
    parser.add_argument("pictures", type=Path, help="folder with JPEG files")
    parser.add_argument("labels", type=Path, help="list file with 21 label columns")
    parser.add_argument("--tree", type=Path, required=True, help="where the tree is made, and kept")
    parser.add_argument("--image-size", default="64")
    parser.add_argument("--bits", nargs="+", default=["32"])
    parser.add_argument("--stages", nargs="*", choices=list(STAGES), default=list(STAGES))
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "nuswide.md"
    )
    args = parser.parse_args()
    kept = args.tree / "measured.json"
    seen = json.loads(kept.read_text()) if kept.is_file() else {}
    if "tree" not in seen:
        start = time.perf_counter()
        make_tree(args.pictures.resolve(), args.labels, args.tree)
        seen["tree"] = {"seconds": time.perf_counter() - start}
        write_text(kept, json.dumps(seen))
    options = [
        "--data.root", str(args.tree), "--data.cache_dir", str(args.tree / "cache"),
        "--data.image_size", args.image_size, "--model.backbone", "tf_efficientnet_lite0",
    ]  # fmt: skip
    for stage in args.stages:
        command, own = list(STAGES[stage]), list(options)
        if stage != "extract":
            run = args.tree / stage
            own += ["--bits", *args.bits, "--seeds", "0", "--out", str(run)]
            if stage not in seen:
                shutil.rmtree(run, ignore_errors=True)
                shutil.rmtree(args.tree / "cache" / "teachers", ignore_errors=True)
        if stage not in seen:
            seen[stage] = measured(
                [*command[:2], *own, *command[2:]] if stage != "extract" else [*command, *own]
            )
            write_text(kept, json.dumps(seen))
    runs = [stage for stage in ("one", "jobs", "ray") if stage in seen]
    found = [values(args.tree / stage) for stage in runs]
    same = None if len(runs) < 2 else all(one == found[0] for one in found)
    pictures = len(walk(args.pictures).files)
    text = report(seen, same, pictures, args.image_size, args.tree / runs[0] if runs else None)
    print(text)
    write_text(args.out, text)


def report(
    seen: dict[str, dict[str, float]], same: bool | None, pictures: int, size: str, run: Path | None
) -> str:
    """The table."""
    lines = [
        f"# NUS-WIDE at its size: {LINES:,} lines, {WITH_21:,} images with one of 21 concepts",
        "",
        f"tf_efficientnet_lite0 at {size} px, one thread; protocol 21-concepts: 2,100 queries,",
        "10,500 train, 193,734 database. The pictures are hard links to",
        f"{pictures:,} real ones: each is decoded and run through the backbone as often as it is",
        "linked, nothing is shared by content, but the operating system has the files in memory.",
        "Each has the labels of one row of the published train list, and so have its copies: the",
        "table is of time and memory, and its scores mean nothing.",
        "",
        "| stage | seconds | CPU seconds | peak memory, GB |",
        "|---|---:|---:|---:|",
    ]
    for stage, told in TOLD.items():
        if stage in seen:
            one = seen[stage]
            cpu, peak = (f"{one[key]:.1f}" if key in one else "" for key in ("cpu", "peak_gb"))
            lines.append(f"| {told} | {one['seconds']:.0f} | {cpu.split('.')[0]} | {peak} |")
    lines += [
        "",
        "Memory is the sum over all processes, with shared pages in parts, sampled once a second.",
    ]
    if run is not None:
        if same is not None:
            lines.append(f"Rows of the runs are {'equal' if same else 'NOT equal'}.")
        lines += ["", (run / "table.md").read_text().strip()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
