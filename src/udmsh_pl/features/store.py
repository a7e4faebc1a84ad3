"""Frozen features on disk: written block by block, resumable, and either whole or never used.

A finished store is a directory with one raw little-endian float16 file an array, ``meta.json``
(key, shapes, SHA-256, which images were left out) and ``verified.json``
(:mod:`udmsh_pl.features.verified`). It is written in ``<directory>.part``, whose ``done.json``
lists the blocks that are on disk with their SHA-256, and renamed when the last block is there; a
killed run goes on behind the last block that is whole.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from udmsh_pl.errors import InputError
from udmsh_pl.features.verified import are_whole
from udmsh_pl.safe.files import sha256_file, sha256_json, write_text

_log = logging.getLogger(__name__)
Batch = dict[str, Tensor]
Arrays = dict[str, NDArray[np.float16]]
Place = tuple[int, int] | str  # number of a store and the row in it, or why an image has none
DTYPE = np.dtype("<f2")
COPIED_AT_ONCE = 4096  # images
OF_A_LIST = ("images", "rows")  # facts of a key that tell lists apart, and nothing else
# what reading JSON raises that is none, or holds something else than was written
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def sample_rows(count: int, limit: int | None) -> NDArray[np.int64]:
    """At most ``limit`` of ``count`` rows, rising, drawn with a fixed seed, for a fit to many."""
    if limit is None or count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def open_features(directory: Path) -> Arrays | None:
    """Memory-map a finished store; None where there is none, or one that was cut or altered.

    The bytes are checked against the recorded SHA-256 once, and again when a file has changed.

    Raises ``InputError``: the store cannot be read for a reason that says nothing about its
    content.
    """
    if not directory.is_dir():
        return None
    try:
        shapes = _shapes_if_whole(directory)
        if shapes is None:
            return None
        return {
            # no file of no bytes can be mapped
            name: np.memmap(directory / f"{name}.f16", DTYPE, "r", shape=shape)
            if shape[0]
            else np.zeros(shape, DTYPE)
            for name, shape in shapes.items()
        }
    except OSError as error:
        raise InputError(
            f"the features in {directory} cannot be read ({error}); mend that, or give "
            "--data.cache_dir another folder"
        ) from error


def _shapes_if_whole(directory: Path) -> dict[str, tuple[int, ...]] | None:
    """Shape of each array, or None where a file is absent, cut or altered."""
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        if meta.pop("sha256", None) not in (None, sha256_json(meta)):  # stores of 0.1.0 have none
            return None
        digests, shapes = {}, {}
        for name, facts in meta["arrays"].items():
            path, shape = directory / f"{name}.f16", tuple(facts["shape"])
            if path.stat().st_size != int(np.prod(shape)) * DTYPE.itemsize:
                return None
            digests[path], shapes[name] = str(facts["sha256"]), shape
        _facts(meta)
    except (*MALFORMED, FileNotFoundError):
        return None
    return shapes if are_whole(digests, directory / "verified.json") else None


class StoreFacts(NamedTuple):
    """What a finished store says of itself, beside its arrays."""

    key: dict[str, Any]  # everything that decides its content
    runners: list[str]  # what made its rows; nothing for stores of 0.1.0
    # images of the list that have no row, by their number in the list, and why
    broken: dict[int, str]
    # digest of each image of the list; None where they were not on a disk
    contents: list[bytes] | None


def store_facts(directory: Path) -> StoreFacts:
    """Facts of a store that :func:`open_features` has opened."""
    return _facts(json.loads((directory / "meta.json").read_text(encoding="utf-8")))


def _facts(meta: dict[str, Any]) -> StoreFacts:
    """Raises one of ``MALFORMED`` where somebody altered them."""
    key, digests = dict(meta["key"]), bytes.fromhex(meta.get("contents", ""))
    rows = int(key.get("rows", 0))
    broken = {int(row): str(reason) for row, reason in meta.get("broken", {}).items()}
    size = len(digests) // max(1, rows)
    if len(digests) != size * rows or not all(0 <= row < rows for row in broken):
        raise ValueError("contents or broken images of another list")
    runners = [str(name) for name in meta.get("runners", ())]
    contents = [digests[at : at + size] for at in range(0, len(digests), size)] if size else None
    return StoreFacts(key, runners, broken, contents)


def places_of(number: int, rows: range, broken: Mapping[int, str]) -> list[Place]:
    """Where each of some rows of a list is: in store ``number``, whose rows are in their order."""
    stored = count()
    return [broken[row] if row in broken else (number, next(stored)) for row in rows]


class Known(NamedTuple):
    """Rows of a cache by the content of their image; ``runners`` made them."""

    stores: list[Arrays]
    places: dict[bytes, Place]
    runners: set[str]


def known_rows(cache: Path, prefix: str, key: Mapping[str, Any]) -> Known:
    """Rows of finished stores, ``prefix*``, whose key differs from ``key`` in the list alone."""

    def settings(facts: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in facts.items() if name not in OF_A_LIST}

    known = Known([], {}, set())
    for meta in sorted(cache.glob(f"{prefix}*/meta.json")):
        if meta.parent.name.endswith(".part"):
            continue
        try:
            facts = store_facts(meta.parent)
            arrays = open_features(meta.parent) if settings(facts.key) == settings(key) else None
        except (*MALFORMED, OSError) as error:
            _log.warning("%s: cannot be read, so its rows are made again (%s)", meta, error)
            continue
        if arrays is None or facts.contents is None:
            continue
        rows = places_of(len(known.stores), range(len(facts.contents)), facts.broken)
        for content, place in zip(facts.contents, rows, strict=True):
            if not isinstance(place, str) or content not in known.places:
                known.places[content] = place
        known.stores.append(arrays)
        known.runners.update(facts.runners)
    return known


class FeatureWriter:
    """Appends blocks of rows to a store, resuming an unfinished one with the same key.

    Args:
        directory: where the finished store will be; a damaged one that is there makes room for it
        key: everything that decides the content; written to ``meta.json``
        rows: N, rows of the finished store
        shapes: shape of one row of each array
        runners: what makes the rows; ``meta.json`` lists all that made some, beside the key
        contents: digest of each image, so that another list that has it can take its row

    Raises ``InputError``: the disk has too little room for the whole store.
    """

    def __init__(
        self, directory: Path, key: Mapping[str, Any], rows: int,
        shapes: Mapping[str, tuple[int, ...]], runners: Collection[str] = ("torch",),
        contents: Sequence[bytes] | None = None,
    ) -> None:  # fmt: skip
        self.directory, self.key, self.rows, self.shapes = directory, dict(key), rows, dict(shapes)
        self.runners, self.contents = sorted(runners), contents
        self.blocks: list[dict[str, Any]] = []
        self.part = directory.with_name(directory.name + ".part")
        if directory.exists() and open_features(directory) is None:
            shutil.rmtree(directory)
        self.part.mkdir(parents=True, exist_ok=True)
        self._resume()
        need = self.bytes_needed - self.done * self.bytes_needed // max(rows, 1)
        free = shutil.disk_usage(self.part).free
        if need > free:
            raise self._full(f"needs {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")

    @property
    def bytes_needed(self) -> int:
        """Size of the finished store in bytes."""
        return sum(self.rows * self._row_bytes(name) for name in self.shapes)

    @property
    def done(self) -> int:
        """Images of the list that are dealt with: written, or left out."""
        return sum(block["rows"] + len(block["broken"]) for block in self.blocks)

    def append(
        self, block: Mapping[str, NDArray[Any]], broken: Mapping[int, str] | None = None
    ) -> None:
        """Write the next rows of every array, then their checksum: a kill between the two only
        repeats this block. ``broken`` images, by number in the list, have no row in it.
        """
        try:
            rows, sums = 0, {}
            for name in self.shapes:
                values = np.ascontiguousarray(block[name], dtype=DTYPE)
                rows, content = len(values), values.tobytes()
                sums[name] = hashlib.sha256(content).hexdigest()
                with (self.part / f"{name}.f16").open("ab") as stream:
                    stream.write(content)
            self.blocks.append({"rows": rows, "broken": dict(broken or {}), "sha256": sums})
            state = {"key": self.key, "runners": self.runners, "rows": self.done}
            write_text(self.part / "done.json", json.dumps(state | {"blocks": self.blocks}))
        except OSError as error:
            raise self._full(str(error)) from error

    def copy(self, stores: Sequence[Arrays], places: Sequence[Place]) -> Arrays:
        """Append rows of other stores, from where this one was left; ``places`` of all images."""
        for start in range(self.done, len(places), COPIED_AT_ONCE):
            part = places[start : start + COPIED_AT_ONCE]
            broken = {row: why for row, why in enumerate(part, start) if isinstance(why, str)}
            wanted = [place for place in part if not isinstance(place, str)]
            store, rows = np.array(wanted, np.int64).reshape(-1, 2).T
            block = {name: np.empty((len(rows), *own), DTYPE) for name, own in self.shapes.items()}
            for number in np.unique(store):
                for name, values in block.items():
                    values[store == number] = stores[number][name][rows[store == number]]
            self.append(block, broken)
        return self.finish()

    def finish(self) -> Arrays:
        """Record the checksums, rename the directory, and open it."""
        rows = sum(block["rows"] for block in self.blocks)
        meta: dict[str, Any] = {"key": self.key, "runners": self.runners, "arrays": {}}
        for name, shape in self.shapes.items():
            digest = sha256_file(self.part / f"{name}.f16")
            meta["arrays"][name] = {"shape": [rows, *shape], "sha256": digest}
        broken = {str(row): why for block in self.blocks for row, why in block["broken"].items()}
        if broken:
            meta["broken"] = broken
        if self.contents is not None:
            meta["contents"] = b"".join(self.contents).hex()
        try:
            whole = meta | {"sha256": sha256_json(meta)}
            write_text(self.part / "meta.json", json.dumps(whole, indent=1))
        except OSError as error:
            raise self._full(str(error)) from error
        (self.part / "done.json").unlink(missing_ok=True)
        self.part.rename(self.directory)
        opened = open_features(self.directory)
        if opened is None:
            what = f"{self.directory} changed while it was written"
            raise InputError(f"{what}; is another program writing there?")
        return opened

    def _row_bytes(self, name: str) -> int:
        return int(np.prod(self.shapes[name])) * DTYPE.itemsize

    def _resume(self) -> None:
        """Take over the blocks that are whole; what lies behind them is cut off."""
        try:
            state = json.loads((self.part / "done.json").read_text())
            found = list(state["blocks"]) if state["key"] == self.key else []
            earlier = map(str, state.get("runners", ()) if found else ())
            self.runners = sorted({*earlier, *self.runners})
        except (OSError, *MALFORMED):
            found = []
        paths = {name: self.part / f"{name}.f16" for name in self.shapes}
        for path in paths.values():
            path.touch()
        begin = 0
        for block in found:
            if not all(self._is_whole(path, name, begin, block) for name, path in paths.items()):
                break
            self.blocks.append(block)
            begin += block["rows"]
        for name, path in paths.items():
            with path.open("r+b") as stream:
                stream.truncate(begin * self._row_bytes(name))

    def _is_whole(self, path: Path, name: str, begin: int, block: Any) -> bool:
        """Whether a block's rows of an array are those that were written."""
        try:
            with path.open("rb") as stream:
                stream.seek(begin * self._row_bytes(name))
                content = stream.read(int(block["rows"]) * self._row_bytes(name))
            right = hashlib.sha256(content).hexdigest() == block["sha256"][name]
            return right and isinstance(block["broken"], dict)
        except (ValueError, KeyError, TypeError):
            return False

    def _full(self, reason: str) -> InputError:
        return InputError(
            f"features cannot be written to {self.part} ({reason}); free some room or give "
            "--data.cache_dir another disk"
        )
