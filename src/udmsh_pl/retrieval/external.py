"""Codes and labels that other programs saved: which array holds them, how bits are written, which
axis is the items'.

No file can run code. NumPy files are read with ``allow_pickle=False``, PyTorch files with
``weights_only=True``; MATLAB files in a child process, since their parser can crash. Where a format
has checksums, all of them are checked. Whatever a damaged or hostile file makes a parser raise
becomes an ``InputError`` that names the file. A file may unpack to ``UDMSH_MAX_BYTES``
(:mod:`udmsh_pl.safe.untrusted`).
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bools, Bytes, pack_codes
from udmsh_pl.safe.child import run_isolated
from udmsh_pl.safe.untrusted import check_archive, check_file, exists, limit, over

_log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
SINGLE = ""  # the name of a file's only array, where the format has no names

_ENOUGH = 64  # values of which one would be negative if they had a sign

# names under which the field's code saves its arrays, lower case, the more specific first
NAMES = {
    "query codes": "query_codes q_codes qb tst_binary test_binary query",
    "database codes": "database_codes db_codes rb retrieval_b trn_binary train_binary database",
    "query labels": "query_labels q_labels ql query_l queryl tst_label test_label",
    "database labels": "database_labels db_labels rl retrieval_l retrievall trn_label train_label",
}
# where each of the two has a file of its own
PLAIN_NAMES = {"codes": "codes code binary b u", "labels": "labels label targets l y"}


@dataclass(frozen=True)
class ExternalFile:
    """The arrays of one file; ``name`` is the one that was asked for, if any."""

    path: Path
    name: str | None
    arrays: dict[str, Array]

    @staticmethod
    def open(source: str) -> "ExternalFile":
        """Read ``path`` or ``path:NAME``; raises as :func:`read_arrays`, and for a wrong NAME."""
        path, name = Path(source), None
        head, colon, tail = source.rpartition(":")
        if colon and not exists(path) and exists(Path(head)):
            path, name = Path(head), tail
        file = ExternalFile(path, name, read_arrays(path))
        if name is not None and name not in file.arrays:
            raise InputError(f"{path} holds no array {name!r}: choose one of {file.listing()}")
        return file

    def codes(self, role: str) -> Array:
        """The array of codes for ``role``, query or database; ``InputError`` if it is not clear."""
        found = self._find(f"{role} codes")
        found = self._only("codes", role) if found is None else found
        if found.dtype.kind in "US":
            raise InputError(f"{self.path}: the {role} codes are text: save them as numbers")
        return found

    def labels(self, role: str, own_file: bool) -> Array | None:
        """The array of labels for ``role``; in a file of labels alone under any name."""
        found = self._find(f"{role} labels") if self.name is None or own_file else None
        return self._only("labels", role) if found is None and own_file else found

    def bits(self) -> int | None:
        """The code length that the file states under the name ``bits``, if it does."""
        for name, array in self.arrays.items():
            if name.lower() in ("bits", "nbits", "n_bits") and array.size == 1:
                value = float(array.reshape(())[()])
                if not (math.isfinite(value) and value == int(value) >= 1):
                    raise InputError(f"{self.path}: {name} is {value:g}: give a whole number")
                return int(value)
        return None

    def listing(self) -> str:
        """Names and shapes of the arrays, for messages."""
        shapes = {name or "(unnamed)": list(array.shape) for name, array in self.arrays.items()}
        return ", ".join(f"{name} {shape}" for name, shape in shapes.items())

    def _find(self, what: str) -> Array | None:
        if self.name is not None:
            return self.arrays[self.name]
        by_lower = {key.lower(): array for key, array in self.arrays.items()}
        known = f"{NAMES[what]} {PLAIN_NAMES[what.split()[1]]}".split()
        return next((by_lower[name] for name in known if name in by_lower), None)

    def _only(self, what: str, role: str) -> Array:
        text = "US" if what == "codes" else ""
        several = (one for one in self.arrays.values() if one.size > 1)
        arrays = [one for one in several if one.dtype.kind not in text]
        if len(arrays) != 1:
            mend = f"Give {self.path}:NAME with one of {self.listing()}"
            raise InputError(f"{self.path}: which array holds the {role} {what}? {mend}")
        return arrays[0]


def external_codes(
    array: Array, bits: int | None, items: int | None, source: str
) -> tuple[Bytes, int]:
    """Pack codes as others write them: uint8 [items, ceil(bits / 8)], and the code length.

    Args:
        array: [items, bits] or [bits, items]; booleans, 0/1, -1/+1, real values (by sign; some
            must be below 0), or packed bytes, uint8
        bits: code length where it is known; needed for packed codes that do not fill their bytes
        items: number of items where it is known (from labels); it decides which axis is which
        source: file name for messages
    """
    if array.ndim != 2:
        raise InputError(f"{source}: the codes have shape {list(array.shape)}: give [items, bits]")
    array = _upright(array, items)
    if array.dtype == np.uint8 and _is_packed(array, bits):
        width = array.shape[1]
        length = bits or 8 * width
        if (length + 7) // 8 != width:
            rows = f"rows of {width} bytes are not codes of {bits} bits"
            raise InputError(f"{source}: {rows}: check --bits")
        # other programs fill the last byte from the other end; all eight bits then count, the idle
        # ones being equal
        spare = length % 8 and bool((array[:, -1] >> (length % 8)).any())
        return np.ascontiguousarray(array), 8 * width if spare else length
    if bits is not None and array.shape[1] != bits:
        rows = f"rows of {array.shape[1]} values are not codes of {bits} bits"
        raise InputError(f"{source}: {rows}: check --bits")
    if array.dtype.kind != "b":
        if not np.isfinite(array).all():
            raise InputError(f"{source}: the codes hold a value that is not finite: save them anew")
        if ((array == 0) | (array == 1)).all():
            array = array == 1
        elif array.dtype.kind in "iu" and not np.isin(array, (-1, 0, 1)).all():
            what = "whole numbers that are neither 0/1 nor -1/+1 are no codes"
            raise InputError(f"{source}: {what}: check the array")
        elif (np.abs(array) <= 1).all() and (array == np.trunc(array)).all() and (array == 0).any():
            zeros = int((array == 0).sum())
            _log.warning("%s: %s zeros among -1/+1 codes count as +1", source, f"{zeros:,}")
        elif array.size >= _ENOUGH and array.min() >= 0:
            inside = "outputs of a sigmoid" if array.max() <= 1 else "values without a negative one"
            raise InputError(
                f"{source}: {inside} are no codes, since bits are taken by the sign: subtract 0.5 "
                "(or the threshold), or give 0/1 or -1/+1"
            )
    return pack_codes(array), array.shape[1]


def external_labels(query: Array, database: Array, queries: int, items: int) -> tuple[Bools, Bools]:
    """Turn labels into bool [Q, L] and [N, L].

    A matrix of 0/1 or booleans is taken as it is, also one of a single column: one label that an
    item has or lacks. One whole number an item is its class, if the array has one axis, or one
    column with more than 0 and 1 in either. One text an item is the name of its class.

    Raises ``InputError``: none of these, values that are not finite, or so many classes that
    their table would be larger than ``UDMSH_MAX_BYTES``.
    """
    named = {"query": _upright(query, queries), "database": _upright(database, items)}
    for name, array in named.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{name} labels hold a value that is not finite: mend them")
        if array.ndim not in (1, 2):
            raise InputError(f"{name} labels have shape {list(array.shape)}: give [items, labels]")
    arrays = list(named.values())
    text = [array.dtype.kind in "US" for array in arrays]
    if any(text):
        if not all(text) or any(array.size != len(array) for array in arrays):
            raise InputError("labels that are text: give the name of one class an item, in both")
        return _one_hot(*map(_as_text, arrays))
    if all(array.ndim == 1 or array.shape[1] == 1 for array in arrays) and any(
        not _is_binary(array) or (array.ndim == 1 and array.dtype.kind != "b") for array in arrays
    ):
        return _one_hot(*(array.ravel() for array in arrays))
    for name, array in named.items():
        if not _is_binary(array):
            shape = f"{name} labels have shape {list(array.shape)}"
            raise InputError(f"{shape}: give a 0/1 matrix or one class an item")
    wanted, have = (array[:, None] == 1 if array.ndim == 1 else array == 1 for array in arrays)
    return wanted, have


def _one_hot(query: Array, database: Array) -> tuple[Bools, Bools]:
    for name, array in (("query", query), ("database", database)):
        if array.dtype.kind == "f" and (array != np.floor(array)).any():
            raise InputError(f"{name} labels hold fractions: give whole numbers, one class an item")
    classes = np.unique(np.concatenate([query, database]))
    if len(classes) * (len(query) + len(database)) > limit("BYTES"):
        table = f"{len(classes):,} classes of {len(query) + len(database):,} items"
        check = "or check that these are classes and not row numbers"
        raise InputError(f"labels: {table} take {over('BYTES')}; {check}")
    return query[:, None] == classes, database[:, None] == classes


def _as_text(array: Array) -> Array:
    flat = array.ravel()
    return np.char.decode(flat, "utf-8", "backslashreplace") if flat.dtype.kind == "S" else flat


def _is_binary(array: Array) -> bool:
    return bool(((array == 0) | (array == 1)).all())


def _upright(array: Array, items: int | None) -> Array:
    """[items, ...], whichever way round it was saved."""
    aside = array.ndim == 2 and array.shape[0] != items and array.shape[1] == items
    return np.ascontiguousarray(array.T) if aside else array


def _is_packed(array: Array, bits: int | None) -> bool:
    if bits is not None and array.shape[1] != bits:
        return bool(array.shape[1] == (bits + 7) // 8)
    return bool((array > 1).any())


def read_arrays(path: Path) -> dict[str, Array]:
    """Read every array of numbers, booleans or text of a file.

    The formats are .npz, .npy, .pt / .pth, .mat (up to version 7.2), and text (.txt, .csv, .tsv,
    .dat) with one item a line. Gives arrays by name; a file that names nothing gives one array
    named ``SINGLE``.

    Raises ``InputError``: no such file, an unknown extension, a damaged file, or nothing numeric in
    it.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(_READERS))
        raise InputError(f"{path} has no known extension: give one of {known}")
    check_file(path, "file of codes")
    try:
        found = {name: array for name, array in reader(path).items() if array.size}
        arrays = {name: one for name, one in found.items() if one.dtype.kind in "biufUS"}
    except InputError:
        raise
    except Exception as error:  # parsers of external bytes raise nearly every kind there is
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        mend = "save plain arrays again, without pickled objects"
        kind = path.suffix[1:]
        raise InputError(f"{path} cannot be read safely as {kind} ({reason}): {mend}") from error
    if not arrays:
        mend = "save the codes as a plain numeric array"
        raise InputError(f"{path} holds no array of numbers: {mend}")
    return arrays


