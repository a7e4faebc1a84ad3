"""The file of a BinaryIndex: a JSON line that says what it is, the ids, FAISS's bytes, and a
checksum over all.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import atomic_path
from udmsh_pl.safe.untrusted import file_size, reason_of

MAGIC = b"udmsh-pl binary index 1\n"
HEAD_BYTES = 65_536  # no honest head is longer
KINDS = ("flat", "ivf", "hnsw", "multihash")


@dataclass(frozen=True)
class Head:
    """Code length, number of codes, kind of index, and the name of the encoder that made the
    codes.
    """

    bits: int
    count: int
    kind: str
    model_hash: str


def write(
    path: Path, head: Head, ids: npt.NDArray[np.int64], octets: npt.NDArray[np.uint8]
) -> None:
    """Write an index file, whole or not at all."""
    body = [np.ascontiguousarray(ids, dtype="<i8").tobytes(), octets.tobytes()]
    plain: dict[str, Any] = asdict(head) | {"bytes": len(body[1])}
    line = json.dumps(plain | {"sha256": _digest(plain, *body)}).encode() + b"\n"
    with atomic_path(path) as partial, partial.open("wb") as stream:
        for part in (MAGIC, line, *body):
            stream.write(part)


def read(path: Path) -> tuple[Head, npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Read an index file and check every byte before FAISS sees one.

    The checksum finds damage; it is no signature, so load only indexes from people you trust.

    Raises:
        InputError: no such file, no index file, cut short or altered.
    """
    try:
        file_size(path)  # no limit: it is as large as what its owner indexed
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read this index ({reason_of(error)})") from error
    damaged = InputError(f"{path} is cut short or altered: build the index anew, or copy it again")
    if not content.startswith(MAGIC):
        if MAGIC.startswith(content[: len(MAGIC)]):
            raise damaged
        raise InputError(
            f"{path} is not an index of udmsh-pl: give a file that BinaryIndex.save wrote"
        )
    end = content.find(b"\n", len(MAGIC), len(MAGIC) + HEAD_BYTES)
    try:
        if end < 0:
            raise damaged
        plain = json.loads(content[len(MAGIC) : end])
        given = plain.pop("sha256")
        head = Head(plain["bits"], plain["count"], plain["kind"], plain["model_hash"])
        if not all(type(plain[name]) is int for name in ("bits", "count", "bytes")):
            raise damaged
        split = end + 1 + 8 * head.count
        complete = len(content) == split + plain["bytes"] and head.kind in KINDS
        ids, octets = content[end + 1 : split], content[split:]
        complete = complete and given == _digest(plain, ids, octets)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged from error
    if not complete:
        raise damaged
    return (
        head,
        np.frombuffer(ids, dtype="<i8").astype(np.int64),
        np.frombuffer(octets, dtype=np.uint8).copy(),
    )


def _digest(plain: dict[str, Any], *body: bytes) -> str:
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for part in body:
        digest.update(part)
    return digest.hexdigest()
