"""What reads each kind of file, reduced to something that can be compared."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fuzz.commands import COMMANDS
from udmsh_pl.images.decode import decode
from udmsh_pl.images.list_file import read_list
from udmsh_pl.images.manifest import read_manifest
from udmsh_pl.images.usable import read_broken
from udmsh_pl.reports.table_rows import read_results
from udmsh_pl.retrieval.external import external_codes, read_arrays
from udmsh_pl.retrieval.index import BinaryIndex

Reader = Callable[[Path], str]
PICTURES = (".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".ppm", ".mpo", ".jp2", ".avif")
# every byte of data has a checksum; and .pt, if it is a zip
CHECKED = (".npz", ".ckpt", ".index", *(kind for kind, one in COMMANDS.items() if one.checked))
SLOW = (".mat", ".parquet", *COMMANDS)  # a process each, or seconds


def _arrays(path: Path) -> str:
    arrays = read_arrays(path)
    for array in arrays.values():
        if array.ndim == 2:
            external_codes(array, None, None, str(path))
    codes = arrays.get("codes")
    return "" if codes is None else hashlib.sha256(np.ascontiguousarray(codes).data).hexdigest()


def _list(path: Path) -> str:
    images = read_list(path, path.parent, labels="any")
    return images.fingerprint()


def _manifest(path: Path) -> str:
    return str(
        {split: images.lines() for split, images in read_manifest(path, path.parent).items()}
    )


def _index(path: Path) -> str:
    index = BinaryIndex.load(path)
    return f"{index.codes().tobytes()!r} {index.ids.tolist()}"


def _checkpoint(path: Path) -> str:
    """What ``torch.load`` gives behind the check: without it, a flipped bit is a weight."""
    import torch

    from udmsh_pl.runs.checkpoints import check_checkpoint

    check_checkpoint(path, [], "udmsh_pl.models.UDMSH")
    content = torch.load(path, map_location="cpu", weights_only=True)
    return hashlib.sha256(content["codes"].numpy().data).hexdigest()


READERS: dict[str, Reader] = {
    ".list": _list,
    ".csv": _manifest,
    ".parquet": _manifest,
    ".txt": _arrays,
    ".npz": _arrays,
    ".npy": _arrays,
    ".pt": _arrays,
    ".mat": _arrays,
    ".ckpt": _checkpoint,
    ".index": _index,
    ".results.csv": lambda path: str(read_results(path)),
    ".broken.json": lambda path: str(read_broken(path)),
    **dict.fromkeys(PICTURES, lambda path: str(decode(path).size)),
    **COMMANDS,
}
