"""Manifests: a table of images as CSV or Parquet, for those who keep their labels in one."""

import codecs
import csv
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.folder import check_table
from udmsh_pl.images.image_list import SPLITS, ImageList, inside
from udmsh_pl.safe.child import run_isolated
from udmsh_pl.safe.untrusted import check_file, limit, over

_log = logging.getLogger(__name__)
_COLUMNS = {"path": "path", "labels": "labels", "label": "labels", "split": "split"}
_LIKE_LABELS = re.compile(r"(label|lable|class|categor|tag|target|concept|keyword|annotation)s?")
_SEPARATORS = re.compile(r"[|;,]")
_MOST_LINE = 1 << 20  # characters


Cells = dict[str, str | list[str]]  # of a row, by column


def read_manifest(path: Path, root: Path, allow_outside: bool = False) -> dict[str, ImageList]:
    """Read a manifest: one row an image.

    Columns, in any letter case:

    - ``path``: relative to ``root``, or absolute and below it;
    - ``labels`` or ``label``: names of its labels, set apart by ``|``, ``;`` or ``,`` (in CSV a
      cell with commas stands in double quotes); may be empty; in Parquet also a list of strings,
      each of which is one label as it is;
    - ``split``: ``query``, ``train`` or ``database``; ``train|database`` for both.

    Without labels the images have none, without ``split`` all are under ``all``. Other columns are
    not read, and a warning names them; where there are no labels but a column looks like them
    (``Classes``, ``tag``), that is an error.

    Args:
        path: ``.csv`` (UTF-8, or UTF-16 that says so, with a header line; the header shows whether
            ``,``, ``;`` or a tab sets cells apart) or ``.parquet`` (extra ``udmsh-pl[app]``)
        root: folder that the paths are relative to
        allow_outside: let paths pass that lead out of ``root``

    Returns:
        Images by split, rows in the order of the file; label columns are the sorted names over all
        splits. Without rows for ``train`` there is no such key (the database is then the train
        set).

    Raises ``InputError``: the file cannot be read or is too large (``UDMSH_MAX_BYTES``,
    ``UDMSH_MAX_ROWS``), has no column ``path``, no rows, a row with an empty or repeated path or
    one that leads out of ``root``, an unknown split, no database, or more or fewer fields than the
    header; the message gives file and row.
    """
    check_file(path, "manifest")
    names: dict[str, int] = {}  # and their rows
    labels: list[set[str]] = []
    members: dict[str, list[int]] = {}
    parquet = path.suffix.lower() in (".parquet", ".pq")
    for number, cells in _parquet_rows(path) if parquet else _csv_rows(path):
        where = f"{path}:{number}"
        if len(names) >= limit("ROWS"):
            raise InputError(f"{where}: {over('ROWS')}")
        file, splits = cells["path"], cells.get("split", "all")
        if isinstance(file, list) or isinstance(splits, list):
            raise InputError(f"{where}: a list where text belongs; only `labels` may be one")
        if not file.strip():
            raise InputError(f"{where}: empty path; give the image's path or remove the row")
        name = inside(file.strip(), root, allow_outside, where)
        if (first := names.setdefault(name, number)) != number:
            raise InputError(f"{where}: {file!r} is already in row {first}; remove one of them")
        for split in _SEPARATORS.split(splits):
            if split.strip() not in (SPLITS if "split" in cells else ("all",)):
                raise InputError(
                    f"{where}: split is {split!r}; expected {', '.join(SPLITS)} or train|database"
                )
            members.setdefault(split.strip(), []).append(len(labels))
        own = cells.get("labels", "")
        parts = _SEPARATORS.split(own) if isinstance(own, str) else own
        labels.append({part.strip() for part in parts if part.strip()})
    if not names:
        mend = "expected a header with `path` (and `labels`, `split`) and one row an image"
        raise InputError(f"{path}: no rows; {mend}")
    if "database" not in members and "all" not in members:
        raise InputError(f"{path}: no row has split `database`; name the images to search in")
    places = {name: place for place, name in enumerate(sorted(set().union(*labels)))}
    check_table(len(names), len(places), str(path), "give fewer labels")
    carried = np.zeros((len(names), len(places)), dtype=np.bool_)
    for row, given in enumerate(labels):
        carried[row, [places[name] for name in given]] = True
    everything = ImageList(list(names), carried, root, source=str(path))
    return {split: everything.select(sorted(set(rows))) for split, rows in members.items()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))[:200]


