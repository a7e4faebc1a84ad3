"""Mutate folders of pictures, and compare their indexes with an independent oracle:
``python -m tests.trees --count 5000 --seed 0``.

An index must hold each picture that can be read, once, with its own code; keep those that cannot be
reached; drop those that are gone, but not most of them without ``allow_deletions``; and name
everything that it leaves out. As root, permissions bind nobody: the harness then becomes another
user first. One tree again: ``--first 17 --count 1``.
"""

import argparse
import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.serving import BITS, DIMS, SIDE, quick, use_quick_encoder
from tests.trees.disk import Disk, contents
from tests.trees.oracle import Held, expected, look
from udmsh_pl.errors import InputError
from udmsh_pl.search import HashEncoder, ImageIndex
from udmsh_pl.search.pictures import Report
from udmsh_pl.search.spec import EncoderSpec, write_spec

NOBODY = 65534
FEW = 3  # pictures whose deletion is believed
TICK = 0.012  # seconds after which a change of a file shows in its time of change
ROUNDS = 3  # updates of a tree, at most


class Wrong(Exception):
    """The index is another than it must be."""


def held(index: ImageIndex, codes: dict[bytes, bytes]) -> Held:
    """What an index holds; each name once, with the code of its content."""
    names = list(index.rows.names)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Wrong(f"twice: {twice}")
    found = {}
    for row, name in enumerate(names):
        digest = index.rows.files["digest"][row].tobytes()
        if index.rows.codes[row].tobytes() != codes[digest]:
            raise Wrong(f"another picture's code: {name!r}")
        index.thumbnail(row)
        found[name] = digest
    return found


def compare(found: Held, wanted: Held, what: str) -> None:
    """Raise where the two differ."""
    for problem, names in {
        "lost": wanted.keys() - found.keys(),
        "too many": found.keys() - wanted.keys(),
        "another content": {
            one for one in wanted.keys() & found.keys() if wanted[one] != found[one]
        },
    }.items():
        if names:
            raise Wrong(f"{what}, {problem}: {sorted(map(ascii, names))}")


def check_listed(report: Report, seen_left_out: set[str], index: ImageIndex) -> None:
    """Everything that is left out stands in the report, itself or with a folder above it."""
    told = {*report.skipped, *(name for name, _ in report.broken)}
    for name in seen_left_out - set(index.rows.names):
        parts = name.split("/")
        if not any("/".join(parts[:end]) in told for end in range(1, len(parts) + 1)):
            raise Wrong(f"left out without a word: {name!r}")


def one_tree(
    number: int, seed: int, place: Path, other: Path, encoder: HashEncoder, pool: list[bytes],
    codes: dict[bytes, bytes], counts: Counter[str],
) -> None:  # fmt: skip
    """Build and update the index of one tree."""
    choices = Random(f"{seed}-{number}")
    disk = Disk(place / "pictures", other, choices, pool)
    exclude = ["Screenshots", "s;*"] if choices.random() < 0.3 else []
    for _ in range(choices.randrange(4)):
        disk.mutate()
    seen = look(disk.root, exclude)
    try:
        index = ImageIndex.build(disk.root, encoder, place / "index", exclude=exclude)
    except InputError as error:
        if seen.pictures:
            raise Wrong(f"refused: {error}; {disk.done}") from error
        counts["no pictures"] += 1
        return
    try:
        state = held(index, codes)
        compare(state, seen.pictures, "built")
        if choices.random() < 0.3 and (other / "out1.png").is_file():
            index.add(other / "out1.png")
            name = str(other / "out1.png")
            state[name] = hashlib.blake2b(
                (other / "out1.png").read_bytes(), digest_size=16
            ).digest()
            compare(held(index, codes), state, "added")
        for _ in range(choices.randint(1, ROUNDS)):
            time.sleep(TICK)
            for _ in range(choices.randint(1, 5)):
                disk.mutate()
            if choices.random() < 0.05:
                with suppress(PermissionError):  # its folder may be closed
                    (other / "out1.png").unlink(missing_ok=True)
            state = one_update(disk, place, exclude, state, codes, counts)
    except (Wrong, InputError, OSError) as error:
        raise Wrong(f"{type(error).__name__}: {error}; {disk.done}") from error


