"""The numbers that decide a :class:`BinaryIndex`, and their ranges.

FAISS checks none of them: 0 links abort, 1 segfaults, and flips below 0 never end.
"""

import math
import operator
from typing import Any

from udmsh_pl.errors import InputError

RANGES = {
    "bits": (1, 65_536),
    "lists": (1, 1 << 20),
    "probes": (1, 1 << 20),
    "links": (2, 512),
    "effort": (1, 100_000),
    "hashes": (1, 1024),
    "hash_bits": (1, 64),
    "flips": (0, 64),
    "k": (1, None),
    "radius": (0, None),
}  # least and most, both included
MOST_KEYS = 1 << 20  # that multihash may look up for one query


def whole(name: str, value: Any) -> int:
    """A whole number in the range of its name.

    Raises:
        InputError: not a whole number, or out of its range.
    """
    least, most = RANGES[name]
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} is {value!r}: give a whole number") from error
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        top = "" if most is None else f" and at most {most:,}"
        raise InputError(f"{name} is {value}: give a whole number, at least {least}{top}")
    return number


def multihash_sizes(bits: int, hashes: int, hash_bits: int | None, flips: int) -> tuple[int, int]:
    """Number of tables of a multihash index, and bits a table.

    Raises:
        InputError: the tables need more bits than a code has, or a query would look up too much.
    """
    tables = min(hashes, bits)
    size = hash_bits or min(16, bits // tables)
    if tables * size > bits:
        raise InputError(
            f"hash_bits is {size}: {tables} tables of {size} bits need codes of {tables * size}, "
            f"not {bits}; give fewer hashes or hash_bits"
        )
    keys = tables * sum(math.comb(size, count) for count in range(flips + 1))
    if flips > size or keys > MOST_KEYS:
        raise InputError(
            f"flips is {flips}: that makes {keys:,} keys of {size} bits a query; give at most "
            f"{size}, and so few that there are at most {MOST_KEYS:,} keys"
        )
    return tables, size
