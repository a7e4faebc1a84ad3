"""Read codes and labels that other programs saved, without ever running what a file may hold.

NumPy files are read with ``allow_pickle=False``, PyTorch files with ``weights_only=True``; MATLAB
files in a child process, since their parser can crash. Where a format has checksums, all of them
are checked. Whatever a damaged or hostile file makes a parser raise becomes an ``InputError`` that
names the file. A file may unpack to ``UDMSH_MAX_BYTES`` (:mod:`udmsh_pl.safe.untrusted`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.safe.child import run_isolated
from udmsh_pl.safe.untrusted import check_archive, check_file, limit, over

Array = npt.NDArray[Any]
SINGLE = ""  # the name of a file's only array, where the format has no names


def read_arrays(path: Path) -> dict[str, Array]:
    """Read every numeric or boolean array of a file.

    Args:
        path: .npz, .npy, .pt / .pth, .mat (up to version 7.2), or text (.txt, .csv, .tsv, .dat)
            with one item a line

    Returns:
        Arrays by name; a file that names nothing gives one array named ``SINGLE``.

    Raises:
        InputError: no such file, an unknown extension, a damaged file, or nothing numeric in it.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path} has no known extension: give one of {', '.join(sorted(_READERS))}"
        )
    check_file(path, "file of codes")
    try:
        arrays = {
            name: array
            for name, array in reader(path).items()
            if array.dtype.kind in "biuf" and array.size
        }
    except InputError:
        raise
    except Exception as error:  # parsers of external bytes raise nearly every kind there is
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{path} cannot be read safely as {path.suffix[1:]} ({type(error).__name__}: "
            f"{reason}): "
            "save plain arrays again, without pickled objects"
        ) from error
    if not arrays:
        raise InputError(
            f"{path} holds no array of numbers: save the codes as a plain numeric array"
        )
    return arrays


def _read_npz(path: Path) -> dict[str, Array]:
    check_archive(path, limit("BYTES"))
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> dict[str, Array]:
    # mapped: a header that promises more than the file holds is an error before anything is
    # allocated
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
                raise InputError(
                    f"{path}: {name} is larger than what is stored of it: save it with "
                    ".contiguous()"
                )
            arrays[str(name)] = (
                plain.float() if plain.dtype in (torch.bfloat16, torch.float16) else plain
            ).numpy()
        elif isinstance(value, (bool, int, float)):
            arrays[str(name)] = np.array(value)
    return arrays


def _read_mat(path: Path) -> dict[str, Array]:
    with path.open("rb") as stream:
        if b"MATLAB 7.3" in stream.read(128):
            raise InputError(f"{path} is a MATLAB 7.3 (HDF5) file: save it with -v7")
    with tempfile.TemporaryDirectory(prefix="udmsh-") as folder:
        run_isolated("udmsh_pl.retrieval.io.mat_child", path, folder)
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
                raise InputError(
                    f"{path}:{number} has {len(row)} values, the first row {len(rows[0])}: mend "
                    "the line"
                )
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
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".mat": _read_mat,
    ".txt": _read_text,
    ".csv": _read_text,
    ".tsv": _read_text,
    ".dat": _read_text,
}