def one_update(
    disk: Disk, place: Path, exclude: list[str], state: Held, codes: dict[bytes, bytes],
    counts: Counter[str],
) -> Held:  # fmt: skip
    """Update the index, which is opened anew, and compare it."""
    index = ImageIndex.open(place / "index")
    if disk.choices.random() < 0.05:  # the disk is away
        disk.root.rename(place / "away")
        try:
            index.update(allow_deletions=True)
            raise Wrong("an absent folder was believed")
        except InputError:
            counts["absent folder"] += 1
        (place / "away").rename(disk.root)
        compare(held(ImageIndex.open(place / "index"), codes), state, "its folder was away")
    seen = look(disk.root, exclude)
    wanted = expected(disk.root, state, seen, drop_outside=False)
    lost = state.keys() - wanted.keys() - seen.broken
    away = [name for name in lost if state[name] not in set(wanted.values())]
    allowed = False
    try:
        report = index.update()
        if len(away) > FEW and len(away) > len(state) / 2 and not rule(disk.root, away):
            raise Wrong(f"{len(away)} of {len(state)} dropped without a word")
    except InputError as error:
        if "--allow-deletions" not in str(error) or not (
            len(lost) > FEW and len(lost) > len(state) / 2
        ):
            raise
        counts["refused"] += 1
        compare(held(ImageIndex.open(place / "index"), codes), state, "refused")
        report, allowed = index.update(allow_deletions=True), True
    wanted = expected(disk.root, state, seen, drop_outside=allowed)
    found = held(ImageIndex.open(place / "index"), codes)
    compare(found, wanted, "updated")
    check_listed(report, seen.left_out | seen.broken | seen.closed, index)
    counts["updates"] += 1
    counts["kept, unreachable"] += bool(report.unreachable)
    before = (place / "index/index.json").read_bytes()
    if (
        index.update(allow_deletions=allowed).added
        or (place / "index/index.json").read_bytes() != before
    ):
        raise Wrong("an update without changes wrote something")
    return found


def rule(root: Path, names: list[str]) -> bool:
    """Whether some of the names are still there, left out by a rule: then fewer are lost."""
    return any(os.path.lexists(root / name) for name in names)


def run(count: int, seed: int = 0, first: int = 0) -> list[str]:
    """Check ``count`` trees; gives what was wrong."""
    use_quick_encoder()
    failures, counts, begun = [], Counter[str](), time.monotonic()
    shm = Path("/dev/shm")
    fast = shm if shm.is_dir() and os.access(shm, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="trees-", dir=fast) as name,
        tempfile.TemporaryDirectory(prefix="trees-") as second,
    ):
        base = Path(name).resolve()
        if base.stat().st_dev == Path(second).stat().st_dev:
            print("one file system alone: links lead to another folder of it")
        spec = EncoderSpec(
            "SignEncoder", {}, "none", "none", False, SIDE, (0, 0, 0), (1, 1, 1), 2, BITS, DIMS
        )  # fmt: skip
        (base / "encoder").mkdir()
        write_spec(base / "encoder", spec)
        pool, encoder = contents(base), HashEncoder(base / "encoder")
        codes = {hashlib.blake2b(one, digest_size=16).digest(): code_of(one) for one in pool[:-3]}
        for number in range(first, first + count):
            place, other = base / f"{number}", Path(second).resolve() / f"{number}"
            try:
                one_tree(number, seed, place, other, encoder, pool, codes, counts)
            except Wrong as error:
                failures.append(f"tree {number}: {error}")
                print(f"  FAILED {failures[-1]}", flush=True)
            for folder in (place, other):
                remove(folder)
            if (number + 1) % 500 == 0:
                print(f"{number + 1:,} trees, {time.monotonic() - begun:.0f} s", flush=True)
    seconds = time.monotonic() - begun
    print(f"{count:,} trees in {seconds:.0f} s, {len(failures)} failed, {dict(counts)}")
    return failures


def code_of(content: bytes) -> bytes:
    """The code of a picture."""
    image = (
        Image.open(io.BytesIO(content))
        .convert("RGB")
        .resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    )
    return quick(np.asarray(image).transpose(2, 0, 1)[None])[0].tobytes()


def remove(folder: Path) -> None:
    """Delete a tree whose folders may be closed."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser("tests.trees", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="trees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first tree")
    own = parser.parse_args()
    if os.geteuid() == 0:
        run(2, own.seed)  # imports everything, which the other user may not be able to read
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    sys.exit(1 if run(own.count, own.seed, own.first) else 0)


if __name__ == "__main__":
    main()
