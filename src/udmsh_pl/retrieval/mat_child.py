"""Reads a MATLAB file, in a child process alone (:mod:`udmsh_pl.safe.child`).

SciPy's parser writes outside its memory on some damaged files, so it shares none with us.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.sparse import issparse

from udmsh_pl.errors import InputError
from udmsh_pl.safe.untrusted import limit, over

NUMBERS = {"double", "single", "logical", "sparse"} | {
    f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)
}


def read(source: str, folder: str) -> None:
    """Write the numeric arrays of ``source`` to ``arrays.npz`` in ``folder``, as arr_0, arr_1, ...,
    and their names to ``names.json``.

    Cells and structs hold others, without end in a hostile file, and the parser's stack would
    overflow: they are left unread.

    Raises ``InputError``: all arrays together, as dense float64, are above the limit on bytes, or a
    sparse one is damaged.
    """
    most, too_large = limit("BYTES"), f"unpacks to {over('BYTES')}"
    listed = [(name, shape) for name, shape, kind in whosmat(source) if kind in NUMBERS]
    if sum(8 * math.prod(shape) for _, shape in listed) > most:
        raise InputError(too_large)
    names = [name for name, _ in listed if not name.startswith("__")]
    found = loadmat(source, variable_names=names) if names else {}
    names = [name for name in names if name in found]
    arrays = [_dense(found[name], name) for name in names]
    if sum(array.nbytes for array in arrays) > most:
        raise InputError(too_large)
    named = zip(names, arrays, strict=True)
    kept = [(name, one) for name, one in named if one.dtype.kind in "biuf" and one.size]
    np.savez(Path(folder) / "arrays.npz", *[array for _, array in kept])
    (Path(folder) / "names.json").write_text(json.dumps([name for name, _ in kept]))


def _dense(value: Any, name: str) -> np.ndarray[Any, Any]:
    if not issparse(value):
        return np.asarray(value)
    try:
        value.check_format(full_check=True)  # indices in range, pointers that only rise
    except ValueError as error:
        raise InputError(f"the sparse matrix {name!r} is damaged ({error})") from error
    dense: np.ndarray[Any, Any] = value.toarray()
    return dense
