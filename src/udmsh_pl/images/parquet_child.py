"""Reads a Parquet manifest, in a child process alone (:mod:`udmsh_pl.safe.child`).

33 kB of Parquet can be gigabytes of rows. What the file says of itself is checked first, and again
while it is read.
"""

import json
from pathlib import Path
from typing import Any

from pyarrow import parquet, types

from udmsh_pl.errors import InputError
from udmsh_pl.safe.untrusted import limit, over

_ROWS = 256  # at a time
_MOST_CELL = 65_536  # bytes of a text, and values of a list; no name and no set of labels has more


def read(source: str, folder: str, columns: list[str]) -> None:
    """Write the rows of ``source`` to ``rows.jsonl`` in ``folder``, as lists in the order of the
    columns that are read (names in lower case); its first line holds the names of all columns.

    Raises ``InputError``: more rows or bytes than the limits allow, or a cell is too long.
    """
    most, most_bytes = limit("ROWS"), limit("BYTES")
    file = parquet.ParquetFile(source, page_checksum_verification=True)
    if file.metadata.num_rows > most:
        raise InputError(over("ROWS"))
    names = list(file.schema_arrow.names)
    kept = [name for name in names if name.strip().lower() in columns]
    _check_metadata(file.metadata, kept)
    rows = size = 0
    with (Path(folder) / "rows.jsonl").open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(names) + "\n")
        for batch in file.iter_batches(batch_size=_ROWS, columns=kept, use_threads=False):
            rows += batch.num_rows
            if rows > most:
                raise InputError(over("ROWS"))
            values = [_cells(batch.column(name), name) for name in kept]
            for row in zip(*values, strict=True):
                size += stream.write(json.dumps([_plain(one) for one in row]) + "\n")
                if size > most_bytes:  # a dictionary writes a long text once for all rows
                    raise InputError(over("BYTES"))
            if not kept:
                break


def _check_metadata(facts: Any, kept: list[str]) -> None:
    """Refuse a file that says itself that it is too large, before anything is unpacked."""
    size = 0
    for group in map(facts.row_group, range(facts.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema
            if not any(name == one or name.startswith(f"{one}.") for one in kept):
                continue
            size += column.total_uncompressed_size
            if column.num_values > _MOST_CELL * max(1, group.num_rows):
                raise InputError(_too_long(name.partition(".")[0]))
    if size > limit("BYTES"):
        raise InputError(over("BYTES"))


def _too_long(name: str) -> str:
    return f"cells of column {name!r} are longer than {_MOST_CELL:,} bytes or values"


def _cells(column: Any, name: str) -> list[Any]:
    nested = types.is_list(column.type) or types.is_large_list(column.type)
    flat = column.flatten() if nested else column
    if len(flat) > _MOST_CELL * (_ROWS if nested else 1) or flat.nbytes > _MOST_CELL * _ROWS:
        raise InputError(_too_long(name))
    cells: list[Any] = column.to_pylist()
    return cells


def _plain(value: Any) -> str | list[str]:
    if value is None:
        return ""
    if isinstance(value, list):
        return [str(_plain(one)) for one in value if one is not None]
    text = str(value).strip()
    if len(text) > _MOST_CELL:  # a dictionary repeats what it stores once
        raise InputError(f"a cell is longer than {_MOST_CELL:,} characters")
    return text