def _places(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Which of the header's columns holds what; refuses a header that would lose something."""
    columns = [_COLUMNS.get(title.strip().lower()) for title in header]
    places = {column: place for place, column in enumerate(columns) if column}
    others = [title.strip() for title, column in zip(header, columns, strict=True) if not column]
    if len(places) + len(set(others)) < len(header):
        raise InputError(f"{path}:1: a column name stands twice in the header ({_listed(header)})")
    if "path" not in places:
        mend = "give the column of the image files that name"
        raise InputError(f"{path}: no column `path` among {_listed(header)}; {mend}")
    like = [title for title in others if _LIKE_LABELS.fullmatch(title.lower())]
    if like and "labels" not in places:
        mend = "name the column of the labels `labels`, or remove it"
        raise InputError(f"{path}: no column `labels`, but {_listed(like)}; {mend}")
    if others:
        _log.warning("%s: columns that are not read: %s", path, _listed(others))
    return places


def _csv_rows(path: Path) -> Iterator[tuple[int, Cells]]:
    """Number and cells of each row."""
    try:
        with path.open("rb") as binary:
            utf16 = binary.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        with path.open(encoding="utf-16" if utf16 else "utf-8-sig", newline="") as stream:
            titles = stream.readline(_MOST_LINE).lower()
            cells = {one: [cell.strip().strip('"') for cell in titles.split(one)] for one in ",;\t"}
            delimiter = next((one for one, own in cells.items() if "path" in own), ",")
            stream.seek(0)
            reader = csv.reader(_lines(path, stream), strict=True, delimiter=delimiter)
            header = next(reader, [])
            if not header:
                return
            places = _places(path, header)
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    raise InputError(
                        f"{path}:{reader.line_num}: expected {len(header)} fields as in the "
                        f"header, found {len(fields)}; put fields that hold {delimiter!r} in "
                        "double quotes"
                    )
                yield reader.line_num, {column: fields[at] for column, at in places.items()}
    except UnicodeError as error:
        where = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        reason = getattr(error, "reason", error)
        raise InputError(f"{path}: not UTF-8 ({reason}{where}); save it with UTF-8") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot read this manifest ({error.strerror}); give a .csv or .parquet file"
        ) from error
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num}: not valid CSV ({error}); save it as comma-separated UTF-8"
        ) from error


def _lines(path: Path, stream: IO[str]) -> Iterator[str]:
    number = 0
    while line := stream.readline(_MOST_LINE + 1):
        number += 1
        if len(line) > _MOST_LINE:
            raise InputError(f"{path}:{number}: a line of over {_MOST_LINE:,} characters; mend it")
        yield line


def _parquet_rows(path: Path) -> Iterator[tuple[int, Cells]]:
    """Number and cells of each row."""
    if find_spec("pyarrow") is None:
        raise InputError(f"{path}: Parquet needs pip install 'udmsh-pl[app]'; or give a .csv")
    with tempfile.TemporaryDirectory(prefix="udmsh-") as folder:
        run_isolated("udmsh_pl.images.parquet_child", path, folder, sorted(_COLUMNS))
        answer = Path(folder) / "rows.jsonl"
        check_file(answer, "manifest")
        with answer.open(encoding="utf-8") as stream:
            places = _places(path, json.loads(next(stream)))
            kept = sorted(places, key=lambda column: places[column])
            for number, line in enumerate(stream, 1):
                yield number, dict(zip(kept, json.loads(line), strict=True))
