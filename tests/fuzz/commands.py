"""Whole commands, run in this process on a copy of the folder of ``place.py`` in which one file is
damaged.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.fuzz.place import SMALL, udmsh
from udmsh_pl.errors import InputError
from udmsh_pl.reports.table_rows import read_results


def _done(said: str) -> str:
    return "done"


@dataclass(frozen=True)
class Command:
    """A command line, run where one file is damaged.

    Args:
        file: the damaged file, a pattern that one file of the folder fits
        line: what is run
        answer: of what the command found, what no damage may change
    """

    file: str
    line: str
    answer: Callable[[str], str] = _done

    @property
    def checked(self) -> bool:
        """Whether every byte of the file has a checksum, or nothing depends on it."""
        return self.answer is not _done

    def whole(self, base: Path) -> bytes:
        """The file before the damage."""
        return self._file(base).read_bytes()

    def __call__(self, path: Path) -> str:
        """Put the file ``path`` in its place in a copy of ``base`` beside it, and run.

        Raises:
            InputError: the command refused, as it should.
            RuntimeError: it ended in another way.
        """
        base, place = path.parent / "base", path.parent / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(base, place, copy_function=shutil.copy2)
        path.replace(self._file(place))
        os.chdir(place)
        try:
            status, said, errors = udmsh(self.line)
            if status == 2 and "udmsh: error: " in errors and "Traceback" not in errors:
                raise InputError(errors[errors.index("udmsh: error: ") :].strip())
            if status not in (0, 1) or "Traceback" in errors:
                raise RuntimeError(f"status {status}: {errors.strip()[-300:]}")
            return self.answer(said) if status == 0 else f"status {status}"
        finally:
            os.chdir(path.parent)

    def _file(self, folder: Path) -> Path:
        return max(folder.glob(self.file), key=lambda path: path.stat().st_size)


def _same(said: str) -> str:
    return said


def _values(said: str) -> str:
    """What a plan found."""
    rows = read_results(Path("plan/results.csv"))
    return str(sorted((r.cell.name, r.metric, r.k, r.ties, r.value) for r in rows))


def _codes(said: str) -> str:
    with np.load("run/codes.npz", allow_pickle=False) as arrays:
        found = [arrays[name].tobytes() for name in ("query_codes", "database_codes")]
    return hashlib.sha256(b"".join(found)).hexdigest()


def _weights(said: str) -> str:
    found = load_file("again/encoder.safetensors")
    return hashlib.sha256(b"".join(found[name].tobytes() for name in sorted(found))).hexdigest()


FIT = f"fit --config config.yaml {SMALL}"
PLAN = f"reproduce config.yaml {SMALL} --out plan --methods"
PREDICT = f"predict --config config.yaml {SMALL} --ckpt_path run/last.ckpt"
EXPORT = "export {} --format torchscript --out again"
SEARCH = "search search/index search/pictures/01.png --json"
STORE, SEGMENT = "cache/*-clean-*", "search/index/segments/*"
COMMANDS: dict[str, Command] = {
    "fit config.yaml": Command("config.yaml", FIT),
    "fit query.txt": Command("query.txt", FIT),
    "fit picture": Command("pictures/database3.png", FIT),
    "fit last.ckpt": Command("run/last.ckpt", f"{FIT} --ckpt_path run/last.ckpt"),
    "reproduce config.yaml": Command("config.yaml", f"{PLAN} lsh --bits 8 --seeds 0"),
    "predict last.ckpt": Command("run/last.ckpt", PREDICT, _codes),
    "export last.ckpt": Command("run/last.ckpt", EXPORT.format("run/last.ckpt"), _weights),
    "export encoder.json": Command("exported/encoder.json", EXPORT.format("exported"), _weights),
    "export encoder.safetensors": Command(
        "exported/encoder.safetensors", EXPORT.format("exported"), _weights
    ),
    "split query.txt": Command("query.txt", f"data split config.yaml {SMALL} --write lists"),
    "check query.txt": Command("query.txt", "data check query.txt --root pictures --workers 1"),
    "check manifest": Command(
        "manifest.csv", "data check manifest.csv --root pictures --workers 1"
    ),
    "check picture": Command("pictures/query1.png", "data check pictures --workers 1"),
    "evaluate codes.npz": Command(
        "plan/cells/lsh-*/codes.npz", "evaluate plan/cells/lsh-8-0/codes.npz", _same
    ),
    "table results.csv": Command("plan/results.csv", "table plan"),
    **{
        f"again {name}": Command(f"plan/{name}", f"{PLAN} lsh", _values)
        for name in ("results.csv", "config.yaml", "environment.json")
    },
    **{
        f"again {name}": Command(f"plan/cells/lsh-*/{name}", f"{PLAN} lsh", _values)
        for name in ("done.json", "codes.npz", "scores.npz")
    },
    **{
        f"cache {name}": Command(f"{STORE}/{name}", f"{PLAN} lsh --seeds 1", _values)
        for name in ("meta.json", "verified.json", "feature_map.f16", "global_feature.f16")
    },
    "cache contents": Command("cache/contents-*.npz", f"{PLAN} lsh --seeds 1", _values),
    **{
        f"teacher {kind}": Command(
            f"cache/teachers/*.{kind}", f"{PLAN} udmsh", _values
        )
        for kind in ("json", "safetensors")
    },
    "search index.json": Command("search/index/index.json", SEARCH, _same),
    "search encoder.json": Command("search/index/encoder-*/encoder.json", SEARCH, _same),
    "search picture": Command("search/pictures/01.png", SEARCH),
    **{
        f"search {name}": Command(f"{SEGMENT}/{name}", SEARCH, _same)
        for name in ("codes.npy", "features.npy", "files.npy", "names.bin", "thumbnails.npy")
    },
    "search thumbnails.bin": Command(f"{SEGMENT}/thumbnails.bin", SEARCH, _same),
    "duplicates thumbnails.bin": Command(
        f"{SEGMENT}/thumbnails.bin", "duplicates search/index --report copies.html"
    ),
    "duplicates files.npy": Command(f"{SEGMENT}/files.npy", "duplicates search/index", _same),
    "index index.json": Command(
        "search/index/index.json", "index search/pictures --out search/index --moved"
    ),
}  # fmt: skip
