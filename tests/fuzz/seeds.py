"""Whole files of each kind, a few for each, to be damaged; and objects that would run code."""

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

CODES = np.where(np.random.default_rng(0).random((6, 16)) < 0.5, -1, 1).astype(np.int8)
PIXELS = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
Seeds = dict[str, list[bytes]]  # by file ending


class Runs:
    """An object whose unpickling makes a folder: if that is there, code has run."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (self.trace,)


def all_seeds(trace: Path) -> Seeds:
    """Files by kind; some hold a pickle that makes the folder ``trace``."""
    return {**_text(), **_arrays(trace), **_manifests(), **_pictures(), **_stores()}


def _text() -> Seeds:
    lists = b"a/1.jpg 0 1\nb c.jpg 1 0\n\xc3\xa9.jpg 1 1\n", b"x.jpg\t0  1\r\n./y.jpg 1 0\r\n"
    return {
        ".list": [*lists, "\ufeffa.jpg 0 1\n".encode()],
        ".csv": [
            b'path,labels,split\n"a, b.jpg",sea|sky,query\nc.jpg,"sea, sky",database\n',
            b"Path,label\na.jpg,x\nb.jpg,\n",
        ],
        ".txt": [b"0110\n1001\n", b"# codes\n-1 1 1\n1, -1; 1\n", b"0.5 -1e3\n-0.25 2\n"],
        ".broken.json": [json.dumps({"a.jpg": "cut", "b.jpg": "empty"}).encode()],
    }


def _arrays(trace: Path) -> Seeds:
    from scipy import io as scipy_io
    from scipy import sparse

    npz, packed, npy, fortran, pt, old = (io.BytesIO() for _ in range(6))
    np.savez(npz, codes=CODES, labels=CODES > 0)
    np.savez_compressed(packed, codes=CODES, bits=16)
    np.save(npy, CODES)
    np.save(fortran, np.asfortranarray(CODES.astype(np.float32)))
    torch.save({"codes": torch.from_numpy(CODES), "bits": 16}, pt)
    checkpoint = io.BytesIO()
    settings = {"bits": 16, "_class_path": "udmsh_pl.models.UDMSH"}
    torch.save({"codes": torch.from_numpy(CODES), "hyper_parameters": settings}, checkpoint)
    torch.save({"codes": torch.from_numpy(CODES)}, old, _use_new_zipfile_serialization=False)
    evil_pt, evil_npy = io.BytesIO(), io.BytesIO()
    torch.save({"codes": Runs(trace)}, evil_pt)
    np.save(evil_npy, np.array([Runs(trace)], dtype=object))
    mats = []
    for packing in (False, True):
        mats.append(io.BytesIO())
        arrays = {"codes": CODES, "labels": sparse.csc_matrix((CODES > 0) * 1.0), "text": "abc"}
        scipy_io.savemat(mats[-1], arrays, do_compression=packing)
    return {
        ".npz": [npz.getvalue(), packed.getvalue()],
        ".npy": [npy.getvalue(), fortran.getvalue(), evil_npy.getvalue()],
        ".pt": [pt.getvalue(), old.getvalue(), evil_pt.getvalue(), pickle.dumps(Runs(trace))],
        ".ckpt": [checkpoint.getvalue()],
        ".mat": [one.getvalue() for one in mats],
    }


def _manifests() -> Seeds:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return {}
    columns = {"path": ["a.jpg", "b.jpg"], "labels": [["sea", "sky"], []], "split": ["query"] * 2}
    columns["split"][1] = "database"
    found = []
    for compression in ("none", "snappy"):
        stream = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), stream, compression=compression)
        found.append(stream.getvalue())
    return {".parquet": found}


def _pictures() -> Seeds:
    image, grey = Image.fromarray(PIXELS), Image.fromarray(PIXELS[:, :, 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) << 8)
    found = {
        ".jpg": [
            _saved(image, "JPEG", exif=exif.tobytes()),
            _saved(image, "JPEG", progressive=True),
            _saved(image.convert("CMYK"), "JPEG"),
        ],
        ".png": [
            _saved(image, "PNG", exif=exif.tobytes()),
            _saved(image.convert("P"), "PNG", transparency=3),
            _saved(deep, "PNG"),
            _saved(image.convert("RGBA"), "PNG"),
        ],
        ".webp": [_saved(image, "WEBP"), _saved(image, "WEBP", lossless=True)],
        ".gif": [_saved(image, "GIF"), _saved(grey, "GIF", save_all=True, append_images=[grey])],
        ".bmp": [_saved(image, "BMP"), _saved(image.convert("P"), "BMP")],
        ".tif": [
            _saved(image, "TIFF"),
            _saved(image, "TIFF", compression="tiff_lzw"),
            _saved(image, "TIFF", compression="jpeg"),
            _saved(Image.fromarray(PIXELS[:, :, 0] / np.float32(255)), "TIFF"),
        ],
        ".ppm": [_saved(image, "PPM"), b"P5 2 1 65535\n\x00\x01\xff\xff", b"P3 1 1 255 1 2 3 "],
        ".mpo": [_saved(image, "MPO", save_all=True, append_images=[image])],
    }
    if features.check("jpg_2000"):
        found[".jp2"] = [_saved(image, "JPEG2000")]
    if features.check("avif"):
        found[".avif"] = [_saved(image, "AVIF")]
    return found


def _stores() -> Seeds:
    """An index file and a table of results."""
    from udmsh_pl.reports.table_rows import COLUMNS
    from udmsh_pl.retrieval import BinaryIndex, pack_codes
    from udmsh_pl.retrieval.index import MAGIC

    index = BinaryIndex(16)
    index.add(pack_codes(CODES))
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        index.save(Path(folder) / "a.index", model_hash="one")
        content = (Path(folder) / "a.index").read_bytes()
    assert content.startswith(MAGIC)
    row = "toy,p,ab,itq,net,16,0,map,all,expected,retrieved,0.5,0.4,0.6,1,1,1,0"
    table = f"{','.join(COLUMNS)}\n{row}\n{row.replace('all', '10')}\n"
    return {".index": [content], ".results.csv": [table.encode()]}


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(stream, kind, **options)
    return stream.getvalue()


def whole_archive(content: bytes) -> bool:
    """Whether a seed is a zip file, whose every byte of data has a checksum."""
    return zipfile.is_zipfile(io.BytesIO(content))
