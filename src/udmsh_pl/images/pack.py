"""All images of a split in one file.

For spinning disks and network drives, where opening 100,000 files is the wait.

Layout, little-endian: ``UDMSHIMG``, key (32 bytes), N (uint64), N + 1 offsets (uint64), N CRC-32
(uint32), image bytes.
"""

import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture, decode
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.safe.files import atomic_path

Format = Literal["jpeg", "png"]
_MAGIC = b"UDMSHIMG"
_HEAD = len(_MAGIC) + 32 + 8


@dataclass(frozen=True, eq=False)
class PackedImages(ImageList):
    """An :class:`ImageList` in one memory-mapped file; made by :func:`pack_images`.

    Args:
        file: the file of all images.
        rows: int64 [N], place of each image in the file.
    """

    file: Path = Path()
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def path(self, row: int) -> Path:
        """The one file: what is kept under the state of the files knows them from the originals."""
        return self.file

    def content(self, row: int) -> bytes:
        """The bytes of one image in the file.

        Raises:
            InputError: the file was changed or damaged since it was written (each image has its
                CRC-32).
        """
        content, offsets, sums = self._mapped
        place = int(self.rows[row])
        data = content[int(offsets[place]) : int(offsets[place + 1])].tobytes()
        if zlib.crc32(data) != int(sums[place]):
            raise InputError(
                f"{self.file}: {self.names[row]} is damaged in this cache of images; delete the "
                "file"
            )
        return data

    def load(self, row: int) -> Image.Image:
        """Decode one image to RGB.

        Raises:
            UnreadablePicture: it could not be decoded when it was copied either.
            InputError: as :meth:`content`.
        """
        return decode(io.BytesIO(self.content(row)), self.upright)

    def select(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> "PackedImages":
        """The images of the given rows, in the given order, in the same file."""
        index = np.asarray(rows, dtype=np.int64)
        names = [self.names[row] for row in index.tolist()]
        return replace(self, names=names, labels=self.labels[index], rows=self.rows[index])

    @cached_property
    def _mapped(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint32]]:
        whole: NDArray[np.uint8] = np.memmap(self.file, np.uint8, mode="r")
        count = int(whole[_HEAD - 8 : _HEAD].view("<u8")[0])
        sums = _HEAD + 8 * (count + 1)
        return whole, whole[_HEAD:sums].view("<u8"), whole[sums : sums + 4 * count].view("<u4")

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes map the file themselves; pickling a map would copy all of it.
        return {name: value for name, value in self.__dict__.items() if name != "_mapped"}


def pack_images(
    images: ImageList,
    folder: Path,
    size: int | None = 256,
    image_format: Format = "jpeg",
    quality: int = 95,
    workers: int = 0,
) -> PackedImages:
    """Copy images, made smaller, into one file under ``folder``, or open the file if it is there.

    An image whose shorter side is at most ``size`` pixels is copied byte for byte, so that nothing
    is lost; a larger one is resized (bicubic, aspect kept) and encoded anew, which makes its codes
    differ a little from the original's. The file's name and key come from the names, sizes and
    times of change of the originals and from the arguments.

    Args:
        images: images on a disk.
        folder: folder of the file.
        size: length of the shorter side in pixels; None copies all byte for byte.
        image_format: ``jpeg``, or ``png`` for no loss beyond the resizing.
        quality: JPEG quality, 1 to 95.
        workers: processes that decode and encode.

    Raises:
        InputError: an image is absent, or the arguments are out of range; nothing is written then.
            One that cannot be decoded is copied as it is.
    """
    if (size is not None and size < 1) or not 1 <= quality <= 95:
        raise InputError(
            f"size {size} and quality {quality}: give a size of at least 1 and a quality from 1 to "
            "95"
        )
    key = _key(images, f"2 {size} {image_format} {quality} {images.upright}")
    file = folder.expanduser() / f"images-{key.hex()[:16]}.pack"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(
        file.with_suffix(".lock")
    ):  # a second process waits for the first instead of repeating it
        if not _is_whole(file, key, len(images)):
            _write(file, key, _Encoded(images, size, image_format, quality), workers)
    return PackedImages(
        images.names,
        images.labels,
        images.root,
        source=images.source,
        upright=images.upright,
        file=file,
        rows=np.arange(len(images)),
    )


