"""Make sense of external arrays: which one holds codes or labels, how bits are written, which axis
is the items'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bools, Bytes, pack_codes
from udmsh_pl.retrieval.io.code_files import Array, read_arrays
from udmsh_pl.safe.untrusted import exists, limit, over

_ENOUGH = 64  # values of which one would be negative if they had a sign

# names under which the field's code saves its arrays, lower case, the more specific first
NAMES = {
    "query codes": ("query_codes", "q_codes", "qb", "tst_binary", "test_binary", "query"),
    "database codes": (
        "database_codes",
        "db_codes",
        "rb",
        "retrieval_b",
        "trn_binary",
        "train_binary",
        "database",
    ),
    "query labels": (
        "query_labels",
        "q_labels",
        "ql",
        "query_l",
        "queryl",
        "tst_label",
        "test_label",
    ),
    "database labels": (
        "database_labels",
        "db_labels",
        "rl",
        "retrieval_l",
        "retrievall",
        "trn_label",
        "train_label",
    ),
}
PLAIN_NAMES = {
    "codes": ("codes", "code", "binary", "b", "u"),
    "labels": ("labels", "label", "targets", "l", "y"),
}  # where each of the two has a file of its own


@dataclass(frozen=True)
class ExternalFile:
    """The arrays of one file; ``name`` is the one that was asked for, if any."""

    path: Path
    name: str | None
    arrays: dict[str, Array]

    @staticmethod
    def open(source: str) -> ExternalFile:
        """Read ``path`` or ``path:NAME``; raises ``InputError`` for a file that cannot be read or
        lacks NAME.
        """
        path, name = Path(source), None
        head, colon, tail = source.rpartition(":")
        if colon and not exists(path) and exists(Path(head)):
            path, name = Path(head), tail
        file = ExternalFile(path, name, read_arrays(path))
        if name is not None and name not in file.arrays:
            raise InputError(f"{path} holds no array {name!r}: choose one of {file.listing()}")
        return file

    def codes(self, role: str) -> Array:
        """The array of codes for ``role``, query or database; ``InputError`` if it is not clear
        which that is.
        """
        found = self._find(f"{role} codes")
        return self._only(f"{role} codes") if found is None else found

    def labels(self, role: str, own_file: bool) -> Array | None:
        """The array of labels for ``role``; in a file of labels alone (``own_file``) under any
        name.
        """
        found = self._find(f"{role} labels") if self.name is None or own_file else None
        return self._only(f"{role} labels") if found is None and own_file else found

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
        return ", ".join(
            f"{name or '(unnamed)'} {list(array.shape)}" for name, array in self.arrays.items()
        )

    def _find(self, what: str) -> Array | None:
        if self.name is not None:
            return self.arrays[self.name]
        by_lower = {key.lower(): array for key, array in self.arrays.items()}
        known = (*NAMES[what], *PLAIN_NAMES[what.split()[1]])
        return next((by_lower[name] for name in known if name in by_lower), None)

    def _only(self, what: str) -> Array:
        arrays = [array for array in self.arrays.values() if array.size > 1]
        if len(arrays) != 1:
            raise InputError(
                f"{self.path}: which array holds the {what}? Give {self.path}:NAME with one of "
                f"{self.listing()}"
            )
        return arrays[0]


def external_codes(
    array: Array, bits: int | None, items: int | None, source: str
) -> tuple[Bytes, int]:
    """Turn codes as others write them into packed bytes.

    Args:
        array: [items, bits] or [bits, items]; booleans, 0/1, -1/+1, real values (by sign; some
            must be below 0), or packed bytes, uint8
        bits: code length where it is known; needed for packed codes that do not fill their bytes
        items: number of items where it is known (from labels): tells the axes apart
        source: file name for messages

    Returns:
        ``(uint8 [items, ceil(bits / 8)], bits)``.
    """
    if array.ndim != 2:
        raise InputError(f"{source}: the codes have shape {list(array.shape)}: give [items, bits]")
    if items is not None and array.shape[0] != items and array.shape[1] == items:
        array = np.ascontiguousarray(array.T)
    if array.dtype == np.uint8 and _is_packed(array, bits):
        whole = 8 * array.shape[1]
        length = bits or whole
        if (length + 7) // 8 != array.shape[1]:
            raise InputError(
                f"{source}: rows of {array.shape[1]} bytes are not codes of {bits} bits: check "
                "--bits"
            )
        # other programs fill the last byte from the other end; all eight bits then count, the idle
        # ones being equal
        spare = length % 8 and bool((array[:, -1] >> (length % 8)).any())
        return np.ascontiguousarray(array), whole if spare else length
    if bits is not None and array.shape[1] != bits:
        raise InputError(
            f"{source}: rows of {array.shape[1]} values are not codes of {bits} bits: check --bits"
        )
    if array.dtype.kind != "b":
        if not np.isfinite(array).all():
            raise InputError(
                f"{source}: the codes hold a value that is not finite: save them again"
            )
        if ((array == 0) | (array == 1)).all():
            array = array == 1
        elif array.dtype.kind in "iu" and not ((array == -1) | (array == 0) | (array == 1)).all():
            raise InputError(
                f"{source}: whole numbers that are neither 0/1 nor -1/+1 are no codes: check the "
                "array"
            )
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
    item has or lacks. One whole number an item is a class, where it has one axis, or one column
    that holds more than 0 and 1 in either array.

    Args:
        query: labels of the queries.
        database: labels of the database.
        queries: number of queries.
        items: number of database items.

    Raises:
        InputError: neither of the two, values that are not finite, or so many classes that their
            table would be larger than ``UDMSH_MAX_BYTES``.
    """
    named = {"query": _upright(query, queries), "database": _upright(database, items)}
    for name, array in named.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{name} labels hold a value that is not finite: mend them")
        if array.ndim not in (1, 2):
            raise InputError(f"{name} labels have shape {list(array.shape)}: give [items, labels]")
    classes = all(array.ndim == 1 or array.shape[1] == 1 for array in named.values()) and any(
        not _is_binary(array) or (array.ndim == 1 and array.dtype.kind != "b")
        for array in named.values()
    )
    if classes:
        query, database = (array.ravel() for array in named.values())
        return _one_hot(query, database)
    columns = {name: array[:, None] if array.ndim == 1 else array for name, array in named.items()}
    for name, array in columns.items():
        if not _is_binary(array):
            raise InputError(
                f"{name} labels have shape {list(array.shape)}: give a 0/1 matrix or one class an "
                "item"
            )
    return columns["query"] == 1, columns["database"] == 1


def _one_hot(query: Array, database: Array) -> tuple[Bools, Bools]:
    for name, array in (("query", query), ("database", database)):
        if array.dtype.kind == "f" and (array != np.floor(array)).any():
            raise InputError(f"{name} labels hold fractions: give whole numbers, one class an item")
    classes = np.unique(np.concatenate([query, database]))
    if len(classes) * (len(query) + len(database)) > limit("BYTES"):
        raise InputError(
            f"labels: {len(classes):,} classes of {len(query) + len(database):,} items take "
            f"{over('BYTES')}; or check that these are classes and not row numbers"
        )
    return query[:, None] == classes, database[:, None] == classes


def _is_binary(array: Array) -> bool:
    return bool(((array == 0) | (array == 1)).all())


def _upright(labels: Array, items: int) -> Array:
    """One axis, or [items, L] for a matrix, whichever way round it was saved."""
    turned = labels.ndim == 2 and labels.shape[0] != items and labels.shape[1] == items
    return labels.T if turned else labels


def _is_packed(array: Array, bits: int | None) -> bool:
    if bits is not None and array.shape[1] != bits:
        return bool(array.shape[1] == (bits + 7) // 8)
    return bool((array > 1).any())
