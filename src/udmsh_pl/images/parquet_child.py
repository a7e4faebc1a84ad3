"""Reads a Parquet manifest; its file runs alone, in a child process (:mod:`udmsh_pl.safe.child`).

33 kB of Parquet can be gigabytes of rows. What the file says of itself is looked at first, and
whether that was true while it is read.
"""

import json
from pathlib import Path
from typing import Any

from pyarrow import parquet, types

_ROWS = 256  # at a time
_MOST_CELL = 65_536  # bytes of a text, and values of a list; no name and no set of labels has more


class Refused(Exception):
    """The file can be read, but shall not be."""


def work(source: str, folder: str, columns: str, limits: str) -> None:
    """Write the rows of ``source`` to ``rows.jsonl`` in ``folder``, as lists in the order of the
    columns; the names of all columns stand in its first line.

    Args:
        source: the ``.parquet`` file.
        folder: folder for ``rows.jsonl``.
        columns: names of the columns to read, lower case, as JSON.
        limits: most rows, and what an error says of more; then the same of bytes; as JSON.
    """
    most, over_rows, most_bytes, over_bytes = json.loads(limits)
    file = parquet.ParquetFile(source, page_checksum_verification=True)
    if file.metadata.num_rows > most:
        raise Refused(over_rows)
    names = list(file.schema_arrow.names)
    wanted = json.loads(columns)
    kept = [name for name in names if name.strip().lower() in wanted]
    _look_ahead(file.metadata, kept, most_bytes, over_bytes)
    rows = size = 0
    with (Path(folder) / "rows.jsonl").open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(names) + "\n")
        for batch in file.iter_batches(batch_size=_ROWS, columns=kept, use_threads=False):
            rows += batch.num_rows
            if rows > most:
                raise Refused(over_rows)
            values = [_cells(batch.column(name), name) for name in kept]
            for row in zip(*values, strict=True):
                size += stream.write(json.dumps([_plain(one) for one in row]) + "\n")
                if size > most_bytes:  # a dictionary writes a long text once for all rows
                    raise Refused(over_bytes)
            if not kept:
                break


def _look_ahead(facts: Any, kept: list[str], most_bytes: int, over_bytes: str) -> None:
    """Refuse what says itself that it is too large, before anything is unpacked."""
    size = 0
    for group in map(facts.row_group, range(facts.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema
            if not any(name == one or name.startswith(f"{one}.") for one in kept):
                continue
            size += column.total_uncompressed_size
            if column.num_values > _MOST_CELL * max(1, group.num_rows):
                raise Refused(_too_long(name.partition(".")[0]))
    if size > most_bytes:
        raise Refused(over_bytes)


def _too_long(name: str) -> str:
    return f"cells of column {name!r} are longer than {_MOST_CELL:,} bytes or values"


def _cells(column: Any, name: str) -> list[Any]:
    nested = types.is_list(column.type) or types.is_large_list(column.type)
    flat = column.flatten() if nested else column
    if len(flat) > _MOST_CELL * (_ROWS if nested else 1) or flat.nbytes > _MOST_CELL * _ROWS:
        raise Refused(_too_long(name))
    cells: list[Any] = column.to_pylist()
    return cells


def _plain(value: Any) -> str | list[str]:
    if value is None:
        return ""
    if isinstance(value, list):
        return [str(_plain(one)) for one in value if one is not None]
    text = str(value).strip()
    if len(text) > _MOST_CELL:  # a dictionary repeats what it stores once
        raise Refused(f"a cell is longer than {_MOST_CELL:,} characters")
    return text