def pack_splits(splits: Splits, folder: Path, size: int | None = 256, workers: int = 0) -> Splits:
    """The same splits with their images in one file each; images in memory are left as they are.

    A train split that lies in the database takes its images from the database's file. The
    fingerprint stays, since it is over names and labels.

    Args:
        splits: splits with images on a disk.
        folder: folder of the files.
        size: as in :func:`pack_images`.
        workers: processes that decode and encode.

    Raises:
        InputError: as :func:`pack_images`.
    """
    if splits.database.pixels is not None:
        return splits
    database = pack_images(splits.database, folder, size, workers=workers)
    rows = {name: row for row, name in enumerate(database.names)}
    if splits.train is splits.database:
        train = database
    elif (
        all(name in rows for name in splits.train.names)
        and splits.train.root == splits.database.root
    ):
        train = database.select([rows[name] for name in splits.train.names])
    else:
        train = pack_images(splits.train, folder, size, workers=workers)
    query = (
        None if splits.query is None else pack_images(splits.query, folder, size, workers=workers)
    )
    return replace(splits, query=query, train=train, database=database)


class _Encoded(Dataset[bytes | str]):
    """The bytes of each image as they go into the file, or the message on one that cannot be read.

    An exception would come out of a worker process with a stack trace in its message.
    """

    def __init__(
        self, images: ImageList, size: int | None, image_format: Format, quality: int
    ) -> None:
        self.images, self.size, self.image_format, self.quality = (
            images,
            size,
            image_format,
            quality,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> bytes | str:
        try:
            image = self.images.load(row)
        except UnreadablePicture as error:
            # what is broken for good stays so in the copy: who decodes it leaves it out and tells
            return _within_limit(self.images, row) if error.lasting else str(error)
        except InputError as error:
            return str(error)
        shorter = min(image.size)
        if self.size is None or shorter <= self.size:
            return self.images.path(row).read_bytes()
        width, height = (max(1, round(side * self.size / shorter)) for side in image.size)
        stream = io.BytesIO()
        image.resize((width, height), Image.Resampling.BICUBIC).save(
            stream, self.image_format, quality=self.quality
        )
        return stream.getvalue()


def _within_limit(images: ImageList, row: int) -> bytes:
    try:
        return images.content(row)
    except InputError:
        return b""


def _write(file: Path, key: bytes, encoded: _Encoded, workers: int) -> None:
    count = len(encoded)
    offsets, sums = np.zeros(count + 1, "<u8"), np.zeros(count, "<u4")
    offsets[0] = _HEAD + offsets.nbytes + sums.nbytes
    loader = DataLoader(encoded, 16, num_workers=workers, collate_fn=list)
    with (
        atomic_path(file) as partial,
        partial.open("wb") as stream,
        tqdm(total=count, unit="img", desc="pack") as bar,
    ):
        stream.seek(int(offsets[0]))
        row = 0
        for batch in loader:
            for data in batch:
                if isinstance(data, str):
                    raise InputError(data)
                stream.write(data)
                offsets[row + 1], sums[row] = int(offsets[row]) + len(data), zlib.crc32(data)
                row += 1
            bar.update(len(batch))
        stream.seek(0)
        stream.write(
            _MAGIC + key + np.asarray(count, "<u8").tobytes() + offsets.tobytes() + sums.tobytes()
        )


def _is_whole(file: Path, key: bytes, count: int) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
        stream.seek(_HEAD + 8 * count)
        end = stream.read(8)
    expected = _MAGIC + key + np.asarray(count, "<u8").tobytes()
    return (
        head == expected
        and len(end) == 8
        and int(np.frombuffer(end, "<u8")[0]) == file.stat().st_size
    )


def _key(images: ImageList, settings: str) -> bytes:
    digest = hashlib.sha256(settings.encode())
    for row, name in enumerate(images.names):
        try:
            facts = images.path(row).stat()
        except OSError:
            images.load(row)  # raises the error that names the list line and the mend
            raise
        # the time of change too: a copy may keep size and time of writing, but no user sets this
        state = f"\n{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} "
        digest.update(state.encode() + name.encode("utf-8", "surrogateescape"))
    return digest.digest()