def _read_npz(path: Path) -> dict[str, Array]:
    check_archive(path, limit("BYTES"))
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> dict[str, Array]:
    # mapped: nothing is allocated for a header that promises more than the file holds
    mapped = np.load(path, allow_pickle=False, mmap_mode="r")
    if not isinstance(mapped, np.memmap) or mapped.offset + mapped.nbytes != path.stat().st_size:
        raise InputError(f"{path}: its header and its size disagree: save the array again")
    return {SINGLE: np.array(mapped)}


def _read_pt(path: Path) -> dict[str, Array]:
    import torch

    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:  # else it is of the format before PyTorch 1.6, without checksums
        check_archive(path, limit("BYTES"))
    content = torch.load(path, map_location="cpu", weights_only=True)
    named = content if isinstance(content, Mapping) else {SINGLE: content}
    arrays = {}
    for name, value in named.items():
        if isinstance(value, torch.Tensor):
            plain = value.detach()
            if plain.layout == torch.strided and plain.nbytes > plain.untyped_storage().nbytes():
                # a tensor may repeat one stored number without end
                mend = "save it with .contiguous()"
                raise InputError(f"{path}: {name} is larger than what is stored of it: {mend}")
            half = plain.dtype in (torch.bfloat16, torch.float16)
            arrays[str(name)] = (plain.float() if half else plain).numpy()
        elif isinstance(value, (bool, int, float)):
            arrays[str(name)] = np.array(value)
    return arrays


