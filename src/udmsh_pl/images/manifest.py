"""Manifests: a table of images as CSV or Parquet, for those who keep their labels in one."""

import csv
from pathlib import Path

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList

Row = tuple[int, dict[str, str]]
_SPLITS = ("query", "train", "database")


def read_manifest(path: Path, root: Path) -> dict[str, ImageList]:
    """Read a manifest: one row an image.

    Columns: ``path`` (relative to ``root``, or absolute); ``labels`` (names of its labels, set
    apart by ``|``; may be empty; in Parquet also a list of strings); ``split`` (``query``,
    ``train`` or ``database``; ``train|database`` for both). Without ``labels`` the images have
    none, without ``split`` all are under ``all``. Other columns are not read.

    Args:
        path: ``.csv`` (UTF-8, with a header line) or ``.parquet`` (needs the extra
            ``udmsh-pl[app]``).
        root: folder that the paths are relative to.

    Returns:
        Images by split, rows in the order of the file; label columns are the sorted names over all
        splits. Without rows for ``train`` there is no such key (the database is then the train
        set).

    Raises:
        InputError: the file cannot be read, has no column ``path``, no rows, a row with an empty or
            repeated path, an unknown split, no database, or more or fewer fields than the header;
            the message gives file and row.
    """
    rows = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path)
    if not rows:
        raise InputError(
            f"{path}: no rows; expected a header with `path` (and `labels`, `split`) and one row "
            "an image"
        )
    columns = rows[0][1]
    if "path" not in columns:
        raise InputError(
            f"{path}: no column `path` among {', '.join(map(repr, columns))}; name the column of "
            "the image files so"
        )
    members: dict[str, list[int]] = {}
    seen: dict[str, int] = {}
    for position, (number, row) in enumerate(rows):
        if not row["path"]:
            raise InputError(
                f"{path}:{number}: empty path; give the image's path or remove the row"
            )
        if seen.setdefault(row["path"], number) != number:
            raise InputError(
                f"{path}:{number}: {row['path']!r} is already in row {seen[row['path']]}; remove "
                "one of them"
            )
        for split in row.get("split", "all").split("|"):
            if split.strip() not in (_SPLITS if "split" in columns else ("all",)):
                raise InputError(
                    f"{path}:{number}: split is {split!r}; expected {', '.join(_SPLITS)} or "
                    "train|database"
                )
            members.setdefault(split.strip(), []).append(position)
    if "split" in columns and "database" not in members:
        raise InputError(f"{path}: no row has split `database`; name the images to search in")
    labels = [
        {one.strip() for one in row.get("labels", "").split("|") if one.strip()} for _, row in rows
    ]
    names = sorted(set().union(*labels))
    table = np.asarray([[name in own for name in names] for own in labels], dtype=np.bool_).reshape(
        len(rows), len(names)
    )
    everything = ImageList([row["path"] for _, row in rows], table, root, source=str(path))
    return {
        split: everything.select(sorted(set(positions))) for split, positions in members.items()
    }


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [column.strip() for column in next(reader, [])]
            if len(set(header)) < len(header):
                raise InputError(
                    f"{path}:1: a column name stands twice in the header ({', '.join(header)})"
                )
            rows: list[Row] = []
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    raise InputError(
                        f"{path}:{reader.line_num}: expected {len(header)} fields as in the "
                        "header, "
                        f"found {len(fields)}; put fields that hold a comma in double quotes"
                    )
                values = [field.strip() for field in fields]
                rows.append((reader.line_num, dict(zip(header, values, strict=True))))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it with UTF-8"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot read this manifest ({error.strerror}); give a .csv or .parquet file"
        ) from error
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num}: not valid CSV ({error}); save it as comma-separated UTF-8"
        ) from error
    return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(
            f"{path}: Parquet needs the extra: pip install 'udmsh-pl[app]', or give a .csv"
        ) from error
    try:
        records = parquet.read_table(path).to_pylist()
    except (OSError, ArrowException) as error:
        raise InputError(
            f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})"
        ) from error
    return [
        (number, {name: _text(value) for name, value in row.items()})
        for number, row in enumerate(records, 1)
    ]


def _text(value: object) -> str:
    if value is None:
        return ""
    return "|".join(str(one) for one in value) if isinstance(value, list) else str(value).strip()
