"""Make sense of external arrays: which one holds codes or labels, how bits are written, which axis
is the items'.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bools, Bytes, pack_codes
from udmsh_pl.retrieval.io.code_files import Array, read_arrays

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
        if colon and not path.exists() and Path(head).exists():
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
                return int(array.reshape(())[()])
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
        array: [items, bits] or [bits, items]; booleans, 0/1, -1/+1, real values (by sign), or
            packed bytes, uint8
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
    return pack_codes(array), array.shape[1]


def external_labels(query: Array, database: Array, queries: int, items: int) -> tuple[Bools, Bools]:
    """Turn labels into bool [Q, L] and [N, L]: matrices of 0/1 as they are, one number an item as
    classes.
    """
    query, database = _upright(query, queries), _upright(database, items)
    if query.ndim == 1 and database.ndim == 1:
        classes = np.unique(np.concatenate([query, database]))
        return query[:, None] == classes, database[:, None] == classes
    for name, array in (("query", query), ("database", database)):
        if array.ndim != 2 or not ((array == 0) | (array == 1)).all():
            raise InputError(
                f"{name} labels have shape {list(array.shape)}: give a 0/1 matrix or one class an "
                "item"
            )
    return query == 1, database == 1


def _upright(labels: Array, items: int) -> Array:
    """One axis for class numbers, [items, L] for a matrix, whichever way round it was saved."""
    if labels.size == items:
        return labels.ravel()
    turned = labels.ndim == 2 and labels.shape[0] != items and labels.shape[1] == items
    return labels.T if turned else labels


def _is_packed(array: Array, bits: int | None) -> bool:
    if bits is not None and array.shape[1] != bits:
        return bool(array.shape[1] == (bits + 7) // 8)
    return bool((array > 1).any())