def _read_mat(path: Path) -> dict[str, Array]:
    with path.open("rb") as stream:
        if b"MATLAB 7.3" in stream.read(128):
            raise InputError(f"{path} is a MATLAB 7.3 (HDF5) file: save it with -v7")
    with tempfile.TemporaryDirectory(prefix="udmsh-") as folder:
        run_isolated("udmsh_pl.retrieval.mat_child", path, folder)
        names = json.loads((Path(folder) / "names.json").read_text(encoding="utf-8"))
        arrays = _read_npz(Path(folder) / "arrays.npz")
        return {str(name): arrays[f"arr_{place}"] for place, name in enumerate(names)}


def _read_text(path: Path) -> dict[str, Array]:
    rows: list[Array] = []
    left = limit("BYTES")
    with path.open(encoding="utf-8-sig") as stream:
        for number, row in _rows(path, stream):
            left -= row.nbytes
            if left < 0:
                raise InputError(f"{path}:{number}: so far {over('BYTES')}")
            if rows and len(row) != len(rows[0]):
                lengths = f"{len(row)} values, the first row {len(rows[0])}"
                raise InputError(f"{path}:{number} has {lengths}: mend the line")
            rows.append(row)
    return {SINGLE: np.stack(rows)} if rows else {}


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Array]]:
    for number, line in enumerate(lines, start=1):
        fields = line.replace(",", " ").replace(";", " ").split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) == 1 and len(fields[0]) > 1 and not fields[0].strip("01"):
            fields = list(fields[0])  # 0110..., written without blanks
        try:
            row = np.array(fields, dtype=np.float64)
        except ValueError as error:
            raise InputError(
                f"{path}:{number} is not a row of numbers: give 0/1 or -1/+1, one item a line"
            ) from error
        if not np.isfinite(row).all():
            raise InputError(f"{path}:{number} holds a value that is not finite: give 0/1 or -1/+1")
        yield number, row


_READERS: dict[str, Callable[[Path], dict[str, Array]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".mat": _read_mat,
    **dict.fromkeys((".pt", ".pth"), _read_pt),
    **dict.fromkeys((".txt", ".csv", ".tsv", ".dat"), _read_text),
}
