"""Read codes and labels that other programs saved, without ever running what a file may hold.

NumPy files are read with ``allow_pickle=False``, PyTorch files with ``weights_only=True``; MATLAB
files and text hold data only. Whatever a damaged or hostile file makes a parser raise becomes an
``InputError`` that names the file.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError

Array = npt.NDArray[Any]
MOST_BYTES = (
    32 * 2**30
)  # a file that unpacks to more than this is refused: no benchmark of the field comes near it
_MATLAB_NUMBERS = {"double", "single", "logical", "sparse"} | {
    f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)
}
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
    if not path.is_file():
        raise InputError(f"{path} is not a file: check the path")
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


def _check_size(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise InputError(
            f"{path} unpacks to more than {MOST_BYTES >> 30} GiB: it is damaged, or not a code file"
        )


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        _check_size(path, sum(member.file_size for member in archive.infolist()))


def _read_npz(path: Path) -> dict[str, Array]:
    _check_archive(path)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> dict[str, Array]:
    # mapped: a header that promises more than the file holds is an error before anything is
    # allocated
    return {SINGLE: np.array(np.load(path, allow_pickle=False, mmap_mode="r"))}


def _read_pt(path: Path) -> dict[str, Array]:
    import torch

    if zipfile.is_zipfile(
        path
    ):  # else it is of the format before PyTorch 1.6, which is not compressed
        _check_archive(path)
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
    from scipy.io import loadmat, whosmat
    from scipy.sparse import issparse

    with path.open("rb") as stream:
        if b"MATLAB 7.3" in stream.read(128):
            raise InputError(f"{path} is a MATLAB 7.3 (HDF5) file: save it with -v7")
    # cells and structs hold others, without end in a hostile file, and the parser's stack would
    # overflow: left unread
    listed = [(name, shape) for name, shape, kind in whosmat(str(path)) if kind in _MATLAB_NUMBERS]
    _check_size(
        path, sum(8 * math.prod(shape) for _, shape in listed)
    )  # what compressed or sparse matrices come to
    names = [name for name, _ in listed if not name.startswith("__")]
    found = loadmat(str(path), variable_names=names) if names else {}
    values = {name: found[name] for name in names if name in found}
    return {name: value.toarray() if issparse(value) else value for name, value in values.items()}


def _read_text(path: Path) -> dict[str, Array]:
    rows: list[Array] = []
    with path.open(encoding="utf-8-sig") as stream:
        for number, row in _rows(path, stream):
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
