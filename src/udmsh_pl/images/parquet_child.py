"""Reads a Parquet manifest; its file runs alone, in a child process (:mod:`udmsh_pl.isolated`).

33 kB of Parquet can be gigabytes of rows, and no number in the file says so in advance.
"""

import json
from pathlib import Path
from typing import Any

from pyarrow import parquet, types

_ROWS = 256  # at a time
_MOST_CELL = 65_536  # bytes of a text, and values of a list; no name and no set of labels has more


class Refused(Exception):
    """The file can be read, but shall not be."""


def work(source: str, folder: str, columns: str, most: str, told: str) -> None:
    """Write the rows of ``source`` to ``rows.jsonl`` in ``folder``, as lists in the order of the
    columns; the names of all columns stand in its first line.

    Args:
        source: the ``.parquet`` file.
        folder: folder for ``rows.jsonl``.
        columns: names of the columns to read, lower case, as JSON.
        most: rows that it may have.
        told: what an error says of more.
    """
    file = parquet.ParquetFile(source, page_checksum_verification=True)
    if file.metadata.num_rows > int(most):
        raise Refused(told)
    names = list(file.schema_arrow.names)
    wanted = json.loads(columns)
    kept = [name for name in names if name.strip().lower() in wanted]
    rows = 0
    with (Path(folder) / "rows.jsonl").open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(names) + "\n")
        for batch in file.iter_batches(batch_size=_ROWS, columns=kept, use_threads=False):
            rows += batch.num_rows
            if rows > int(most):
                raise Refused(told)
            values = [_cells(batch.column(name), name) for name in kept]
            for row in zip(*values, strict=True):
                stream.write(json.dumps([_plain(one) for one in row]) + "\n")
            if not kept:
                break


def _cells(column: Any, name: str) -> list[Any]:
    nested = types.is_list(column.type) or types.is_large_list(column.type)
    flat = column.flatten() if nested else column
    if len(flat) > _MOST_CELL * (_ROWS if nested else 1) or flat.nbytes > _MOST_CELL * _ROWS:
        raise Refused(f"cells of column {name!r} are longer than {_MOST_CELL:,} bytes or values")
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
